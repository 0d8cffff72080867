# SPDX-License-Identifier: Apache-2.0
"""The parts of a PNG file (PNG specification, third edition, section 5), for all that reads pictures of hosts."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS: Final = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS: Final = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
"""The bits that a channel may have, by the type of colour."""
_AROUND: Final = 12
"""Bytes of a part besides its content."""


class DamagedPngError(Exception):
    """Bytes that are no PNG file; the text says what is wrong, and follows "the picture"."""


def parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each part, up to the end mark, and that. Raises DamagedPngError."""
    if not data.startswith(SIGNATURE):
        raise DamagedPngError("is not a PNG file")
    kind, place = b"", len(SIGNATURE)
    while kind != b"IEND":
        if len(data) - place < _AROUND:
            raise DamagedPngError("has no end")
        size, kind = struct.unpack_from(">I4s", data, place)
        end = place + _AROUND + size
        if end > len(data):
            raise DamagedPngError("has no end")
        body = data[place + 8 : end - 4]
        if struct.unpack_from(">I", data, end - 4)[0] != zlib.crc32(body, zlib.crc32(kind)):
            raise DamagedPngError("has a part with a wrong checksum")
        yield kind, body
        place = end


def part(kind: bytes, body: bytes) -> bytes:
    """Return a part as a file has it."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
