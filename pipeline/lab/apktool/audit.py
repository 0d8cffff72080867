# SPDX-License-Identifier: Apache-2.0
"""`apk audit`: what differs from what the packages laid; `lbu` asks it what belongs into an apkovl.

`--backup` (the default) looks at protected paths: U changed, A not of a package, D a folder of no package (d when `--recursive`
goes into it), M other owner or mode. `--system` looks at all other files: U changed, X missing.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.protect import Protection, place_checksum
from pipeline.lab.apktool.session import Session


def audit(options: Options) -> int:
    """`apk audit`."""
    session = Session(options, repositories=False)
    look = _Audit(session.database, options)
    lines = look.system() if options.flag("system") else look.backup()
    owners: list[str] = []
    for sign, path in lines:
        if options.flag("packages"):
            owners.append(session.database.owners.get(path, ""))
        else:
            print(path if options.verbosity < 1 else f"{sign} {path}")
    for name in sorted({name for name in owners if name}):
        print(name)
    return 0


class _Audit:
    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._protection = Protection(database.fs)
        self._known: dict[str, tuple[str, str]] = {}
        for package in database.installed.values():
            self._known |= _details(package.record)
        self._folders = database.folders_in_use()

    def backup(self) -> Iterator[tuple[str, str]]:
        """What differs below the protected paths."""
        for top in self._protection.tops():
            place = self._database.fs.place(top)
            if place.is_symlink() or place.is_file():
                yield from self._file(top, place)
            elif place.is_dir():
                yield from self._folder(top, place)

    def _folder(self, folder: str, place: Path) -> Iterator[tuple[str, str]]:
        if folder not in self._folders and not self._protection.leads(folder):
            if self._protection.mode(f"{folder}/x") in ("-", "@"):
                return
            yield ("d" if self._options.flag("recursive") else "D"), f"{folder}/"
            if not self._options.flag("recursive"):
                return
        for path in sorted(place.iterdir(), key=lambda path: path.name):
            name = f"{folder}/{path.name}"
            if path.is_dir() and not path.is_symlink():
                yield from self._folder(name, path)
            else:
                yield from self._file(name, path)

    def _file(self, name: str, path: Path) -> Iterator[tuple[str, str]]:
        mode = self._protection.file_mode(name)
        if mode == "-" or (mode == "@" and not path.is_symlink()):
            return
        if name not in self._known:
            yield "A", name
        elif place_checksum(path) != self._known[name][0]:
            yield "U", name
        elif mode == "!":
            yield "A", name
        elif self._options.flag("check-permissions") and not path.is_symlink() and _mode(path) != self._known[name][1]:
            yield "M", name

    def system(self) -> Iterator[tuple[str, str]]:
        """What differs of the packages' files outside the protected paths, and what is missing anywhere."""
        for name in sorted(self._known):
            path = self._database.fs.place(name)
            found = place_checksum(path)
            if not found:
                yield "X", name
            elif found != self._known[name][0] and self._protection.file_mode(name) == "-":
                yield "U", name


def _mode(path: Path) -> str:
    status = path.lstat()
    return f"{status.st_uid}:{status.st_gid}:{stat.S_IMODE(status.st_mode):o}"


def _details(record: str) -> dict[str, tuple[str, str]]:
    """Checksum and `uid:gid:mode` of each file of a record of the installed database."""
    found: dict[str, tuple[str, str]] = {}
    folder = name = ""
    for line in record.split("\n"):
        kind, value = line[:2], line[2:]
        if kind == "F:":
            folder = f"{value}/" if value else ""
        elif kind == "R:":
            name = folder + value
            found[name] = ("", "0:0:644")
        elif kind == "a:":
            found[name] = (found[name][0], ":".join(value.split(":")[:3]))
        elif kind == "Z:":
            found[name] = (value, found[name][1])
    return found
