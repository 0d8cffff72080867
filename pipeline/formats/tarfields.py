# SPDX-License-Identifier: Apache-2.0
"""The fields in a tar's headers: numbers, texts, pax records and long names. `tarstream` combines them into entries."""

from __future__ import annotations

from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Readable(Protocol):
        """The source of the tar's bytes."""

        def read(self, size: int, /) -> bytes:
            """Read up to `size` bytes; b"" at the end."""


BLOCK = 512
MAX_EXTENDED = 1 << 20
"""The most bytes of all extended headers of one entry, and of all global ones together."""
MAX_HEADERS = 8
"""The most extended headers of one entry; real ones have two or three."""
MAX_NAME = 1 << 14
"""The most bytes of a name or a link's target; callers allow less."""
_KNOWN = frozenset((
    "path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime", "atime", "ctime", "comment", "hdrcharset", "charset",
))  # fmt: skip
_MAKERS = ("SCHILY.", "LIBARCHIVE.", "RHT.", "APK-TOOLS.", "MSWINDOWS.")
"""Fields with these prefixes do not change what an entry is, with some exceptions."""
_SPARSE = ("SCHILY.realsize", "SCHILY.offset")
_CHARSETS = (b"BINARY", b"ISO-IR 10646 2000 UTF-8")
MAX_KNOWN = 4096
"""The number of cached fields: files have the same few."""
_numbers: dict[bytes, int] = {}


class EncodingError(FormatError):
    """A name of the archive is not UTF-8; `name` shows it."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Extended:
    """The data of extended headers about the next entry."""

    def __init__(self, where: str) -> None:
        self.fields: dict[str, bytes] = {}
        self.comments: list[str] = []
        self._where = where
        self._count = self._size = self._global_size = 0

    @property
    def pending(self) -> bool:
        """Tell whether an entry must follow."""
        return self._count > 0

    def clear(self) -> None:
        """Forget the data, because an entry has been read."""
        if self._count:
            self.fields = {}
            self._count = self._size = 0

    def take(self, flag: bytes, size: int, stream: Readable) -> None:
        """Read the header of type `flag`, whose content has `size` bytes. Raises FormatError."""
        if flag == b"g":
            self._global_size += size
            self._global(_pax(self._content(stream, size, self._global_size), self._where))
            return
        self._count += 1
        self._size += size
        if self._count > MAX_HEADERS:
            raise FormatError(f"{self._where}: more than {MAX_HEADERS} extended headers of one file")
        data = self._content(stream, size, self._size)
        self.fields.update(_pax(data, self._where) if flag == b"x" else self._long(flag, data))

    def _content(self, stream: Readable, size: int, total: int) -> bytes:
        if total > MAX_EXTENDED:
            raise FormatError(f"{self._where}: extended header of {total} bytes, {MAX_EXTENDED} are allowed")
        data = exact(stream, size + -size % BLOCK, self._where) if size else b""
        if data[size:].strip(b"\0"):
            raise FormatError(f"{self._where}: garbage after an extended header")
        return data[:size]

    def _long(self, flag: bytes, data: bytes) -> dict[str, bytes]:
        """Parse GNU's long name, or target of a link: a text that ends with a NUL."""
        if not data.endswith(b"\0"):
            raise FormatError(f"{self._where}: long name without an end: {printable(data)}")
        return {"path" if flag == b"L" else "linkpath": data[:-1]}

    def _global(self, fields: dict[str, bytes]) -> None:
        for name, value in fields.items():
            if name != "comment":
                raise FormatError(f"{self._where}: pax field {name} for all files is not supported")
            self.comments.append(text(value, "comment", self._where))


def exact(stream: Readable, size: int, where: str, *, end_allowed: bool = False) -> bytes:
    """Read exactly `size` bytes; with `end_allowed`, b"" at the end. Raises FormatError."""
    data = stream.read(size)
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            if end_allowed and not data:
                return b""
            raise FormatError(f"{where}: truncated tar, {size - len(data)} bytes are missing")
        data += more
    return data


def number(field: bytes, what: str, where: str) -> int:
    """Parse a number in a header; only that of `mtime` may be less than 0. Raises FormatError."""
    known = _numbers.get(field)
    if known is None:
        known = _read_number(field, what, where)
        if known >= 0 and len(_numbers) < MAX_KNOWN:
            _numbers[field] = known
    return known


def _read_number(field: bytes, what: str, where: str) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF and what == "mtime":
        return int.from_bytes(field, "big", signed=True)
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise FormatError(f"{where}: tar header with a bad {what}: {field!r}")
    return int(digits, 8)


def _pax(data: bytes, where: str) -> dict[str, bytes]:
    """Parse the records `length key=value` of a pax header, each ended by a line feed."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        length = data[at:space] if space > 0 else b""
        end = at + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or end > len(data) or data[end - 1 : end] != b"\n":
            raise FormatError(f"{where}: damaged pax header")
        name = text(key, "pax field", where)
        if name in records:
            raise FormatError(f"{where}: pax field {name} occurs twice")
        records[name] = value
        at = end
    for name, value in records.items():
        _check_field(name, value, where)
    return records


def _check_field(name: str, value: bytes, where: str) -> None:
    """Raise FormatError for a pax field that may change the meaning of an entry in an unknown way."""
    if name in _KNOWN:
        if name in ("hdrcharset", "charset") and value not in _CHARSETS:
            raise FormatError(f"{where}: pax field {name} is {printable(value)}; only UTF-8 is read")
    elif not name.startswith(_MAKERS) or name in _SPARSE:
        raise FormatError(f"{where}: pax field {name!a} of tar entry is not allowed")


def text(data: bytes, what: str, where: str, *, any_bytes: bool = False) -> str:
    """Decode a text in UTF-8; with `any_bytes`, others get surrogates for their bytes. Raises EncodingError."""
    try:
        return data.decode("utf-8", "surrogateescape" if any_bytes else "strict")
    except UnicodeDecodeError:
        shown = printable(data)
        raise EncodingError(f"{where}: {what} is not UTF-8: {shown}", shown.strip("'\"")) from None


def name_bytes(name: str) -> bytes:
    """Return the bytes of a name that was read, in whatever encoding it was."""
    return name.encode("utf-8", "surrogateescape")


def shown(name: str) -> str:
    """Return a name for messages and lists; bytes that are not UTF-8 become escapes."""
    return name_bytes(name).decode("utf-8", "backslashreplace")


def printable(data: bytes) -> str:
    """Return the start of a text, for messages."""
    return ascii(data.split(b"\0", 1)[0][:100])[1:]


def pax_number(data: bytes, what: str, where: str) -> int:
    """Parse the number in a pax record; fractions of seconds are dropped. Raises FormatError."""
    whole = data.split(b".", 1)[0] if what == "mtime" else data
    digits = whole.removeprefix(b"-") if what == "mtime" else whole
    if not digits.isdigit() or len(digits) > 20:
        raise FormatError(f"{where}: pax field {what} is not a number: {printable(data)}")
    return int(whole)
