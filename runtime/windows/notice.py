# SPDX-License-Identifier: Apache-2.0
"""A message in a window, for what was started from a menu and has no terminal: `python3 -m tower.windows.notice TITLE TEXT`."""

from __future__ import annotations

import sys

import gi

gi.require_version("Gtk", "3.0")
from gi.repository import Gtk  # noqa: E402  (its version comes first)


def main(title: str, text: str) -> int:
    """Show the text, which is not markup, until it is closed; return the exit status."""
    if not Gtk.init_check(None)[0]:
        return 1
    dialog = Gtk.MessageDialog(message_type=Gtk.MessageType.ERROR, buttons=Gtk.ButtonsType.CLOSE, text=text, title=title)
    dialog.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
