# SPDX-License-Identifier: Apache-2.0
"""Which files of a root are the administrator's: etc/apk/protected_paths.d and apk's own rules.

`-path` protects nothing below. The others protect what was changed from being overwritten, and say what a backup takes:
`+path` what was changed, `@path` only symbolic links of that, `!path` everything.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.apk.package import checksum_of
from pipeline.lab.apktool.rootfs import RootFs

_RULES = (("etc", "+"), ("etc/init.d", "@"), ("etc/apk", "!"))
_CHUNK = 1 << 18


class Protection:
    """The rules of one root."""

    def __init__(self, fs: RootFs) -> None:
        self._rules = dict(_RULES)
        folder = fs.folder("etc/apk/protected_paths.d")
        for path in sorted(folder.glob("*.list")) if folder.is_dir() else ():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line[:1] in ("-", "+", "@", "!"):
                    self._rules[line[1:].strip().strip("/")] = line[0]

    def mode(self, path: str) -> str:
        """The rule of the nearest folder above a path; `-` where there is none."""
        folder = path.rpartition("/")[0]
        while folder:
            if folder in self._rules:
                return self._rules[folder]
            folder = folder.rpartition("/")[0]
        return self._rules.get("", "-")

    def file_mode(self, path: str) -> str:
        """The rule for one file: its own, or that of the nearest folder above."""
        return self._rules.get(path) or self.mode(path)

    def tops(self) -> list[str]:
        """The paths with a rule of their own that no other protected path holds, sorted."""
        own = [path for path, rule in self._rules.items() if path and rule != "-"]
        return sorted(path for path in own if not any(path.startswith(f"{other}/") for other in own))

    def leads(self, folder: str) -> bool:
        """Whether rules about paths below the folder make it worth a look, whoever owns it."""
        return any(path.startswith(f"{folder}/") for path in self._rules)

    def changed(self, path: str, place: Path, recorded: str) -> bool:
        """Whether a protected file is no longer what its package laid."""
        if self.file_mode(path) == "-":
            return False
        return place_checksum(place) not in ("", recorded)

    def keeps(self, path: str, place: Path, recorded: str, new: str) -> bool:
        """Whether the file in place must stay, so that a new one goes beside it."""
        return self.changed(path, place, recorded) and place_checksum(place) != new


def place_checksum(place: Path) -> str:
    """The checksum of a file or link as the installed database has it; empty when there is none."""
    try:
        if place.is_symlink():
            return checksum_of(hashlib.sha1(str(place.readlink()).encode(), usedforsecurity=False).digest())
        with place.open("rb") as stream:
            return checksum_of(hashlib.file_digest(stream, "sha1").digest())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
