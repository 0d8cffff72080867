# SPDX-License-Identifier: Apache-2.0
"""A container of format 3: a magic number and a schema, then blocks: one of metadata, then signatures, then data.

A block begins with two bits of its type and thirty of its size; large ones have type 3 there and a longer head. Blocks are
read one after the other, and none is held in memory but the metadata and the signatures, whose sizes are bounded.
"""

from __future__ import annotations

from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.adb.packing import AdbStream

MAGIC = b"ADB."
PACKAGE, INDEX, DATABASE = b"pckg", b"indx", b"idb\0"
SCHEMAS = {PACKAGE: "a package", INDEX: "an index", DATABASE: "a database of installed packages"}
ADB, SIG, DATA = 0, 1, 2
_LONG = 3
_NAMES = ("metadata", "signature", "data")
ALIGNMENT = 8
SHORT_HEAD, LONG_HEAD = 4, 16
SIZE_BITS = 30
_SIZES = (1 << SIZE_BITS) - 1


@dataclass(frozen=True, slots=True)
class Block:
    """The head of a block: its type, and the size of what it holds."""

    kind: int
    size: int


class AdbFile:
    """The blocks of an unpacked file, in order; `schema` is what the file is, `name` is for messages."""

    def __init__(self, stream: AdbStream) -> None:
        self.name = stream.name
        self._stream = stream
        self._left = 0
        self._padding = 0
        self._last = -1
        head = self._exact(len(MAGIC) + 4, "its header")
        if not head.startswith(MAGIC):
            raise FormatError(f"{self.name}: unpacks to {head[:4]!r}, not to {MAGIC.decode()}")
        self.schema = head[4:]

    @property
    def position(self) -> int:
        """The number of bytes read so far."""
        return self._stream.position

    def expect(self, schema: bytes) -> None:
        """Raise FormatError unless the file is of a schema."""
        if self.schema != schema:
            found = SCHEMAS.get(self.schema, f"of the unknown schema {self.schema!r}")
            raise FormatError(f"{self.name}: is {found}, not {SCHEMAS[schema]}")

    def next(self) -> Block | None:
        """Return the next block, after a check of the padding of the one before; None at the end of the file.

        Raises FormatError.
        """
        if self._left:
            raise FormatError(f"{self.name}: {_NAMES[self._last]} block with {self._left} bytes too many")
        if self._padding and self._exact(self._padding, "the padding of a block").strip(b"\0"):
            raise FormatError(f"{self.name}: garbage between two blocks")
        self._padding = 0
        first = self._stream.read(1)
        if not first:
            return None
        head = first + self._exact(SHORT_HEAD - 1, "the head of a block")
        word = int.from_bytes(head, "little")
        kind, size, length = word >> SIZE_BITS, word & _SIZES, SHORT_HEAD
        if kind == _LONG:
            rest = self._exact(LONG_HEAD - SHORT_HEAD, "the head of a block")
            kind, size, length = size, int.from_bytes(rest[4:], "little"), LONG_HEAD
            if rest[:4].strip(b"\0"):
                raise FormatError(f"{self.name}: block head with reserved bits set")
        if kind >= _LONG:
            raise FormatError(f"{self.name}: block of the unknown type {kind}")
        if size < length:
            raise FormatError(f"{self.name}: {_NAMES[kind]} block of {size} bytes, its head alone has {length}")
        self._check_order(kind)
        self._left, self._padding = size - length, -size % ALIGNMENT
        return Block(kind, self._left)

    def _check_order(self, kind: int) -> None:
        before, self._last = self._last, kind
        if kind < before or (kind == ADB) != (before < 0) or (kind == before == ADB):
            what = "is not the first" if kind == ADB else "before any metadata" if before < 0 else f"after {_NAMES[before]}"
            raise FormatError(f"{self.name}: a {_NAMES[kind]} block {what}")

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes of the present block; b"" at its end. Raises FormatError."""
        if not self._left:
            return b""
        data = self._stream.read(min(size, self._left))
        if not data:
            raise FormatError(f"{self.name}: truncated, {self._left} bytes of a {_NAMES[self._last]} block are missing")
        self._left -= len(data)
        return data

    def whole(self, most: int) -> bytes:
        """Return the present block's content. Raises FormatError if it has more than `most` bytes."""
        if self._left > most:
            raise FormatError(f"{self.name}: {_NAMES[self._last]} block of {self._left} bytes, {most} are allowed")
        return self.take(self._left)

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes of the present block. Raises FormatError."""
        if size > self._left:
            raise FormatError(f"{self.name}: {_NAMES[self._last]} block of {self._left} bytes is too short for {size}")
        parts = []
        while size:
            parts.append(self.read(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _exact(self, size: int, what: str) -> bytes:
        data = self._stream.read(size)
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                raise FormatError(f"{self.name}: truncated in {what}")
            data += more
        return data
