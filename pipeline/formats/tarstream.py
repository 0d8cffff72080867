# SPDX-License-Identifier: Apache-2.0
"""The one reader of tars that others made: entry by entry, strictly, without holding a file in memory.

Used for everything that comes from an engine, a mirror, another machine or a package. It reads ustar, GNU long names and
pax. An archive is whole or an error: it must have its end (two blocks of zeros), every header must have its checksum in
a form that tar writes, and anything odd (sparse files, unknown types and fields, bytes after the end) is refused. Only
one entry's headers are held, and their size is bounded. The caller decides where files may go.
"""

from __future__ import annotations

import hashlib
from zlib import adler32

from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass
from pipeline.formats.tarfields import (
    BLOCK,
    MAX_KNOWN,
    MAX_NAME,
    EncodingError,
    Extended,
    exact,
    name_bytes,
    number,
    pax_number,
    printable,
    shown,
    text,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from pipeline.formats.tarfields import Readable

    Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
    _Owner = tuple[int, int, int, str, str, int]

__all__ = ["BLOCK", "CHECKSUM", "KINDS", "XATTR", "Content", "EncodingError", "TarEntry", "name_bytes", "read_tar", "shown"]

_TEXTS = {
    "path": slice(0, 100), "linkpath": slice(157, 257), "uname": slice(265, 297), "gname": slice(297, 329),
    "prefix": slice(345, 500),
}  # fmt: skip
_OWNER_KEYS = frozenset(("uid", "gid", "uname", "gname", "mtime"))
CHECKSUM = "APK-TOOLS.checksum.SHA1"
XATTR = "SCHILY.xattr."
KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"1": "hardlink", b"2": "symlink", b"3": "char", b"4": "block", b"5": "dir", b"6": "fifo",
}  # fmt: skip
MAX_ENTRIES = 1_000_000
MAX_SIZE = 1 << 46
MAX_TRAILER = 8 << 20
"""The most zeros after the end; tar fills its last record, which has 10 KiB by default."""
_DIGESTS = {0: "", 40: "sha1", 64: "sha256", 128: "sha512"}
_MAGICS = (b"ustar\x0000", b"ustar  \0", b"ustar\0\0\0", b"ustar\0  ", bytes(8))
_CHUNK = 1 << 18
_ZEROS = bytes(BLOCK)
_owners: dict[bytes, _Owner] = {}  # files have the same few modes, owners and times


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One file, folder or link of an archive; `name` has no slash at either end.

    `target` is a link's target, `checksum` the SHA-1 that abuild notes for files and symbolic links
    (packages of format 3: another digest of files, in hex), `xattrs` are pairs of name and value.
    """

    name: str
    kind: Kind = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    uname: str = "root"
    gname: str = "root"
    size: int = 0
    mtime: int = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    checksum: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


class Content:
    """The bytes of one file of the archive; read them before the next entry."""

    def __init__(self, stream: Readable, entry: TarEntry, where: str) -> None:
        self._stream = stream
        self._entry = entry
        self._where = where
        self._left = entry.size
        algorithm = _DIGESTS[len(entry.checksum)] if entry.kind == "file" else ""
        self._hash = hashlib.new(algorithm, usedforsecurity=False) if algorithm else None
        if not entry.size:
            self._check()

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes (the rest if negative); b"" at the end of the file. Raises FormatError."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if not self._left or not size:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise FormatError(f"{self._where}: {shown(self._entry.name)}: archive ends {self._left} bytes before the file does")
        self._left -= len(data)
        if self._hash:
            self._hash.update(data)
        if not self._left:
            self._check()
        return data

    def skip(self) -> None:
        """Skip to the end of the file."""
        while self.read(_CHUNK):
            pass

    def _check(self) -> None:
        if self._hash and self._hash.hexdigest() != self._entry.checksum:
            raise FormatError(f"{self._where}: {shown(self._entry.name)}: content differs from the checksum in its header")


def read_tar(
    stream: Readable, where: str, *, end: bool = True, comments: list[str] | None = None, any_names: bool = False
) -> Iterator[tuple[TarEntry, Content]]:
    """Yield the entries of a tar with their content, in the order of the archive, to the end of the stream.

    Without `end` the archive may lack its end, as the parts of a package do; a cut at an entry is then not noticed.
    With `any_names` a name that is not UTF-8 gets surrogates for its bytes (see `name_bytes`, `shown`).
    `comments` takes those of global headers. Raises FormatError, and what `stream` raises.
    """
    extended = Extended(where)
    count = 0
    while True:
        header = exact(stream, BLOCK, where, end_allowed=True)
        if not header or header == _ZEROS:
            break
        size = _check_header(header, where)
        flag = header[156:157]
        if flag in b"xgLK":
            extended.take(flag, size, stream)
            continue
        entry = _entry(header, size, extended.fields, where, any_names=any_names)
        extended.clear()
        count += 1
        if count > MAX_ENTRIES:
            raise FormatError(f"{where}: more than the {MAX_ENTRIES} entries allowed")
        content = Content(stream, entry, where)
        yield entry, content
        if entry.size:
            content.skip()
            _padding(stream, entry.size, where)
    if extended.pending:
        raise FormatError(f"{where}: ends after the extended header of a file that is not there")
    if header:
        _only_zeros(stream, where, least=BLOCK if end else 0)
    elif end:
        raise FormatError(f"{where}: truncated tar, its end is missing")
    if comments is not None:
        comments += extended.comments


def _only_zeros(stream: Readable, where: str, least: int) -> None:
    """Read the blocks after the first block of an archive's end."""
    found = 0
    while data := stream.read(_CHUNK):
        found += len(data)
        if data.strip(b"\0"):
            raise FormatError(f"{where}: garbage after the end of the tar")
        if found > MAX_TRAILER:
            raise FormatError(f"{where}: more than {MAX_TRAILER} zeros after the end of the tar")
    if found < least:
        raise FormatError(f"{where}: truncated tar, its end is cut off")


