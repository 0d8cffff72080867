# SPDX-License-Identifier: Apache-2.0
"""Reading tar as packages hold it: entry by entry, strictly, without holding a file in memory.

Knows ustar, GNU long names and the pax fields that matter to apk. What is odd (sparse files, unknown types,
wrong checksums, bytes after the end) is refused instead of guessed at. Where files may go is `hostile`'s part.
"""

from __future__ import annotations

import hashlib

from pipeline.apk.record import dataclass
from pipeline.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal, Protocol

    Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]
    _Owner = tuple[int, int, int, str, str, int]

    class Readable(Protocol):
        """Where the tar's bytes come from."""

        def read(self, size: int, /) -> bytes:
            """Up to `size` bytes; none at the end."""


BLOCK = 512
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
MAX_EXTENDED = 1 << 20
_CHUNK = 1 << 18
_ZEROS = bytes(BLOCK)
_MAX_KNOWN = 4096
_numbers: dict[bytes, int] = {}
_owners: dict[bytes, _Owner] = {}  # modes, owners and times are the same few in file after file


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One file, folder or link of an archive; `name` has no slash at either end.

    `target` is where a link leads, `checksum` the SHA-1 that abuild notes for files and symbolic links,
    `xattrs` are pairs of name and value.
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
    """The bytes of one file of the archive, to be read before the next entry is asked for."""

    def __init__(self, stream: Readable, entry: TarEntry, where: str) -> None:
        self._stream = stream
        self._entry = entry
        self._where = where
        self._left = entry.size
        self._hash = hashlib.sha1(usedforsecurity=False) if entry.checksum and entry.kind == "file" else None
        if not entry.size:
            self._check()

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (all that is left if negative); none at the end of the file."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_CHUNK), b""))
        if not self._left or not size:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise FormatError(f"{self._where}: {self._entry.name}: archive ends {self._left} bytes before the file does")
        self._left -= len(data)
        if self._hash:
            self._hash.update(data)
        if not self._left:
            self._check()
        return data

    def skip(self) -> None:
        """Read on to the end of the file."""
        while self.read(_CHUNK):
            pass

    def _check(self) -> None:
        if self._hash and self._hash.hexdigest() != self._entry.checksum:
            raise FormatError(f"{self._where}: {self._entry.name}: content differs from the checksum in its header")


def read_tar(stream: Readable, where: str) -> Iterator[tuple[TarEntry, Content]]:
    """Entries of the tar in `stream` with their content, in the order they are stored. Raises FormatError."""
    extended: dict[str, bytes] = {}
    while header := _exact(stream, BLOCK, where, end_allowed=True):
        if header == _ZEROS:
            _only_zeros(stream, where)
            break
        size = _check_header(header, where)
        flag = header[156:157]
        if flag in b"xgLK" and flag != b"\0":
            data = _extended(stream, size, where)
            if flag == b"x":
                extended.update(_pax(data, where))
            elif flag != b"g":
                extended["path" if flag == b"L" else "linkpath"] = data.rstrip(b"\0")
            continue
        entry = _entry(header, size, extended, where)
        extended = {}
        content = Content(stream, entry, where)
        yield entry, content
        if entry.size:
            content.skip()
            _padding(stream, entry.size, where)
    if extended:
        raise FormatError(f"{where}: ends after the extended header of a file that is not there")


def _exact(stream: Readable, size: int, where: str, *, end_allowed: bool = False) -> bytes:
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            if end_allowed and not data:
                return b""
            raise FormatError(f"{where}: truncated tar, {size - len(data)} bytes are missing")
        data += more
    return data


def _only_zeros(stream: Readable, where: str) -> None:
    while data := stream.read(_CHUNK):
        if data.strip(b"\0"):
            raise FormatError(f"{where}: garbage after the end of the tar")


def _padding(stream: Readable, size: int, where: str) -> None:
    if (rest := -size % BLOCK) and _exact(stream, rest, where).strip(b"\0"):
        raise FormatError(f"{where}: garbage between two files")


def _extended(stream: Readable, size: int, where: str) -> bytes:
    if size > MAX_EXTENDED:
        raise FormatError(f"{where}: extended header of {size} bytes, {MAX_EXTENDED} are allowed")
    data = _exact(stream, size + -size % BLOCK, where) if size else b""
    if data[size:].strip(b"\0"):
        raise FormatError(f"{where}: garbage after an extended header")
    return data[:size]


