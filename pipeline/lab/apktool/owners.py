# SPDX-License-Identifier: Apache-2.0
"""Whom a file belongs to: names of a package's entries are looked up in the root's own passwd and group."""

from __future__ import annotations

from pipeline.apk.package import TarEntry
from pipeline.lab.apktool.rootfs import RootFs


class Owners:
    """User and group names of a root; read again after scripts, which may add some."""

    def __init__(self, fs: RootFs) -> None:
        self._fs = fs
        self._users: dict[str, int] | None = None
        self._groups: dict[str, int] | None = None

    def forget(self) -> None:
        """Read both files anew at the next question."""
        self._users = self._groups = None

    def ids(self, entry: TarEntry) -> tuple[int, int]:
        """Numeric user and group of an entry; the numbers in it stand when its names are unknown here."""
        if self._users is None or self._groups is None:
            self._users, self._groups = self._read("etc/passwd"), self._read("etc/group")
        return self._users.get(entry.uname, entry.uid), self._groups.get(entry.gname, entry.gid)

    def _read(self, name: str) -> dict[str, int]:
        found = {"root": 0}
        for line in self._fs.read(name).splitlines():
            fields = line.split(":")
            if len(fields) > 2 and fields[2].isdigit():
                found[fields[0]] = int(fields[2])
        return found