def _padding(stream: Readable, size: int, where: str) -> None:
    if (rest := -size % BLOCK) and exact(stream, rest, where).strip(b"\0"):
        raise FormatError(f"{where}: garbage between two files")


def _check_header(header: bytes, where: str) -> int:
    """Verify a header's checksum, in one of the forms that tars use; return its size field."""
    field = header[148:156]
    # For so few bytes, the low half of Adler-32 is their sum plus one; `sum` takes ten times as long.
    total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2 - sum(field) + 256
    # Each number has one form, so that no bit of it can change unnoticed.
    if field not in (b"%06o\0 " % total, b"%07o\0" % total, b"%06o \0" % total):
        number(field, "checksum", where)
        raise FormatError(f"{where}: damaged tar header at {printable(header[:100])}")
    if header[257:265] not in _MAGICS:
        raise FormatError(f"{where}: tar header of an unknown kind at {printable(header[:100])}")
    size = number(header[124:136], "size", where)
    if size > MAX_SIZE:
        raise FormatError(f"{where}: {printable(header[:100])}: {size} bytes, more than is allowed ({MAX_SIZE})")
    return size


def _field(header: bytes, pax: dict[str, bytes], key: str, where: str, *, any_bytes: bool = False) -> str:
    if key not in pax:
        return text(header[_TEXTS[key]].split(b"\0", 1)[0], key, where, any_bytes=any_bytes)
    value = pax[key]
    if len(value) > MAX_NAME:
        raise FormatError(f"{where}: {key} of {len(value)} bytes, {MAX_NAME} are allowed: {printable(value)}...")
    if b"\0" in value:
        raise FormatError(f"{where}: {key} holds a control character (NUL): {printable(value)}")
    return text(value, key, where, any_bytes=any_bytes)


def _owner(header: bytes, pax: dict[str, bytes], where: str) -> _Owner:
    """Return mode, the numbers of owner and group, their names, and the time."""
    if not _OWNER_KEYS.isdisjoint(pax):
        return _read_owner(header, pax, where)
    fields = header[100:124] + header[136:148] + header[265:329]
    known = _owners.get(fields)
    if known is None:
        known = _read_owner(header, pax, where)
        if len(_owners) < MAX_KNOWN:
            _owners[fields] = known
    return known


def _read_owner(header: bytes, pax: dict[str, bytes], where: str) -> _Owner:
    def either(key: str, start: int, end: int) -> int:
        return pax_number(pax[key], key, where) if key in pax else number(header[start:end], key, where)

    return (
        number(header[100:108], "mode", where) & 0o7777,
        either("uid", 108, 116),
        either("gid", 116, 124),
        _field(header, pax, "uname", where),
        _field(header, pax, "gname", where),
        either("mtime", 136, 148),
    )


def _entry(header: bytes, size: int, pax: dict[str, bytes], where: str, *, any_names: bool) -> TarEntry:
    name = _field(header, pax, "path", where, any_bytes=any_names)
    if header[345] and "path" not in pax and header[257:263] == b"ustar\0":
        name = f"{_field(header, pax, 'prefix', where, any_bytes=any_names)}/{name}"
    if not name:
        raise FormatError(f"{where}: empty name")
    kind = KINDS.get(header[156:157])
    if kind is None:
        raise FormatError(f"{where}: {name!r}: type {printable(header[156:157])} of tar entry is not allowed")
    if name.endswith("/"):
        if kind == "file" and header[156] == 0:
            kind = "dir"
        if kind == "dir":
            name = name[:-1]
    if "size" in pax:
        size = pax_number(pax["size"], "size", where)
        if size > MAX_SIZE:
            raise FormatError(f"{where}: {name!r}: {size} bytes, more than is allowed ({MAX_SIZE})")
    if size and kind != "file":
        raise FormatError(f"{where}: {name!r}: a {kind} with content")
    is_device = kind in ("char", "block")
    mode, uid, gid, uname, gname, mtime = _owner(header, pax, where)
    return TarEntry(
        name,
        kind,
        mode,
        uid,
        gid,
        uname,
        gname,
        size,
        mtime,
        _field(header, pax, "linkpath", where, any_bytes=any_names) if kind in ("symlink", "hardlink") else "",
        (number(header[329:337], "device", where), number(header[337:345], "device", where)) if is_device else (0, 0),
        _sha1(pax[CHECKSUM], name, where) if CHECKSUM in pax else "",
        tuple((key[len(XATTR) :], value) for key, value in pax.items() if key.startswith(XATTR)) if pax else (),
    )


def _sha1(value: bytes, name: str, where: str) -> str:
    if len(value) != 40 or value.strip(b"0123456789abcdef"):
        raise FormatError(f"{where}: {name!r}: checksum in its header is not a SHA-1: {printable(value)}")
    return value.decode()
