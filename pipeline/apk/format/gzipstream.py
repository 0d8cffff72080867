# SPDX-License-Identifier: Apache-2.0
"""Read a file that consists of several gzip members, member by member, with bounds.

A package's meaning depends on where its members begin and end (signature, control, data), and its signature and
checksums are over their raw bytes; the standard `gzip` module hides both.
"""

from __future__ import annotations

import zlib

from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO, Protocol

    class Hash(Protocol):
        """The interface of hashlib's objects."""

        def update(self, data: bytes | memoryview, /) -> None:
            """Add more bytes."""

        def hexdigest(self) -> str:
            """Return the digest so far."""


_RAW_CHUNK = 1 << 16
_PLAIN_CHUNK = 1 << 15  # the size that zlib returns in one piece
_GZIP = 31  # zlib's window bits for "gzip header and trailer, checked"


def _fast() -> Any:
    """Return the module isal_zlib, a faster zlib, or zlib itself (the lab's `apk` has nothing else)."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


class RawSource:
    """The raw bytes of `stream`, some of which may be given back; `name` is for messages."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self.name = name
        self.position = 0
        self._stream = stream
        self._back = b""

    def take(self) -> bytes:
        """Return some bytes; b"" at the end."""
        data, self._back = self._back or self._stream.read(_RAW_CHUNK), b""
        self.position += len(data)
        return data

    def give_back(self, data: bytes) -> None:
        """Put unused bytes back; the next `take` returns them."""
        self._back = data
        self.position -= len(data)

    def begins_with(self, magic: bytes) -> bool:
        """Tell whether the next bytes are `magic`; they stay to be taken."""
        while len(self._back) < len(magic) and (more := self._stream.read(_RAW_CHUNK)):
            self._back += more
        return self._back.startswith(magic)

    def at_end(self) -> bool:
        """Tell whether nothing is left."""
        if not self._back:
            self._back = self._stream.read(_RAW_CHUNK)
        return not self._back


class GzipMember:
    """One gzip member, unpacked as it is read; `what` names it in messages.

    More than `max_raw` packed or `max_plain` unpacked bytes is an error, before they are in memory.
    The packed bytes go to `hashes`, and with `keep` also to `raw`. `trusted` says that a trusted signer packed the bytes:
    then a faster library unpacks them, if it is installed; bytes of unknown origin go only to zlib.
    """

    def __init__(
        self,
        source: RawSource,
        what: str,
        *,
        max_raw: int,
        max_plain: int,
        hashes: tuple[Hash, ...] = (),
        keep: bool = False,
        trusted: bool = False,
    ) -> None:
        self.raw = bytearray()
        self.raw_size = 0
        self.plain_size = 0
        self.finished = False
        self.where = f"{source.name}: {what}"
        self._source = source
        self._max_raw = max_raw
        self._max_plain = max_plain
        self._hashes = hashes
        self._keep = keep
        library = _fast() if trusted else zlib
        self._zlib, self._error = library.decompressobj(_GZIP), library.error
        self._input = b""
        self._more = False  # the decompressor may hold output that needs no input
        self._plain = b""
        self._offset = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` unpacked bytes; b"" at the end of the member."""
        while self._offset >= len(self._plain):
            if self.finished:
                return b""
            self._plain = self._unpack()
            self._offset = 0
        data = self._plain[self._offset : self._offset + size]
        self._offset += len(data)
        return data

    def read_all(self) -> bytes:
        """Return the whole rest, unpacked."""
        parts = []
        while part := self.read(_PLAIN_CHUNK):
            parts.append(part)
        return b"".join(parts)

    def _unpack(self) -> bytes:
        if not self._input and not self._more:
            self._input = self._source.take()
            if not self._input:
                raise FormatError(f"{self.where}: truncated gzip member, it ends after {self.raw_size} bytes")
        given = self._input
        try:
            plain: bytes = self._zlib.decompress(given, _PLAIN_CHUNK)
        except self._error as error:
            raise FormatError(f"{self.where}: damaged gzip member: {error}") from None
        unused = self._zlib.unused_data
        self._input = b"" if self._zlib.eof else self._zlib.unconsumed_tail
        self._more = len(plain) == _PLAIN_CHUNK
        self._count(memoryview(given)[: len(given) - len(unused) - len(self._input)], len(plain))
        if self._zlib.eof:
            self.finished = True
            self._source.give_back(unused)
        return plain

    def _count(self, used: memoryview, plain: int) -> None:
        self.raw_size += len(used)
        self.plain_size += plain
        if self.raw_size > self._max_raw:
            raise FormatError(f"{self.where}: larger than the {self._max_raw} bytes allowed")
        if self.plain_size > self._max_plain:
            raise FormatError(f"{self.where}: unpacks to more than the {self._max_plain} bytes allowed")
        for digest in self._hashes:
            digest.update(used)
        if self._keep:
            self.raw += used
