# SPDX-License-Identifier: Apache-2.0
"""Pictures as tests see them: what grim took, a pixel at a place, and PNG files to look at and to give to programs."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """Rows of red, green and blue bytes."""

    width: int
    height: int
    pixels: bytes

    def at(self, x: int, y: int) -> Colour:
        """The colour of a pixel."""
        place = 3 * (y * self.width + x)
        red, green, blue = self.pixels[place : place + 3]
        return red, green, blue

    def share(self, colour: Colour, left: int, top: int, right: int, bottom: int) -> float:
        """Which part of a rectangle has this colour, give or take what scaling does to it."""
        places = [(x, y) for y in range(top, bottom, 2) for x in range(left, right, 2)]
        return sum(near(self.at(x, y), colour) for x, y in places) / len(places)

    def png(self) -> bytes:
        """The same as a PNG file."""
        rows = b"".join(b"\0" + self.pixels[3 * y * self.width :][: 3 * self.width] for y in range(self.height))
        parts = (
            (b"IHDR", struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(rows)),
            (b"IEND", b""),
        )
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
        )


def near(one: Colour, other: Colour, most: int = 12) -> bool:
    """Whether two colours look the same."""
    return all(abs(a - b) <= most for a, b in zip(one, other, strict=True))


def read_ppm(data: bytes) -> Picture:
    """A binary PPM file, as `grim -t ppm` writes it."""
    kind, width, height, most, pixels = data.split(maxsplit=4) if data.count(b"\n") else (b"",) * 5
    assert (kind, most) == (b"P6", b"255"), data[:20]
    # White space ends the head, and a pixel may look like it.
    pixels = data[-3 * int(width) * int(height) :]
    return Picture(int(width), int(height), pixels)


def read_png(data: bytes) -> Picture:
    """A PNG file of red, green and blue bytes, not interlaced, as grim writes it (PNG specification, third edition)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n", data[:8]
    place, packed, head = 8, b"", b""
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        head, packed = (body if kind == b"IHDR" else head), (packed + body if kind == b"IDAT" else packed)
        place += 12 + size
    width, height, depth, colours, *rest = struct.unpack(">IIBBBBB", head)
    assert (depth, colours, rest) == (8, 2, [0, 0, 0])
    rows, above, raw = [], bytearray(3 * width), zlib.decompress(packed)
    for start in range(0, len(raw), 3 * width + 1):
        above = _unfiltered(raw[start], raw[start + 1 : start + 1 + 3 * width], above)
        rows.append(bytes(above))
    return Picture(width, height, b"".join(rows))


def _unfiltered(kind: int, row: bytes, above: bytearray) -> bytearray:
    """Section 9 of the specification: what each byte is the difference to."""
    made = bytearray(len(row))
    for index, value in enumerate(row):
        left, up = (made[index - 3] if index > 2 else 0), above[index]
        corner = above[index - 3] if index > 2 else 0
        nearest = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
        made[index] = value + (0, left, up, (left + up) // 2, nearest)[kind] & 0xFF
    return made


def keep(picture: Picture, what: str) -> Path:
    """Keep a picture for people."""
    folder = Path(__file__).resolve().parents[2] / "build" / "gui"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{what.replace(' ', '-')}.png"
    path.write_bytes(picture.png())
    return path


def plain(colour: Colour, width: int = 64, height: int = 64) -> Picture:
    """A picture of one colour."""
    return Picture(width, height, bytes(colour) * (width * height))
