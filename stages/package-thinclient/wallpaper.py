# SPDX-License-Identifier: Apache-2.0
"""Draws the wallpaper: a tower at night. Usage: wallpaper.py FILE

Made of rectangles and a gradient, so that the picture is these lines and a few kilobytes, and the same at every build.
"""

import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

WIDTH, HEIGHT = 1920, 1080
TOP, BOTTOM = (16, 42, 67), (72, 101, 129)
STONE, WINDOW, GROUND = (11, 29, 48), (240, 180, 41), (6, 19, 33)
# Left, top, right, bottom; later ones lie over earlier ones.
SHAPES = [
    ((0, 940, WIDTH, HEIGHT), GROUND),
    ((1380, 380, 1580, 940), STONE),
    ((1350, 320, 1610, 400), STONE),
    *(((left, 280, left + 36, 330), STONE) for left in range(1350, 1610, 56)),
    ((1462, 860, 1498, 940), GROUND),
    *(((1466, top, 1494, top + 46), WINDOW) for top in (460, 580, 700)),
]


def row(y: int) -> bytes:
    """One line of pixels."""
    sky = bytes(round(a + (b - a) * y / HEIGHT) for a, b in zip(TOP, BOTTOM, strict=True))
    pixels = bytearray(sky * WIDTH)
    for (left, top, right, bottom), colour in SHAPES:
        if top <= y < bottom:
            pixels[3 * left : 3 * right] = bytes(colour) * (right - left)
    return bytes(pixels)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def picture() -> Iterator[bytes]:
    """The whole file."""
    yield b"\x89PNG\r\n\x1a\n"
    yield chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    yield chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row(y) for y in range(HEIGHT)), 9))
    yield chunk(b"IEND", b"")


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(b"".join(picture()))
