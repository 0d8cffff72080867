# SPDX-License-Identifier: Apache-2.0
"""Read apk's third format as far as `tower` needs it: the metadata of a file, and the packages that an index names.

A file is `ADB.`, or packed; then a schema, and blocks, of which the first is the metadata: words of four bits of type and
28 of value, which is a number or a place in the block. apk has verified an index before it is read here; every place and
every size is checked nevertheless.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO, Final

MAGIC: Final = b"ADB"
INDEX_SCHEMA: Final = b"indx"
PACKAGE_SCHEMA: Final = b"pckg"
_SHORT: Final = 4
_LONG: Final = 16
_LONG_TYPE: Final = 3
_CHUNK: Final = 64 << 10
_INT: Final = 1
_SIZES: Final = {2: 4, 3: 8}
_LENGTHS: Final = {8: 1, 9: 2, 10: 4}
_LISTS: Final = (13, 14)
_MOST_SLOTS: Final = 64
_MOST_PACKAGES: Final = 1 << 20
_MOST_TEXT: Final = 1 << 10
NAME, VERSION, HASHES, ARCH, BUILT, INSTALLED_SIZE, SIZE = 1, 2, 3, 5, 11, 12, 13
_SPEC: Final = 3
_PACKAGES: Final = 2
_USUAL: Final = frozenset({b"", b"${name}-${version}.apk", b"${arch}/${name}-${version}.apk"})


def read_metadata(stream: BinaryIO, schema: bytes, most: int) -> bytes:
    """Return the metadata of a file of format 3, of at most `most` bytes.

    Raises ValueError, zlib.error or EOFError if the file is not of the schema, is damaged, or has more.
    """
    plain = _Plain(stream)
    head = plain.take(8)
    if head[:4] != b"ADB." or head[4:] != schema:
        raise ValueError(f"it begins with {head[:8]!r}, not with {b'ADB.' + schema!r}")
    word = int.from_bytes(plain.take(_SHORT), "little")
    kind, size, length = word >> 30, word & ((1 << 30) - 1), _SHORT
    if kind == _LONG_TYPE:
        rest = plain.take(_LONG - _SHORT)
        kind, size, length = size, int.from_bytes(rest[4:], "little"), _LONG
    if kind or not length <= size <= most:
        raise ValueError(f"its first block is of type {kind} and has {size} bytes; metadata of at most {most} was expected")
    return plain.take(size - length)


class _Plain:
    """The unpacked bytes of a stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._kept = stream.read(4)
        self._unpack = None
        algorithm = 0
        if self._kept == b"ADBd":
            self._kept, algorithm = b"", 1
        elif self._kept == b"ADBc":
            self._kept, (algorithm, _level) = b"", stream.read(2).ljust(2, b"\xff")
        if algorithm > 1:
            raise ValueError(f"it is packed by the algorithm {algorithm}; none and deflate are known")
        if algorithm:
            self._unpack = zlib.decompressobj(-zlib.MAX_WBITS)

    def take(self, size: int) -> bytes:
        """Return exactly `size` bytes. Raises EOFError and zlib.error."""
        parts, left = [self._kept[:size]], size - len(self._kept[:size])
        self._kept = self._kept[size:]
        while left:
            piece = self._more(min(left, _CHUNK))
            parts.append(piece)
            left -= len(piece)
        return b"".join(parts)

    def _more(self, most: int) -> bytes:
        if self._unpack is None:
            data = self._stream.read(most)
            if not data:
                raise EOFError("it ends in the middle")
            return data
        while True:
            packed = self._unpack.unconsumed_tail or self._stream.read(_CHUNK)
            data = self._unpack.decompress(packed, most)
            if data:
                return data
            if self._unpack.eof or not packed:
                raise EOFError("it ends in the middle")


class Values:
    """The values of a metadata block. Raises ValueError for each that is not well formed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        if len(data) < 8 or data[0]:
            raise ValueError("its metadata is of an unknown version")

    def root(self) -> tuple[int, ...]:
        """Return the slots of the object that all others hang from."""
        return self.object(int.from_bytes(self._data[4:8], "little"))

    def object(self, word: int) -> tuple[int, ...]:
        """Return the words in the slots of an object, counted from 1; 0 for those that it lacks."""
        slots = self._slots(word, _MOST_SLOTS)
        return slots + (0,) * (_MOST_SLOTS - len(slots))

    def array(self, word: int) -> tuple[int, ...]:
        """Return the words of an array."""
        return self._slots(word, _MOST_PACKAGES)[1:] if word else ()

    def _slots(self, word: int, most: int) -> tuple[int, ...]:
        kind, place = word >> 28, word & 0x0FFFFFFF
        if kind not in _LISTS or place % 4 or not 8 <= place <= len(self._data) - 4:
            raise ValueError(f"a list of type {kind} at {place} is outside of its metadata")
        count = int.from_bytes(self._data[place : place + 4], "little")
        if not 0 < count <= most or place + 4 * count > len(self._data):
            raise ValueError(f"a list at {place} has {count} slots, more than there may be, or none")
        return tuple(memoryview(self._data[place : place + 4 * count]).cast("I"))

    def number(self, word: int) -> int:
        """Return a number; 0 if there is none. Raises ValueError."""
        kind, place = word >> 28, word & 0x0FFFFFFF
        if kind == _INT or not word:
            return place
        size = _SIZES.get(kind, 0)
        if not size or not 8 <= place <= len(self._data) - size:
            raise ValueError(f"a number of type {kind} at {place} is outside of its metadata")
        return int.from_bytes(self._data[place : place + size], "little")

    def blob(self, word: int) -> bytes:
        """Return bytes, b"" if there is no value. Raises ValueError."""
        if not word:
            return b""
        kind, place = word >> 28, word & 0x0FFFFFFF
        start = place + _LENGTHS.get(kind, 0)
        size = int.from_bytes(self._data[place:start], "little")
        if start == place or place < 8 or size > _MOST_TEXT or start + size > len(self._data):
            raise ValueError(f"{size} bytes of type {kind} at {place} are too many, or outside of its metadata")
        return self._data[start : start + size]


def packages(metadata: bytes) -> Iterator[tuple[Values, tuple[int, ...]]]:
    """Yield the slots of each package of an index. Raises ValueError."""
    values = Values(metadata)
    root = values.root()
    if (spec := values.blob(root[_SPEC])) not in _USUAL:
        raise ValueError(f"its files are named {spec!r}; name-version.apk is known")
    for word in values.array(root[_PACKAGES]):
        yield values, values.object(word)
