# SPDX-License-Identifier: Apache-2.0
"""The values in a metadata block: words of four bits of type and 28 of value, which is a number or a place in the block.

Every place and every size is checked against the block before it is used. Words may share a place, and the same place is
read once for texts, so that a small block cannot become large in memory. How deep values nest, the callers decide.
"""

from __future__ import annotations

import struct

from pipeline.base.errors import FormatError

SPECIAL, INT, INT32, INT64 = 0, 1, 2, 3
BLOB8, BLOB16, BLOB32 = 8, 9, 10
ARRAY, OBJECT = 13, 14
ERROR = 15
"""What apk writes in the place of a value that it could not convert, such as a version that is none."""
TYPE_SHIFT = 28
PLACES = (1 << TYPE_SHIFT) - 1
NULL = 0
HEAD = 8
"""The bytes of the block's own header: two versions, two reserved bytes, the root's word."""
WORD = 4
_LENGTHS = {BLOB8: 1, BLOB16: 2, BLOB32: 4}
_SIZES = {INT32: 4, INT64: 8}
_MOST_SLOTS = 64
"""The most slots of an object; apk's own have up to 22, and newer ones may have more."""
_MOST_KNOWN = 1 << 12
"""The longest text that is kept for other words with its place."""


class Values:
    """The values of one block; `where` names the block in messages. Raises FormatError for anything that is not well formed."""

    def __init__(self, data: bytes, where: str) -> None:
        self.where = where
        self._data = data
        self._texts: dict[int, str] = {}
        if len(data) < HEAD:
            raise FormatError(f"{where}: metadata of {len(data)} bytes, its header alone has {HEAD}")
        compatible, _version, reserved, self._root = struct.unpack_from("<BBHI", data)
        if compatible:
            raise FormatError(f"{where}: metadata of version {compatible}; only version 0 is known", hint="use a newer TowerOS")
        if reserved:
            raise FormatError(f"{where}: metadata with reserved bits set in its header")

    def root(self) -> tuple[int, ...]:
        """Return the slots of the object that all others hang from."""
        return self.object(self._root, "root")

    def object(self, word: int, what: str) -> tuple[int, ...]:
        """Return the words in the slots of an object; the first slot, which holds the count, is there to count from 1.

        Raises FormatError.
        """
        slots = self._slots(word, what)
        if len(slots) > _MOST_SLOTS:
            raise FormatError(f"{self.where}: {what}: object of {len(slots)} fields, {_MOST_SLOTS} are allowed")
        return slots + (NULL,) * (_MOST_SLOTS - len(slots))

    def array(self, word: int, what: str) -> tuple[int, ...]:
        """Return the words of an array; none for NULL."""
        return self._slots(word, what)[1:] if word else ()

    def _slots(self, word: int, what: str) -> tuple[int, ...]:
        """Return the slots of an array or an object; apk writes lists as either, and takes either."""
        kind, place = word >> TYPE_SHIFT, word & PLACES
        if kind not in (ARRAY, OBJECT):
            raise FormatError(f"{self.where}: {what}: value of type {kind}, an array or an object was expected")
        if place < HEAD or place % WORD or place + WORD > len(self._data):
            raise FormatError(f"{self.where}: {what}: lies at {place}, outside of the metadata or not aligned")
        count = int.from_bytes(self._data[place : place + WORD], "little")
        if not count or place + count * WORD > len(self._data):
            raise FormatError(f"{self.where}: {what}: {count} slots at {place}, more than there are, or none")
        return struct.unpack_from(f"<{count}I", self._data, place)

    def number(self, word: int, what: str) -> int | None:
        """Return a number; None for NULL. Raises FormatError."""
        kind, place = word >> TYPE_SHIFT, word & PLACES
        if kind == INT:
            return place
        if not word:
            return None
        size = _SIZES.get(kind)
        if size is None:
            raise FormatError(f"{self.where}: {what}: value of type {kind}, a number was expected")
        if place < HEAD or place + size > len(self._data):
            raise FormatError(f"{self.where}: {what}: lies at {place}, outside of the metadata")
        return int.from_bytes(self._data[place : place + size], "little")

    def blob(self, word: int, what: str) -> bytes:
        """Return bytes; none for NULL. Raises FormatError."""
        if not word:
            return b""
        kind, place = word >> TYPE_SHIFT, word & PLACES
        length = _LENGTHS.get(kind)
        if length is None:
            raise FormatError(f"{self.where}: {what}: value of type {kind}, bytes were expected")
        start = place + length
        size = int.from_bytes(self._data[place:start], "little")
        if place < HEAD or start + size > len(self._data):
            raise FormatError(f"{self.where}: {what}: {size} bytes at {place}, outside of the metadata")
        return self._data[start : start + size]

    def text(self, word: int, what: str, *, foreign: bool = False, any_bytes: bool = False) -> str:
        """Return a text; "" for NULL.

        A `foreign` one is only for people and may have another encoding; one of `any_bytes` gets surrogates for them.
        Raises FormatError.
        """
        known = self._texts.get(word)
        if known is not None:
            return known
        data = self.blob(word, what)
        try:
            text = data.decode("utf-8", "surrogateescape" if any_bytes else "strict")
        except UnicodeDecodeError:
            if not foreign:
                raise FormatError(f"{self.where}: {what}: not UTF-8: {data[:80]!r}") from None
            return data.decode("cp1252", "replace")
        if len(data) <= _MOST_KNOWN and not any_bytes:
            self._texts[word] = text
        return text
