# SPDX-License-Identifier: Apache-2.0
"""Read and write PNG files (PNG specification, third edition): icons of hosts, which are not trusted.

No library written in C sees the bytes of a host, apart from zlib, whose output has a limit. What icons are is read: grey,
colour and palette, of any depth, with or without transparency. Interlaced files are refused, and so is anything damaged.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from tower.base.errors import ValueRefusedError
from tower.display.pngfile import CHANNELS, DEPTHS, GREY_ALPHA, PALETTE, RGBA, SIGNATURE, DamagedPngError, part, parts

MOST: Final = 512 << 10
"""The most bytes of a file."""
MOST_SIDE: Final = 512


@dataclass(frozen=True, slots=True)
class Picture:
    """Rows of pixels: red, green, blue and opacity, a byte each."""

    width: int
    height: int
    pixels: bytes


@dataclass(frozen=True, slots=True)
class _Head:
    width: int
    height: int
    depth: int
    colours: int

    @property
    def channels(self) -> int:
        return CHANNELS[self.colours]

    @property
    def row(self) -> int:
        """Bytes of a row, without the one that names its filter."""
        return (self.width * self.channels * self.depth + 7) // 8

    @property
    def step(self) -> int:
        """How far back the byte is that filters call left."""
        return max(self.channels * self.depth // 8, 1)


def decode(data: bytes) -> Picture:
    """Return the picture of a PNG file. Raises ValueRefusedError if it is damaged, too large, or interlaced."""
    if len(data) > MOST:
        raise _odd(f"has more than {MOST} bytes")
    head: _Head | None = None
    palette, clear, packed = b"", b"", bytearray()
    last = b""
    for kind, body in _parts(data):
        if (kind == b"IHDR") != (head is None):
            raise _odd("does not begin with its size")
        if kind == b"IHDR":
            head = _head(body)
        elif kind in (b"PLTE", b"tRNS"):
            if packed or (palette if kind == b"PLTE" else clear):
                raise _odd(f"has {kind.decode()} twice, or too late")
            palette, clear = (body, clear) if kind == b"PLTE" else (palette, body)
        elif kind == b"IDAT":
            if packed and last != b"IDAT":
                raise _odd("has its pixels in several places")
            packed += body
        elif not kind[0] & 0x20:
            raise _odd(f"has a part that is not known: {kind!r}")
        last = kind
    assert head is not None  # noqa: S101  (there is a first part, which must be it)
    return Picture(head.width, head.height, _colours(head, _unfilter(head, _inflate(head, packed)), palette, clear))


def encode(picture: Picture) -> bytes:
    """Return a picture as a PNG file."""
    row = 4 * picture.width
    rows = b"".join(b"\0" + picture.pixels[start : start + row] for start in range(0, row * picture.height, row))
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, RGBA, 0, 0, 0)
    return SIGNATURE + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows, 9)) + part(b"IEND", b"")


def _odd(what: str) -> ValueRefusedError:
    return ValueRefusedError(f"the picture {what}")


def _parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each part up to the end mark."""
    try:
        found = list(parts(data))
    except DamagedPngError as error:
        raise _odd(str(error)) from None
    if len(found) == 1:
        raise _odd("is empty")
    yield from found[:-1]


def _head(body: bytes) -> _Head:
    if len(body) != 13:
        raise _odd("has a size of another form")
    width, height, depth, colours, packing, filters, interlaced = struct.unpack(">IIBBBBB", body)
    if not (1 <= width <= MOST_SIDE and 1 <= height <= MOST_SIDE):
        raise _odd(f"has {width} x {height} pixels, expected at most {MOST_SIDE} x {MOST_SIDE}")
    if depth not in DEPTHS.get(colours, ()) or packing or filters:
        raise _odd("has colours of a kind that is not known")
    if interlaced:
        raise _odd("is interlaced")
    return _Head(width, height, depth, colours)


def _inflate(head: _Head, packed: bytes | bytearray) -> bytes:
    size = head.height * (head.row + 1)
    unpack = zlib.decompressobj()
    try:
        raw = unpack.decompress(packed, size + 1)
    except zlib.error:
        raise _odd("has damaged pixels") from None
    if len(raw) != size or not unpack.eof:
        raise _odd("has too few or too many pixels")
    return raw


