# SPDX-License-Identifier: Apache-2.0
"""How many milliseconds this desktop takes to paint a picture: `python3 -m tower.windows.painting WIDTH HEIGHT`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Final

import gi

gi.require_version("Gtk", "3.0")
from gi.repository import GdkPixbuf, GLib, Gtk  # noqa: E402  (its version comes first)

_PICTURES: Final = 12


def main(words: Sequence[str]) -> int:
    """Paint new pictures in a window, as a viewer does; return 3 if there is no display."""
    width, height = map(int, words)
    if not Gtk.init_check(None)[0]:
        return 3
    times: list[float] = []
    window = Gtk.Window(title="tower doctor gui", default_width=width, default_height=height)
    image = Gtk.Image()
    window.add(image)
    window.show_all()

    def paint() -> bool:
        begins = time.monotonic()
        pixels = GLib.Bytes.new(bytes([len(times) * 20]) * (3 * width * height))
        image.set_from_pixbuf(
            GdkPixbuf.Pixbuf.new_from_bytes(pixels, GdkPixbuf.Colorspace.RGB, False, 8, width, height, 3 * width)
        )
        window.get_window().process_all_updates()
        window.get_display().sync()
        times.append((time.monotonic() - begins) * 1000)
        if len(times) == _PICTURES:
            Gtk.main_quit()
        return len(times) < _PICTURES

    GLib.timeout_add(100, paint)
    Gtk.main()
    sys.stdout.write(f"{statistics.median(times):.1f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
