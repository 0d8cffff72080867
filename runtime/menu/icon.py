# SPDX-License-Identifier: Apache-2.0
"""Icons for the menu: all of one size, in a frame that has the colour of the host."""

from __future__ import annotations

from functools import cache
from typing import Final

from tower.menu.png import Picture

SIDE: Final = 64
_FRAME: Final = 6
_INSIDE: Final = 48
_ROUND: Final = 12
_FINE: Final = 3
"""Each pixel of the frame is looked at in so many places across."""
_ZOOM: Final = 6
# Letters and digits of five by seven dots: a number for each row, whose bits are its dots.
_LETTERS: Final = (
    "A0e11111f111111 B1e11111e11111e C0e11101010110e D1e11111111111e E1f10101e10101f F1f10101e101010 G0e11101711110f "
    "H1111111f111111 I0e04040404040e J0702020202120c K11121418141211 L1010101010101f M111b1515111111 N11191513111111 "
    "O0e11111111110e P1e11111e101010 Q0e11111115120d R1e11111e141211 S0f10100e01011e T1f040404040404 U1111111111110e "
    "V11111111110a04 W1111111515150a X11110a040a1111 Y11110a04040404 Z1f01020408101f 00e11131519110e 1040c040404040e "
    "20e11010204081f 31f02040201110e 402060a121f0202 51f101e0101110e 60608101e11110e 71f010204080808 80e11110e11110e "
    "90e11110f01020c"
)
_DOTS: Final = {word[0]: bytes.fromhex(word[1:]) for word in _LETTERS.split()}


def framed(picture: Picture, colour: str) -> Picture:
    """Return a picture in a frame of a colour such as #4363d8: made smaller, or larger by a whole number, to fit."""
    made = bytearray(4 * SIDE * SIDE)
    small = _fitted(picture)
    left, top = (SIDE - small.width) // 2, (SIDE - small.height) // 2
    for y in range(small.height):
        place = 4 * ((top + y) * SIDE + left)
        made[place : place + 4 * small.width] = small.pixels[4 * y * small.width :][: 4 * small.width]
    red_green_blue = bytes.fromhex(colour[1:])
    for at, share in enumerate(_shape(hollow=True)):
        if share:
            made[4 * at : 4 * at + 4] = red_green_blue + bytes((share,))
    return Picture(SIDE, SIDE, bytes(made))


def tile(name: str, colour: str) -> Picture:
    """Return an icon for what has none: the first letter of its name, if that is a Latin one, on a ground of a colour."""
    ground = bytes.fromhex(colour[1:])
    made = bytearray(b"".join(ground + bytes((share,)) for share in _shape(hollow=False)))
    red, green, blue = ground
    ink = b"\0\0\0\xff" if 299 * red + 587 * green + 114 * blue > 140_000 else b"\xff\xff\xff\xff"
    left, top = (SIDE - 5 * _ZOOM) // 2, (SIDE - 7 * _ZOOM) // 2
    for y, bits in enumerate(_DOTS.get(name[:1].upper(), b"")):
        for x in range(5):
            if bits >> 4 - x & 1:
                for line in range(_ZOOM):
                    place = 4 * ((top + y * _ZOOM + line) * SIDE + left + x * _ZOOM)
                    made[place : place + 4 * _ZOOM] = ink * _ZOOM
    return Picture(SIDE, SIDE, bytes(made))


def _fitted(picture: Picture) -> Picture:
    """Return the picture so that its longer side fits into the frame."""
    longer = max(picture.width, picture.height)
    if longer > _INSIDE:
        width, height = (max(side * _INSIDE // longer, 1) for side in (picture.width, picture.height))
    else:
        width, height = (side * (_INSIDE // longer) for side in (picture.width, picture.height))
    if (width, height) == (picture.width, picture.height):
        return picture
    rows, columns = _spans(picture.height, height), _spans(picture.width, width)
    pixels = b"".join(_mean(picture, row, column) for row in rows for column in columns)
    return Picture(width, height, pixels)


def _spans(old: int, new: int) -> list[range]:
    """Return, for each of `new` places, which of `old` ones are in it."""
    return [range(at * old // new, max((at + 1) * old // new, at * old // new + 1)) for at in range(new)]


def _mean(picture: Picture, rows: range, columns: range) -> bytes:
    """Return the mean of a rectangle; what is more opaque counts for more."""
    pixels, red, green, blue, opaque = picture.pixels, 0, 0, 0, 0
    for y in rows:
        for place in range(4 * (y * picture.width + columns.start), 4 * (y * picture.width + columns.stop), 4):
            share = pixels[place + 3]
            if share:
                red += pixels[place] * share
                green += pixels[place + 1] * share
                blue += pixels[place + 2] * share
                opaque += share
    if not opaque:
        return bytes(4)
    return bytes((red // opaque, green // opaque, blue // opaque, opaque // (len(rows) * len(columns))))


@cache
def _shape(*, hollow: bool) -> bytes:
    """Return the opacity of each pixel of a rounded square, or of its frame."""
    return bytes(_share(x, y, hollow=hollow) for y in range(SIDE) for x in range(SIDE))


def _share(x: int, y: int, *, hollow: bool) -> int:
    places = [(_FINE * x + i, _FINE * y + j) for i in range(_FINE) for j in range(_FINE)]
    inside = [place for place in places if _within(*place, 0, _ROUND)]
    if hollow:
        inside = [place for place in inside if not _within(*place, _FRAME, _ROUND - _FRAME)]
    return len(inside) * 255 // len(places)


def _within(x: int, y: int, margin: int, radius: int) -> bool:
    """Return whether a fine place is in a square with round corners, at a distance of `margin` pixels from the edge."""
    near, far = (margin + radius) * _FINE, (SIDE - margin - radius) * _FINE - 1
    across, down = max(near - x, x - far, 0), max(near - y, y - far, 0)
    return across * across + down * down <= (radius * _FINE) ** 2
