# SPDX-License-Identifier: Apache-2.0
"""A root tree seen as the device will see it: its links lead to places inside it."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

MAX_LINKS = 40


class RootTree:
    """Looks up paths of the device in the folder that holds its root."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).resolve()

    def host(self, path: str) -> Path:
        """Where `path` of the device is on this machine."""
        return self.path / path.lstrip("/")

    def resolve(self, path: str) -> tuple[str, list[str]]:
        """The path without links in it, and the links that were followed on the way."""
        followed: list[str] = []
        done: list[str] = []
        todo = _parts(path)
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, part])
            if not self.host(here).is_symlink():
                done.append(part)
                continue
            followed.append(here)
            if len(followed) > MAX_LINKS:
                raise SystemExit(f"mkinitfs: /{path}: too many links")
            target = str(self.host(here).readlink())
            if target.startswith("/"):
                done = []
            todo += _parts(target)
        return "/".join(done), followed

    def match(self, pattern: str) -> Iterator[str]:
        """Files that `pattern` names, folders walked; paths of the device, sorted."""
        parent, _, name = pattern.strip("/").rpartition("/")
        for folder in self.folders(parent):
            for found in self._named(folder, name):
                yield from self._walk(found)

    def folders(self, pattern: str) -> list[str]:
        """The folders a pattern names, each part resolved (sbin may be a link to usr/sbin)."""
        found = {""}
        for part in [piece for piece in pattern.split("/") if piece]:
            entries = [entry for folder in found for entry in self._named(folder, part)]
            resolved = {self.resolve(self._device(entry))[0] for entry in entries}
            found = {folder for folder in resolved if self.host(folder).is_dir()}
        return sorted(found)

    def _named(self, folder: str, pattern: str) -> list[Path]:
        """Entries that a pattern fits; Path.glob would leave out links whose target is in this root alone."""
        return sorted(entry for entry in self.host(folder).iterdir() if fnmatchcase(entry.name, pattern))

    def _device(self, host: Path) -> str:
        return str(host.relative_to(self.path))

    def _walk(self, host: Path) -> Iterator[str]:
        if host.is_symlink() or not host.is_dir():
            yield self._device(host)
            return
        for entry in sorted(host.iterdir()):
            yield from self._walk(entry)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