def _check_header(header: bytes, where: str) -> int:
    """The size field of a header whose checksum is right."""
    field = header[148:156]
    if _number(field, "checksum", where) != sum(header) - sum(field) + 256:
        raise FormatError(f"{where}: damaged tar header at {_printable(header[:100])}")
    return _number(header[124:136], "size", where)


def _number(field: bytes, what: str, where: str) -> int:
    known = _numbers.get(field)
    if known is None:
        known = _read_number(field, what, where)
        if len(_numbers) < _MAX_KNOWN:
            _numbers[field] = known
    return known


def _read_number(field: bytes, what: str, where: str) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise FormatError(f"{where}: tar header with a bad {what}: {field!r}")
    return int(digits, 8)


def _pax(data: bytes, where: str) -> dict[str, bytes]:
    """Records `length key=value` of a pax header, each ended by a line feed."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        length = data[at:space] if space > 0 else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or end > len(data) or data[end - 1 : end] != b"\n":
            raise FormatError(f"{where}: damaged pax header")
        name = _text(key, "pax field", where)
        if name in records:
            raise FormatError(f"{where}: pax field {name} is there twice")
        records[name] = value
        at = end
    return records


def _text(data: bytes, what: str, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{where}: {what} is not UTF-8: {_printable(data)}") from None


def _printable(data: bytes) -> str:
    return ascii(data.split(b"\0", 1)[0][:100])[1:]


def _pax_number(data: bytes, what: str, where: str) -> int:
    whole = data.split(b".", 1)[0] if what == "mtime" else data
    if not whole.isdigit() or len(whole) > 20:
        raise FormatError(f"{where}: pax field {what} is not a number: {_printable(data)}")
    return int(whole)


def _field(header: bytes, pax: dict[str, bytes], key: str, where: str) -> str:
    return _text(pax[key] if key in pax else header[_TEXTS[key]].split(b"\0", 1)[0], key, where)


def _owner(header: bytes, pax: dict[str, bytes], where: str) -> _Owner:
    """Mode, owner's and group's number, their names, and the time."""
    if not _OWNER_KEYS.isdisjoint(pax):
        return _read_owner(header, pax, where)
    fields = header[100:124] + header[136:148] + header[265:329]
    known = _owners.get(fields)
    if known is None:
        known = _read_owner(header, pax, where)
        if len(_owners) < _MAX_KNOWN:
            _owners[fields] = known
    return known


def _read_owner(header: bytes, pax: dict[str, bytes], where: str) -> _Owner:
    def number(key: str, start: int, end: int) -> int:
        return _pax_number(pax[key], key, where) if key in pax else _number(header[start:end], key, where)

    return (
        _number(header[100:108], "mode", where) & 0o7777,
        number("uid", 108, 116),
        number("gid", 116, 124),
        _field(header, pax, "uname", where),
        _field(header, pax, "gname", where),
        number("mtime", 136, 148),
    )


def _entry(header: bytes, size: int, pax: dict[str, bytes], where: str) -> TarEntry:
    name = _field(header, pax, "path", where)
    if header[345] and "path" not in pax and header[257:263] == b"ustar\0":
        name = f"{_field(header, pax, 'prefix', where)}/{name}"
    kind = KINDS.get(header[156:157])
    if kind is None or any(key.startswith("GNU.sparse") for key in pax):
        raise FormatError(f"{where}: {name!r}: type {_printable(header[156:157])} of tar entry is not allowed")
    if name.endswith("/"):
        if kind == "file" and header[156] == 0:
            kind = "dir"
        if kind == "dir":
            name = name[:-1]
    if "size" in pax:
        size = _pax_number(pax["size"], "size", where)
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
        _field(header, pax, "linkpath", where) if kind in ("symlink", "hardlink") else "",
        (_number(header[329:337], "device", where), _number(header[337:345], "device", where)) if is_device else (0, 0),
        _sha1(pax[CHECKSUM], name, where) if CHECKSUM in pax else "",
        tuple((key[len(XATTR) :], value) for key, value in pax.items() if key.startswith(XATTR)) if pax else (),
    )


def _sha1(value: bytes, name: str, where: str) -> str:
    if len(value) != 40 or value.strip(b"0123456789abcdef"):
        raise FormatError(f"{where}: {name!r}: checksum in its header is not a SHA-1: {_printable(value)}")
    return value.decode()
