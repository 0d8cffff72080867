# SPDX-License-Identifier: Apache-2.0
"""The names by which this system's own files refer to its disks: disks that it starts from or mounts are never written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

OURS: Final = "belongs to this system: it starts from it, or mounts it"
"""The text about such a disk."""
_FILES: Final = ("proc/cmdline", "etc/fstab", "etc/crypttab")
_ID: Final = re.compile(r"[A-Za-z0-9-]{4,}")
_ANY_DISK: Final = frozenset({"/dev/cdrom", "/dev/usbdisk"})
"""mdev's names for the last disk that was plugged in: every Alpine has them in its fstab, and they mean no certain disk."""
_LABEL: Final = re.compile(r"\b(?:PART)?LABEL=\"?([^\"\s]+)")


@dataclass(frozen=True, slots=True)
class Names:
    """Words that may be IDs of disks, labels, and paths."""

    ids: frozenset[str]
    labels: frozenset[str]
    paths: frozenset[str]

    def have(self, ids: Iterable[str], labels: Iterable[str] = (), paths: Iterable[str] = ()) -> bool:
        """Tell whether a disk with these is one of the system's."""
        known = self.ids.intersection(one.lower() for one in ids)
        return bool(known or self.labels.intersection(labels) or self.paths.intersection(paths))


def names(root: Path = Path("/")) -> Names:
    """Return the names in the files of the system below `root`."""
    text = " ".join(_text(root / name) for name in _FILES)
    labels = frozenset(_LABEL.findall(text))
    text = text.replace("=", " ").replace('"', " ")
    words = {*text.split(), *text.replace(":", " ").split()}  # names in /dev/disk/by-path have colons
    ids = frozenset(word.lower() for word in words if _ID.fullmatch(word))
    paths = [word for word in words if word.startswith("/dev/") and word not in _ANY_DISK]
    # Follow links: /dev/disk/by-id/... is a disk, too.
    return Names(ids, labels, frozenset([*paths, *map(os.path.realpath, paths)]))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