def _unfilter(head: _Head, raw: bytes) -> bytes:
    """Undo what makes rows differences to their neighbours."""
    row, step = head.row, head.step
    above, made = bytes(row), bytearray()
    for start in range(0, len(raw), row + 1):
        line = bytearray(raw[start + 1 : start + 1 + row])
        match raw[start]:
            case 0:
                pass
            case 1:
                for at in range(step, row):
                    line[at] = line[at] + line[at - step] & 0xFF
            case 2:
                line = bytearray(one + up & 0xFF for one, up in zip(line, above, strict=True))
            case 3:
                for at in range(row):
                    line[at] = line[at] + ((line[at - step] if at >= step else 0) + above[at]) // 2 & 0xFF
            case 4:
                _nearest(line, above, step)
            case other:
                raise _odd(f"has a row of an unknown kind, {other}")
        made += line
        above = bytes(line)
    return bytes(made)


def _nearest(line: bytearray, above: bytes, step: int) -> None:
    """Undo the filter that takes the nearest neighbour, in place."""
    for at in range(min(step, len(line))):
        line[at] = line[at] + above[at] & 0xFF
    for at in range(step, len(line)):
        left, up, corner = line[at - step], above[at], above[at - step]
        to_left, to_up = abs(up - corner), abs(left - corner)
        to_corner = abs(left + up - 2 * corner)
        best = left if to_left <= to_up and to_left <= to_corner else up if to_up <= to_corner else corner
        line[at] = line[at] + best & 0xFF


def _colours(head: _Head, raw: bytes, palette: bytes, clear: bytes) -> bytes:
    """Return the pixels as red, green, blue, opacity. `clear` says which colour, or which of the palette, is transparent."""
    if head.colours == PALETTE:
        return _from_palette(_samples(head, raw), palette, clear)
    if clear and len(clear) != 2 * head.channels:
        raise _odd("has a transparent colour of another form")
    made = bytearray(4 * head.width * head.height)
    made[3::4] = _opacity(head, raw, clear)
    if head.depth == 16:
        plain = raw[::2]
    elif head.depth == 8:
        plain = raw
    else:
        most = (1 << head.depth) - 1
        plain = _samples(head, raw).translate(bytes(min(value * 255 // most, 255) for value in range(256)))
    channels = head.channels
    for place in range(3):
        made[place::4] = plain[place if channels > 2 else 0 :: channels]
    return bytes(made)


def _opacity(head: _Head, raw: bytes, clear: bytes) -> bytes:
    """Return the opacity of each pixel."""
    channels = head.channels
    if head.colours in (GREY_ALPHA, RGBA):
        return raw[channels - 1 :: channels] if head.depth == 8 else raw[2 * channels - 2 :: 2 * channels]
    count = head.width * head.height
    if not clear:
        return b"\xff" * count
    if head.depth == 16:
        size = 2 * channels
        return bytes(0 if raw[at : at + size] == clear else 255 for at in range(0, size * count, size))
    if any(clear[::2]):
        raise _odd("has a transparent colour that it cannot have")
    samples, wanted = _samples(head, raw), clear[1::2]
    return bytes(0 if samples[at : at + channels] == wanted else 255 for at in range(0, channels * count, channels))


def _samples(head: _Head, raw: bytes) -> bytes:
    """Return the numbers of pixels, a byte each, of a depth of at most 8."""
    if head.depth == 8:
        return raw
    per, mask = 8 // head.depth, (1 << head.depth) - 1
    shifts = range(8 - head.depth, -1, -head.depth)
    table = [bytes(value >> shift & mask for shift in shifts) for value in range(256)]
    made = bytearray()
    for start in range(0, len(raw), head.row):
        made += b"".join(table[value] for value in raw[start : start + head.row])[: head.width]
    assert per * head.row >= head.width  # noqa: S101  (a row holds all of its pixels)
    return bytes(made)


def _from_palette(samples: bytes, palette: bytes, clear: bytes) -> bytes:
    count = len(palette) // 3
    if not 1 <= count <= 256 or len(palette) % 3 or len(clear) > count:
        raise _odd("has a palette of another form")
    if max(samples) >= count:
        raise _odd("has a colour that is not in its palette")
    made = bytearray(4 * len(samples))
    for place in range(3):
        made[place::4] = samples.translate(palette[place::3].ljust(256, b"\0"))
    made[3::4] = samples.translate(clear.ljust(256, b"\xff"))
    return bytes(made)
