# SPDX-License-Identifier: Apache-2.0
"""The list of files in a package's metadata: folders, and the files in each of them, as entries like those of a tar."""

from __future__ import annotations

from pipeline.apk.adb import fields
from pipeline.apk.format.tarstream import TarEntry, shown
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.apk.adb.values import Values
    from pipeline.formats.tarstream import Kind

REGULAR, LINK = 0o100000, 0o120000
_DEVICES: dict[int, Kind] = {0o020000: "char", 0o060000: "block", 0o010000: "fifo"}
_KIND = 2
_MODES = 0o7777
_DIGESTS = (20, 32, 64)
_DEVICE = 8


class Files:
    """The entries of a package in order, each with the numbers of its folder and of itself in it; a folder's own is 0."""

    def __init__(self, values: Values, word: int) -> None:
        self._values = values
        self._word = word
        self._owners: dict[int, tuple[int, str, str, tuple[tuple[str, bytes], ...]]] = {}

    def __iter__(self) -> Iterator[tuple[int, int, TarEntry]]:
        values, seen = self._values, set[str]()
        for path, word in enumerate(values.array(self._word, "paths"), 1):
            what = f"paths[{path}]"
            slots = values.object(word, what)
            folder = values.text(slots[fields.DIR_NAME], what, any_bytes=True)
            if folder in seen:
                raise FormatError(f"{values.where}: {what}: folder {shown(folder)!r} occurs twice")
            seen.add(folder)
            mode, user, group, xattrs = self._owner(slots[fields.DIR_ACL], what)
            if folder:
                yield path, 0, TarEntry(folder, "dir", mode, uname=user, gname=group, xattrs=xattrs)
            for file, item in enumerate(values.array(slots[fields.DIR_FILES], what), 1):
                yield path, file, self._file(item, folder, f"{what}.files[{file}]")

    def _file(self, word: int, folder: str, what: str) -> TarEntry:
        values = self._values
        slots = values.object(word, what)
        name = values.text(slots[fields.FILE_NAME], what, any_bytes=True)
        if not name or "/" in name:
            raise FormatError(f"{values.where}: {what}: not the name of a file: {shown(name)!r}")
        mode, user, group, xattrs = self._owner(slots[fields.FILE_ACL], what)
        size = values.number(slots[fields.FILE_SIZE], what) or 0
        mtime = values.number(slots[fields.FILE_MTIME], what) or 0
        path = f"{folder}/{name}" if folder else name
        digest = values.blob(slots[fields.FILE_HASH], what)
        if digest and len(digest) not in _DIGESTS:
            raise FormatError(f"{values.where}: {what}: digest of {len(digest)} bytes; SHA-1, SHA-256 and SHA-512 are known")
        if slots[fields.FILE_TARGET]:
            kind, target, device = self._target(values.blob(slots[fields.FILE_TARGET], what), what)
            return TarEntry(path, kind, mode, 0, 0, user, group, 0, mtime, target, device, "", xattrs)
        if not digest:
            raise FormatError(f"{values.where}: {what}: {shown(path)} has no digest, so its data could not be verified")
        return TarEntry(path, "file", mode, 0, 0, user, group, size, mtime, checksum=digest.hex(), xattrs=xattrs)

    def _target(self, data: bytes, what: str) -> tuple[Kind, str, tuple[int, int]]:
        """Return what an entry without data is, and where it points."""
        kind, rest = int.from_bytes(data[:_KIND], "little"), data[_KIND:]
        if kind in (REGULAR, LINK) and rest and b"\0" not in rest:
            return "hardlink" if kind == REGULAR else "symlink", rest.decode("utf-8", "surrogateescape"), (0, 0)
        if kind in _DEVICES and len(rest) == _DEVICE:
            number = int.from_bytes(rest, "little")
            major = (number >> 8 & 0xFFF) | (number >> 32 & ~0xFFF)
            minor = (number & 0xFF) | (number >> 12 & ~0xFF)
            return _DEVICES[kind], "", (major, minor & 0xFFFFFFFF)
        raise FormatError(f"{self._values.where}: {what}: invalid target {data[:40]!r}")

    def _owner(self, word: int, what: str) -> tuple[int, str, str, tuple[tuple[str, bytes], ...]]:
        """Return mode, owner, group and extended attributes; most files share theirs."""
        known = self._owners.get(word)
        if known is None:
            values, slots = self._values, self._values.object(word, f"{what}: acl")
            mode = values.number(slots[fields.ACL_MODE], what) or 0
            if mode & ~_MODES:
                raise FormatError(f"{values.where}: {what}: mode {mode:o}, at most {_MODES:o} is allowed")
            user, group = (values.text(slots[slot], what) for slot in (fields.ACL_USER, fields.ACL_GROUP))
            xattrs = tuple(self._xattr(item, what) for item in values.array(slots[fields.ACL_XATTRS], what))
            known = self._owners[word] = (mode, user, group, xattrs)
        return known

    def _xattr(self, word: int, what: str) -> tuple[str, bytes]:
        name, end, value = self._values.blob(word, what).partition(b"\0")
        if not name or not end:
            raise FormatError(f"{self._values.where}: {what}: extended attribute without a name")
        try:
            return name.decode(), value
        except UnicodeDecodeError:
            raise FormatError(f"{self._values.where}: {what}: extended attribute whose name is not UTF-8: {name!r}") from None
