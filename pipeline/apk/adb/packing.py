# SPDX-License-Identifier: Apache-2.0
"""The packing of a file of format 3: none, deflate or zstd, unpacked as it is read.

A file begins with `ADB.` (not packed), `ADBd` (deflate) or `ADBc`, algorithm, level. What is signed is the unpacked file, so
apk does not notice a change of packed bytes that unpacks to the same. Here, it is found if it is in the bits after the end of
deflate's data, which packers leave 0, and anywhere in files of at most MOST_COMPARED unpacked bytes. What is left are single
bits of larger files that unpack to the same, such as one that makes a repetition point to other, equal bytes, and the level in
the header. They change nothing that is installed, and the digest of the file in a lock finds them.
"""

from __future__ import annotations

import importlib
import operator
import zlib

from pipeline.base.errors import FormatError, ToolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pipeline.apk.format.gzipstream import RawSource

    class Unpacker(Protocol):
        """An algorithm at work."""

        ended: bool
        unused: bytes

        def unpack(self, data: bytes) -> bytes:
            """Return the next unpacked bytes; b"" if more packed ones are needed. `data` is what comes after those before."""


PLAIN, DEFLATE, ZSTD = 0, 1, 2
LEVELS = {PLAIN: range(2), DEFLATE: range(10), ZSTD: range(23)}
DEFAULT_LEVEL = 9  # of apk, for both algorithms
MOST_COMPARED = 1 << 16
"""The largest unpacked file that is packed again to find changes that make no difference."""
_CHUNK = 1 << 15
_WINDOW = 27  # the largest window of zstd that apk accepts: 128 MiB


class _Deflate:
    """Raw deflate, without a header or a checksum."""

    def __init__(self) -> None:
        self.ended = False
        self.unused = b""
        self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        self._before = self._zlib
        self._taken = b""

    def unpack(self, data: bytes) -> bytes:
        """Return the next unpacked bytes. Raises zlib.error, also if the last byte has a bit set after the end of the data."""
        given, before = self._zlib.unconsumed_tail + data, self._zlib.copy()
        plain = self._zlib.decompress(given, _CHUNK)
        self.ended, self.unused = self._zlib.eof, self._zlib.unused_data
        if taken := len(given) - len(self._zlib.unconsumed_tail) - len(self.unused):
            self._before, self._taken = before, given[:taken]
        if self.ended:
            self._check_padding()
        return plain

    def _check_padding(self) -> None:
        """Refuse a last byte whose highest bit that is set could be 0 as well: it is not part of the data."""
        last = self._taken[-1]
        if not last:
            return
        self._before.decompress(self._taken[:-1])
        without = self._before.copy()
        cleared = last ^ 1 << last.bit_length() - 1
        expected = self._before.decompress(bytes((last,)))
        try:
            same = without.decompress(bytes((cleared,))) == expected and without.eof
        except zlib.error:
            same = False
        if same:
            raise zlib.error("a bit is set after the end of the packed data")


