# SPDX-License-Identifier: Apache-2.0
"""What stands between a host's VNC server and the viewer: it reads each message, and passes on what the viewer may see.

The viewer's library is written in C, and a host may be hostile. It gets pictures in two encodings, within a desktop of a size
that has a limit; cursors; new sizes. Names and cut texts end here. Anything else ends the connection.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from tower.display.relay import CHUNK, Half, OddError, Rules, Through

MOST_SIDE: Final = 8192
MOST_PIXELS: Final = 7680 * 4320
_MOST_NAME: Final = 4096
_MOST_TEXT: Final = 1 << 20
_MOST_CURSOR: Final = 256
_MOST_SCREENS: Final = 16
_VERSION: Final = b"RFB 003.008\n"
_NONE: Final = 1
"""The security type of a server that asks for nothing: whoever reaches its socket may use it."""

_RAW, _COPY, _ZRLE = 0, 1, 16
_CURSOR, _SIZE, _SIZES, _LAST = -239, -223, -308, -224
ALLOWED: Final = frozenset({_RAW, _COPY, _ZRLE, _CURSOR, _SIZE, _SIZES, _LAST})
"""Encodings that the server may use, of those that the viewer offers."""


@dataclass(slots=True)
class PictureFilter:
    """Both directions of one connection."""

    name: str
    """What the viewer is told in place of the server's name."""
    from_server: Half = field(default_factory=Half)
    from_viewer: Half = field(default_factory=Half)
    width: int = 0
    height: int = 0
    pixel: int = 4
    """Bytes of a pixel."""

    def __post_init__(self) -> None:
        self.from_server.follow(self._server())
        self.from_viewer.follow(self._viewer())

    # The server's messages.

    def _server(self) -> Rules:
        if (yield 12) != _VERSION:
            raise OddError("does not speak RFB 3.8")
        count = (yield 1)[0]
        if _NONE not in (yield count):
            raise OddError("asks for a password")
        if (yield 4) != bytes(4):
            raise OddError("does not let us in")
        yield from self._begin()
        while True:
            kind = (yield 1)[0]
            if kind == 0:
                yield from self._update()
            elif kind == 2:
                self.from_server.out += b"\x02"
            elif kind == 3:
                (length,) = struct.unpack(">3xI", (yield 7))
                yield from _skipped(length)
            else:
                raise OddError(f"sends a message of kind {kind}")

    def _begin(self) -> Rules:
        head = yield 24
        width, height, bits, depth, _, true_colour = struct.unpack(">HHBBBB", head[:8])
        (length,) = struct.unpack(">I", head[20:])
        # Whether colours are true: x11vnc says it by 255.
        if (bits, depth, true_colour != 0) != (32, 24, True):
            raise OddError(f"has {depth} bits of colour, in {bits}")
        if length > _MOST_NAME:
            raise OddError(f"has a name of {length} bytes")
        yield length
        self._resize(width, height)
        name = self.name.encode()[:_MOST_NAME]
        self.from_server.out += head[:20] + struct.pack(">I", len(name)) + name

    def _update(self) -> Rules:
        head = yield 3
        (count,) = struct.unpack(">xH", head)
        self.from_server.out += b"\0" + head
        for _ in range(count):
            head = yield 12
            x, y, width, height, encoding = struct.unpack(">HHHHi", head)
            if encoding in (_SIZE, _SIZES):
                _check_size(width, height)
            self.from_server.out += head
            if encoding == _LAST:
                return
            yield from self._rectangle(x, y, width, height, encoding)

    def _rectangle(self, x: int, y: int, width: int, height: int, encoding: int) -> Rules:
        if encoding in (_SIZE, _SIZES):
            yield from self._new_size(y, width, height, with_screens=encoding == _SIZES)
        elif encoding == _CURSOR:
            if max(width, height) > _MOST_CURSOR or x > width or y > height:
                raise OddError(f"has a cursor of {width} by {height} pixels")
            yield Through(width * height * self.pixel + (width + 7) // 8 * height)
        elif x + width > self.width or y + height > self.height:
            raise OddError("paints outside of its desktop")
        elif encoding == _COPY:
            source = yield 4
            left, top = struct.unpack(">HH", source)
            if left + width > self.width or top + height > self.height:
                raise OddError("copies from outside of its desktop")
            self.from_server.out += source
        elif encoding == _ZRLE:
            head = yield 4
            (length,) = struct.unpack(">I", head)
            if length > 2 * width * height * self.pixel + 65536:
                raise OddError(f"sends {length} bytes for {width} by {height} pixels")
            self.from_server.out += head
            yield Through(length)
        elif encoding == _RAW:
            yield Through(width * height * self.pixel)
        else:
            raise OddError(f"paints with encoding {encoding}, which was not offered")

    def _new_size(self, status: int, width: int, height: int, *, with_screens: bool) -> Rules:
        if with_screens:
            head = yield 4
            if head[0] > _MOST_SCREENS:
                raise OddError(f"has {head[0]} screens")
            self.from_server.out += head
            yield Through(16 * head[0])
            if status:  # it did not do as it was asked, and says which size it keeps
                return
        self._resize(width, height)

    def _resize(self, width: int, height: int) -> None:
        _check_size(width, height)
        self.width, self.height = width, height

    # The viewer's messages: those of a library that we know, so that anything else is a fault.

    def _viewer(self) -> Rules:
        # The handshake, which has no choices: each side gets the other's part of it from here.
        self.from_server.out += _VERSION + bytes([1, _NONE]) + bytes(4)
        yield 12 + 1
        self.from_viewer.out += _VERSION + bytes([_NONE])
        # Whether other viewers may stay: none may.
        yield 1
        self.from_viewer.out += b"\0"
        sizes = {3: 9, 4: 7, 5: 5}
        while True:
            kind = yield 1
            if kind[0] == 0:
                rest = yield 19
                self.pixel = rest[3] // 8
                if rest[3] not in (8, 16, 32):
                    raise OddError("viewer: wants an unknown pixel format")
                self.from_viewer.out += kind + rest
            elif kind[0] == 2:
                yield from self._offer()
            elif kind[0] == 6:
                (length,) = struct.unpack(">3xI", (yield 7))
                yield from _skipped(length)
            elif kind[0] == 251:
                rest = yield 7
                self.from_viewer.out += kind + rest
                yield Through(16 * rest[5])
            elif kind[0] in sizes:
                self.from_viewer.out += kind
                yield Through(sizes[kind[0]])
            else:
                raise OddError(f"viewer: sends a message of kind {kind[0]}")

    def _offer(self) -> Rules:
        (count,) = struct.unpack(">xH", (yield 3))
        offered = struct.unpack(f">{count}i", (yield 4 * count))
        kept = [one for one in offered if one in ALLOWED]
        self.from_viewer.out += struct.pack(f">BxH{len(kept)}i", 2, len(kept), *kept)


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE and width * height <= MOST_PIXELS):
        raise OddError(f"has a desktop of {width} by {height} pixels")


def _skipped(length: int) -> Rules:
    """Skip a text. A negative length announces an extension that was not asked for."""
    if length > _MOST_TEXT:
        raise OddError(f"sends a text of {length} bytes")
    while length:
        length -= len((yield min(length, CHUNK)))
