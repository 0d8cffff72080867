# SPDX-License-Identifier: Apache-2.0
"""Write values, blocks and packed files of format 3, as apk does: equal values have one place, equal input gives equal bytes."""

from __future__ import annotations

import functools
import zlib

from pipeline.apk.adb import block_signature, fields
from pipeline.apk.adb.adbfile import ADB, ALIGNMENT, DATA, LONG_HEAD, MAGIC, SHORT_HEAD, SIG, SIZE_BITS
from pipeline.apk.adb.packing import DEFAULT_LEVEL
from pipeline.apk.adb.values import BLOB8, BLOB16, BLOB32, HEAD, INT, INT32, INT64, NULL, OBJECT, PLACES, TYPE_SHIFT, WORD
from pipeline.apk.format import version as versions
from pipeline.apk.format.pkginfo import parse_dependency
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import BinaryIO

    from pipeline.apk.format.pkginfo import Dependency
    from pipeline.apk.format.signature import Signer

_LONG = 3 << SIZE_BITS


class Encoder:
    """A metadata block in the making."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._data = bytearray(HEAD)
        self._places: dict[bytes, int] = {}

    def _put(self, data: bytes, alignment: int, *, shared: bool = True) -> int:
        """Return the place of some bytes; only `shared` ones may be in the place of equal bytes before them."""
        place = self._places.get(data, 1) if shared else 1
        if place % alignment or place < HEAD:
            self._data += bytes(-len(self._data) % alignment)
            place = len(self._data)
            self._data += data
            if shared:
                self._places[data] = place
        if place > PLACES:
            raise FormatError(f"{self._what}: more than {PLACES} bytes of metadata, which format 3 cannot hold")
        return place

    def blob(self, data: bytes, *, shared: bool = True) -> int:
        """Return the word for bytes; NULL for none."""
        size = len(data)
        if not size:
            return NULL
        kind, length = (BLOB8, 1) if size < 1 << 8 else (BLOB16, 2) if size < 1 << 16 else (BLOB32, 4)
        return kind << TYPE_SHIFT | self._put(size.to_bytes(length, "little") + data, length, shared=shared)

    def text(self, text: str) -> int:
        """Return the word for a text."""
        return self.blob(text.encode("utf-8", "surrogateescape"))

    def number(self, number: int) -> int:
        """Return the word for a number from 0 on. Raises FormatError."""
        if 0 <= number <= PLACES:
            return INT << TYPE_SHIFT | number
        if not 0 <= number < 1 << 64:
            raise FormatError(f"{self._what}: the number {number} does not fit into 64 bits")
        kind, size = (INT32, 4) if number < 1 << 32 else (INT64, 8)
        return kind << TYPE_SHIFT | self._put(number.to_bytes(size, "little"), WORD)

    def object(self, slots: Mapping[int, int]) -> int:
        """Return the word for an object with words in some of its slots; NULL if there are none."""
        last = max((slot for slot, word in slots.items() if word), default=0)
        return self.array([slots.get(slot, NULL) for slot in range(1, last + 1)])

    def array(self, words: Sequence[int]) -> int:
        """Return the word for a list; NULL for an empty one."""
        if not words:
            return NULL
        data = b"".join(word.to_bytes(WORD, "little") for word in (len(words) + 1, *words))
        return OBJECT << TYPE_SHIFT | self._put(data, WORD)

    def conditions(self, texts: Iterable[str]) -> int:
        """Return the word for dependencies, which apk sorts, and of which it keeps one of a kind."""
        found = {str(item): item for item in map(parse_dependency, texts)}
        words = {str(item): self._condition(item) for item in found.values()}
        ordered = sorted(found.values(), key=functools.cmp_to_key(_order))
        return self.array(list(dict.fromkeys(words[str(item)] for item in ordered)))

    def _condition(self, item: Dependency) -> int:
        match = _match(item)
        slots = {fields.DEP_NAME: self.text(item.name), fields.DEP_VERSION: self.text(item.version)}
        if match != fields.EQUAL:
            slots[fields.DEP_MATCH] = self.number(match)
        return self.object(slots)

    def finish(self, root: int) -> bytes:
        """Return the block with its root."""
        self._data[4:HEAD] = root.to_bytes(WORD, "little")
        return bytes(self._data)


def _match(item: Dependency) -> int:
    """Return the number of a dependency's operator."""
    conflict = fields.CONFLICT if item.conflict else 0
    if not item.op:
        return conflict | fields.EQUAL | fields.LESS | fields.GREATER if conflict else fields.EQUAL
    return fields.OPERATORS[item.op] | conflict


def _order(a: Dependency, b: Dependency) -> int:
    """Return -1, 0 or 1 for apk's order: by name, version and operator."""
    one, two = a.name.encode(), b.name.encode()
    if one != two:
        return -1 if one < two else 1
    if a.version and b.version and versions.is_valid(a.version) and versions.is_valid(b.version):
        order = versions.compare(a.version, b.version)
    else:
        order = (a.version > b.version) - (a.version < b.version)
    return order or (_match(a) > _match(b)) - (_match(a) < _match(b))


class Packer:
    """Writes a packed file: by deflate with a `level`, or plain for level 0."""

    def __init__(self, out: BinaryIO, level: int = DEFAULT_LEVEL) -> None:
        self._out = out
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS) if level else None
        if level:
            out.write(b"ADBd" if level == DEFAULT_LEVEL else bytes((*b"ADBc", 1, level)))

    def write(self, data: bytes) -> None:
        """Pack more bytes."""
        self._out.write(self._zlib.compress(data) if self._zlib else data)

    def close(self) -> None:
        """End the file; the underlying stream stays open."""
        if self._zlib:
            self._out.write(self._zlib.flush())

    def start(self, schema: bytes, metadata: bytes, signer: Signer | None) -> None:
        """Write the head of a file: metadata and signature."""
        self.write(MAGIC + schema)
        self.block(ADB, metadata)
        if signer is not None:
            self.block(SIG, block_signature.make(signer, schema, metadata))

    def block(self, kind: int, content: bytes) -> None:
        """Write a whole block."""
        self.write(block_head(kind, len(content)) + content + bytes(padding(len(content))))

    def data_head(self, path: int, file: int, size: int) -> None:
        """Write the head of a block with a file's data; the data and `padding` of 8 more bytes than it has must follow."""
        self.write(block_head(DATA, size + 8) + path.to_bytes(4, "little") + file.to_bytes(4, "little"))


def block_head(kind: int, size: int) -> bytes:
    """Return the head of a block that holds `size` bytes."""
    if size + SHORT_HEAD < 1 << SIZE_BITS:
        return (kind << SIZE_BITS | size + SHORT_HEAD).to_bytes(SHORT_HEAD, "little")
    return (_LONG | kind).to_bytes(SHORT_HEAD, "little") + bytes(4) + (size + LONG_HEAD).to_bytes(8, "little")


def padding(size: int) -> int:
    """Return how many zeros follow a block that holds `size` bytes."""
    return -(size + len(block_head(0, size))) % ALIGNMENT
