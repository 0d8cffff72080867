# SPDX-License-Identifier: Apache-2.0
"""The menu entry of an application of a host, by which the desktop knows its windows and finds their icon."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final, NamedTuple

from gi.repository import GLib

_GROUP: Final = "Desktop Entry"


class Known(NamedTuple):
    """What the desktop knows an application as, and the file of its icon."""

    id: str
    icon: str


def known(host: str, program: str) -> Known | None:
    """Return what `tower menu` made for a program of a host; None if it has no entry.

    Only files that say that they are of this host count, and of several, the one with the shortest command: others open a part
    of the application. Their icons are PNG files that `tower` has drawn.
    """
    folder = Path(GLib.get_user_data_dir()) / "applications"
    found: dict[Known, int] = {}
    for path in sorted(folder.glob(f"tower-{host}.*.desktop")):
        file = GLib.KeyFile()
        try:
            file.load_from_file(os.fspath(path), GLib.KeyFileFlags.NONE)
            words = shlex.split(file.get_string(_GROUP, "Exec"))
            if file.get_string(_GROUP, "X-Tower-Host") != host:
                continue
            icon = file.get_string(_GROUP, "Icon")
        except (GLib.Error, ValueError):
            continue  # somebody else's
        if "--" in words[:-1] and words[words.index("--") + 1] == program:
            found[Known(path.stem, icon)] = len(words)
    return min(found, key=lambda one: found[one], default=None)
