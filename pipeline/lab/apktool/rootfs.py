# SPDX-License-Identifier: Apache-2.0
"""Paths inside a root file system: every look-up stays below the root, whatever links the root holds.

A link `/var/run -> /run` of the root means the root's own /run, never the machine's, as it does for a program that
runs inside it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_LINKS = 40


class RootFs:
    """A root file system and the folders of it that were looked up already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folders: dict[str, Path] = {"": path}
        self._made: set[str] = set()

    def folder(self, name: str) -> Path:
        """The real place of a folder of the root, links followed inside the root; it need not exist."""
        known = self._folders.get(name)
        if known is None:
            known = self._resolve(name)
            self._folders[name] = known
        return known

    def place(self, name: str) -> Path:
        """The real place of a file of the root: its folder's links are followed, itself is not."""
        parent, _, last = name.rpartition("/")
        return self.folder(parent) / last

    def forget(self) -> None:
        """Links may have changed: look everything up anew."""
        self._folders = {"": self.path}
        self._made = set()

    def read(self, name: str) -> str:
        """The text of a file of the root, empty when there is none."""
        try:
            return self.place(name).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def write(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file of the root whole or not at all."""
        folder = self.make_folder(name.rpartition("/")[0])
        last = name.rpartition("/")[2]
        new = folder / f"{last}.new"
        with new.open("wb") as out:
            os.fchmod(out.fileno(), mode)
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        new.replace(folder / last)

    def make_folder(self, name: str, mode: int = 0o755) -> Path:
        """The real place of a folder of the root, made with its parents where it is missing."""
        if name in self._made:
            return self._folders[name]
        self._folders.pop(name, None)
        place = self.folder(name)
        self._made.add(name)
        if not place.is_dir():
            missing = [place]
            while not missing[-1].parent.is_dir():
                missing.append(missing[-1].parent)
            for part in reversed(missing):
                part.mkdir()
                part.chmod(mode if part == place else 0o755)
        return place

    def _resolve(self, name: str) -> Path:
        todo = [part for part in reversed(name.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = self.path.joinpath(*done, part)
            try:
                is_link = stat.S_ISLNK(here.lstat().st_mode)
            except (FileNotFoundError, NotADirectoryError):
                is_link = False
            if not is_link:
                done.append(part)
                continue
            links += 1
            if links > _LINKS:
                raise OSError(40, "Too many levels of symbolic links", name)
            target = os.readlink(here)  # noqa: PTH115  # a Path would lose nothing, but costs a parse
            if target.startswith("/"):
                done = []
            todo += [step for step in reversed(target.split("/")) if step not in ("", ".")]
        return self.path.joinpath(*done)