def _library(where: str) -> Any:
    """Return Python's module of zstd: its own, or the package that gives it to older ones. Raises ToolError without one."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ToolError(f"{where}: is packed by zstd, which this Python cannot read", hint="pip install backports.zstd")


class _Zstd:
    """One frame of zstd."""

    def __init__(self, where: str) -> None:
        zstd = _library(where)
        self.ended = False
        self.unused = b""
        self._error = zstd.ZstdError
        self._zstd = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW})

    def unpack(self, data: bytes) -> bytes:
        try:
            plain: bytes = self._zstd.decompress(data, _CHUNK)
        except self._error as error:
            raise zlib.error(str(error)) from None
        self.ended, self.unused = self._zstd.eof, self._zstd.unused_data
        return plain


class AdbStream:
    """The unpacked bytes of a file, from its `ADB.` on; `name` is for messages, `position` counts what has been read."""

    def __init__(self, source: RawSource) -> None:
        self.name = source.name
        self.position = 0
        self._source = source
        self._plain = b""
        self._offset = 0
        self._unpacker: Unpacker | None = None
        self._raw: list[bytes] | None = None  # both are kept while they are small enough to be compared
        self._seen: list[bytes] = []
        self._size = 0
        self.algorithm, self.level = self._begin()

    def _begin(self) -> tuple[int, int]:
        source = self._source
        algorithm, level, head = PLAIN, 1, 0
        if source.begins_with(b"ADBd"):
            algorithm, level, head = DEFLATE, 0, 4
        elif source.begins_with(b"ADBc"):
            start = _taken(source, 6)
            if len(start) < 6:
                raise FormatError(f"{self.name}: truncated in its header")
            algorithm, level = start[4], start[5]
            if level not in LEVELS.get(algorithm, ()):
                raise FormatError(
                    f"{self.name}: packed by an unknown algorithm ({algorithm}, level {level})",
                    hint="apk writes none, deflate (1 to 9) or zstd (1 to 22): apk adbsign --compression deflate FILE",
                )
        elif not source.begins_with(b"ADB."):
            start = source.take()
            raise FormatError(f"{self.name}: begins with {start[:4]!r}, not with ADB., ADBc or ADBd")
        if head:
            _taken(source, head)
        if algorithm:
            self._unpacker = _Deflate() if algorithm == DEFLATE else _Zstd(self.name)
            self._raw = []
        return algorithm, level or DEFAULT_LEVEL

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; b"" at the end."""
        while self._offset >= len(self._plain):
            self._plain, self._offset = self._more(), 0
            if not self._plain:
                return b""
        data = self._plain[self._offset : self._offset + size]
        self._offset += len(data)
        self.position += len(data)
        return data

    def _more(self) -> bytes:
        """Return the next unpacked bytes; b"" at the end, when all has been checked."""
        unpacker = self._unpacker
        if unpacker is None:
            return self._source.take()
        given = b""
        while not unpacker.ended:
            try:
                plain = unpacker.unpack(given)
            except zlib.error as error:
                raise FormatError(f"{self.name}: damaged: {error}") from None
            if plain:
                self._keep(given, plain)
                return plain
            if unpacker.ended:
                break
            self._keep(given, b"")
            given = self._source.take()
            if not given:
                raise FormatError(f"{self.name}: truncated, its packed bytes end after {self._source.position}")
        self._keep(given, b"")
        if unpacker.unused or not self._source.at_end():
            raise FormatError(f"{self.name}: bytes after the end (trailing garbage)")
        self._compare()
        return b""

    def _keep(self, packed: bytes, plain: bytes) -> None:
        self._size += len(plain)
        if self._size > MOST_COMPARED:
            self._raw, self._seen = None, []
        elif self._raw is not None:
            self._raw.append(packed)
            self._seen.append(plain)

    def _compare(self) -> None:
        """Refuse packed bytes that differ in one place from what the usual program makes of the unpacked ones.

        Other programs and versions pack differently, in many places or to another length; only damage differs in one byte.
        """
        if self._raw is None:
            return
        raw, plain = b"".join(self._raw), b"".join(self._seen)
        self._raw, self._seen = None, []
        usual = pack(plain, self.algorithm, self.level)
        if len(usual) == len(raw) and sum(map(operator.ne, usual, raw)) == 1:
            raise FormatError(f"{self.name}: damaged: one packed byte is not as the packer writes it")


def _taken(source: RawSource, size: int) -> bytes:
    """Take exactly `size` bytes, fewer at the end."""
    data = b""
    while len(data) < size and (more := source.take()):
        data += more
    source.give_back(data[size:])
    return data[:size]


def pack(plain: bytes, algorithm: int, level: int) -> bytes:
    """Return packed bytes, without the header."""
    if algorithm == ZSTD:
        zstd = _library("the file")
        packer = zstd.ZstdCompressor(level=level)
        packed: bytes = packer.compress(plain, packer.FLUSH_FRAME)
        return packed
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(plain) + packer.flush()
