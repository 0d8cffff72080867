# SPDX-License-Identifier: Apache-2.0
"""The database of installed packages, `/lib/apk/db/installed`: index entries, each followed by its files.

After the letters of the index come folders (`F:` path, `M:` owner and mode unless 0:0:755) and in each folder its
files (`R:` name, `a:` owner and mode unless 0:0:644, `Z:` checksum).
"""

from __future__ import annotations

from pipeline.apk.format.hostile import check_path
from pipeline.apk.format.index import LETTERS, IndexEntry, dump_entry, entry_from
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
# Letters that only this file has: flags of a broken package, the tag of its repository.
_EXTRA = ("f", "s")


@dataclass(frozen=True, slots=True)
class InstalledFile:
    """A file or link in a folder; `checksum` is `Q1...`, or empty if the package noted none."""

    name: str
    uid: int = 0
    gid: int = 0
    mode: int = _FILE_MODE
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class InstalledFolder:
    """A folder of a package (`path` is empty for the root) and the package's files directly in it."""

    path: str
    uid: int = 0
    gid: int = 0
    mode: int = _FOLDER_MODE
    files: tuple[InstalledFile, ...] = ()


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """An installed package; `extra` are pairs of letter and value that indexes do not have."""

    entry: IndexEntry
    folders: tuple[InstalledFolder, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """All files, as paths below the root."""
        return tuple(f"{folder.path}/{file.name}".lstrip("/") for folder in self.folders for file in folder.files)


def parse_installed(data: bytes, where: str = "installed") -> tuple[InstalledPackage, ...]:
    """Parse a database. Raises FormatError naming line and reason."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not UTF-8 at byte {error.start}") from None
    if lines.pop():
        raise FormatError(f"{where}: truncated in its last line")
    packages = []
    block: list[str] = []
    for number, line in enumerate(lines, 1):
        if line:
            if line[1:2] != ":":
                raise FormatError(f"{where}:{number}: not 'letter:value': {line[:80]!r}")
            block.append(line)
        elif block:
            packages.append(_package(block, f"{where}:{number - len(block)}"))
            block = []
    if block:
        raise FormatError(f"{where}: truncated, the last block does not end with an empty line")
    return tuple(packages)


def _package(block: list[str], where: str) -> InstalledPackage:
    fields: dict[str, str] = {}
    folders: list[InstalledFolder] = []
    files: list[InstalledFile] = []
    for line in block:
        letter, value = line[0], line[2:]
        if letter == "F":
            _close(folders, files)
            if value:
                check_path(value, where, "F:")
            folders.append(InstalledFolder(value))
        elif letter not in "MRaZ":
            if letter in fields or folders:
                raise FormatError(f"{where}: field {letter}: occurs twice, or after the files")
            fields[letter] = value
        elif not folders or (letter in "aZ" and not files) or (letter == "M" and files):
            raise FormatError(f"{where}: {letter}: without a file or folder before it")
        elif letter == "M":
            uid, gid, mode = _owner(value, where)
            folders[-1] = InstalledFolder(folders[-1].path, uid, gid, mode)
        elif letter == "R":
            check_path(value, where, "R:")
            if "/" in value:
                raise FormatError(f"{where}: R: is not a file name: {value!r}")
            files.append(InstalledFile(value))
        elif letter == "a":
            files[-1] = InstalledFile(files[-1].name, *_owner(value, where), files[-1].checksum)
        else:
            last = files[-1]
            files[-1] = InstalledFile(last.name, last.uid, last.gid, last.mode, value)
    _close(folders, files)
    extra = tuple((letter, value) for letter, value in fields.items() if letter not in LETTERS)
    entry = entry_from({letter: value for letter, value in fields.items() if letter in LETTERS}, where)
    return InstalledPackage(entry, tuple(folders), extra)


def _close(folders: list[InstalledFolder], files: list[InstalledFile]) -> None:
    if files:
        last = folders[-1]
        folders[-1] = InstalledFolder(last.path, last.uid, last.gid, last.mode, tuple(files))
        files.clear()


def _owner(value: str, where: str) -> tuple[int, int, int]:
    parts = value.split(":")
    # A fourth part, the checksum of extended attributes, may follow.
    if len(parts) not in (3, 4) or not all(part.isdigit() and part.isascii() for part in parts[:3]):
        raise FormatError(f"{where}: not 'uid:gid:mode': {value!r}")
    try:
        return int(parts[0]), int(parts[1]), int(parts[2], 8)
    except ValueError:
        raise FormatError(f"{where}: not an octal mode: {value!r}") from None


def dump_installed(packages: Iterable[InstalledPackage]) -> bytes:
    """Return the database of `packages`, in the order given. Raises FormatError."""
    lines: list[str] = []
    for package in packages:
        lines += dump_entry(package.entry, installed=True)
        lines += [f"{letter}:{value}" for letter, value in package.extra]
        for folder in package.folders:
            lines.append(f"F:{folder.path}")
            if (folder.uid, folder.gid, folder.mode) != (0, 0, _FOLDER_MODE):
                lines.append(f"M:{folder.uid}:{folder.gid}:{folder.mode:o}")
            for file in folder.files:
                lines.append(f"R:{file.name}")
                if (file.uid, file.gid, file.mode) != (0, 0, _FILE_MODE):
                    lines.append(f"a:{file.uid}:{file.gid}:{file.mode:o}")
                if file.checksum:
                    lines.append(f"Z:{file.checksum}")
        lines.append("")
    for line in lines:
        if "\n" in line:
            raise FormatError(f"installed: a line break in {line!r}")
    return "".join(f"{line}\n" for line in lines).encode()
