# SPDX-License-Identifier: Apache-2.0
"""Icons of hosts: PNG files of all kinds are read, whatever else comes is refused, and what is made has one size and a frame."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower.base.errors import ValueRefusedError
from tower.menu import icon, png
from tower.menu.png import Picture

RED, GREEN, BLUE, NONE = b"\xff\0\0\xff", b"\0\xff\0\xff", b"\0\0\xff\xff", bytes(4)
HEAD = ">IIBBBBB"


def part(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def forged(*parts: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(part(*one) for one in parts) + part(b"IEND", b"")


def file(
    width: int, height: int, depth: int, colours: int, rows: Sequence[bytes], *before: tuple[bytes, bytes], interlaced: int = 0
) -> bytes:
    head = struct.pack(HEAD, width, height, depth, colours, 0, 0, interlaced)
    return forged((b"IHDR", head), *before, (b"IDAT", zlib.compress(b"".join(rows))))


def pixels(data: bytes) -> list[bytes]:
    found = png.decode(data).pixels
    return [found[at : at + 4] for at in range(0, len(found), 4)]


WIDE = bytes.fromhex("ffff 0001 0002")
PALETTE = (b"PLTE", bytes.fromhex("ff0000 00ff00 0000ff"))


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (file(2, 1, 8, 6, [b"\0" + RED + NONE]), [RED, NONE]),
        (file(2, 1, 8, 2, [b"\0\xff\0\0\0\0\xff"]), [RED, BLUE]),
        (file(2, 1, 8, 2, [b"\0\xff\0\0\0\0\xff"], (b"tRNS", b"\0\xff\0\0\0\0")), [b"\xff\0\0\0", BLUE]),
        (file(1, 1, 16, 6, [b"\0" + bytes.fromhex("ffff 0001 0002 8000")]), [b"\xff\0\0\x80"]),
        (file(1, 1, 16, 2, [b"\0" + WIDE], (b"tRNS", bytes.fromhex("ffff 0001 0003"))), [RED]),
        (file(1, 1, 16, 2, [b"\0" + WIDE], (b"tRNS", bytes.fromhex("ffff 0001 0002"))), [b"\xff\0\0\0"]),
        (file(2, 1, 8, 0, [b"\0\x10\xf0"], (b"tRNS", b"\0\xf0")), [b"\x10\x10\x10\xff", b"\xf0\xf0\xf0\0"]),
        (file(2, 1, 16, 0, [b"\0\x10\0\xf0\1"], (b"tRNS", b"\xf0\1")), [b"\x10\x10\x10\xff", b"\xf0\xf0\xf0\0"]),
        (file(2, 1, 8, 4, [b"\0\x10\x20\xf0\xff"]), [b"\x10\x10\x10\x20", b"\xf0\xf0\xf0\xff"]),
        (file(1, 1, 16, 4, [b"\0\x10\0\x20\0"]), [b"\x10\x10\x10\x20"]),
        (file(3, 1, 1, 0, [b"\0\xa0"]), [b"\xff" * 4, b"\0\0\0\xff", b"\xff" * 4]),
        (file(3, 1, 2, 0, [b"\0\x1b"], (b"tRNS", b"\0\1")), [b"\0\0\0\xff", b"UUU\0", b"\xaa\xaa\xaa\xff"]),
        (file(2, 1, 4, 0, [b"\0\xf1"]), [b"\xff" * 4, b"\x11\x11\x11\xff"]),
        (file(3, 1, 8, 3, [b"\0\0\1\2"], PALETTE), [RED, GREEN, BLUE]),
        (file(3, 1, 8, 3, [b"\0\0\1\2"], PALETTE, (b"tRNS", b"\0\x80")), [b"\xff\0\0\0", b"\0\xff\0\x80", BLUE]),
        (file(3, 2, 4, 3, [b"\0\x01\x20", b"\0\x21\x00"], PALETTE), [RED, GREEN, BLUE, BLUE, GREEN, RED]),
        (file(5, 1, 2, 3, [b"\0\x18\x40"], PALETTE), [RED, GREEN, BLUE, RED, GREEN]),
        (file(9, 1, 1, 3, [b"\0\x55\x80"], PALETTE), [RED, GREEN] * 4 + [GREEN]),
        (file(1, 1, 8, 6, [b"\0" + RED], (b"tEXt", b"x\0y"), (b"gAMA", bytes(4))), [RED]),
    ],
)  # fmt: skip
def test_kinds(data: bytes, shown: list[bytes]) -> None:
    assert pixels(data) == shown


def filtered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """As section 9 of the specification has it, from the other side."""
    made = bytearray((kind,))
    for at, value in enumerate(row):
        left, up = (row[at - step] if at >= step else 0), above[at]
        corner = above[at - step] if at >= step else 0
        nearest = min((left, up, corner), key=lambda one: abs(left + up - corner - one))
        made.append(value - (0, left, up, (left + up) // 2, nearest)[kind] & 0xFF)
    return bytes(made)


@given(st.binary(min_size=4 * 4 * 5, max_size=4 * 4 * 5), st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_filters(content: bytes, kinds: list[int]) -> None:
    rows = [content[at : at + 16] for at in range(0, 80, 16)]
    for width, colours, step in ((4, 6, 4), (16, 0, 1), (8, 4, 2)):
        packed = [filtered(kind, row, above, step) for kind, row, above in zip(kinds, rows, [bytes(16), *rows], strict=False)]
        found = png.decode(file(width, 5, 8, colours, packed))
        assert found == png.decode(file(width, 5, 8, colours, [b"\0" + row for row in rows]))
    assert png.decode(file(4, 5, 8, 6, [b"\0" + row for row in rows])).pixels == content


@given(st.integers(1, 40), st.integers(1, 40), st.randoms(use_true_random=False))
def test_an_encoded_picture_is_decoded_to_the_same(width: int, height: int, chance: object) -> None:
    picture = Picture(width, height, chance.randbytes(4 * width * height))  # type: ignore[attr-defined]
    assert png.decode(png.encode(picture)) == picture


ROW = b"\0" + RED
SIZE = (b"IHDR", struct.pack(HEAD, 1, 1, 8, 6, 0, 0, 0))
DATA = (b"IDAT", zlib.compress(ROW))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a PNG"),
        (b"GIF89a", "not a PNG"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a PNG"),
        (forged(), "empty"),
        (forged(DATA), "begin"),
        (forged(SIZE, SIZE, DATA), "begin"),
        (forged(SIZE), "pixels"),
        (forged(SIZE, DATA)[:-1], "no end"),
        (forged(SIZE, DATA)[:-12], "no end"),
        (forged(SIZE, DATA).replace(b"IHDR", b"IHDr"), "checksum"),
        (forged(SIZE, (b"IDAT", b"\x78\x9c")), "pixels"),
        (forged(SIZE, (b"IDAT", b"nonsense")), "damaged"),
        (forged(SIZE, (b"IDAT", zlib.compress(ROW[:-1]))), "pixels"),
        (forged(SIZE, (b"IDAT", zlib.compress(ROW + b"\0"))), "pixels"),
        (forged(SIZE, (b"IDAT", zlib.compress(ROW)[:-4])), "pixels"),
        (forged(SIZE, (b"IDAT", zlib.compress(bytes(20 << 20)))), "pixels"),
        (forged(SIZE, DATA, (b"tEXt", b""), DATA), "several places"),
        (forged(SIZE, (b"JUNK", b""), DATA), "not known"),
        (forged(SIZE, DATA, PALETTE), "too late"),
        (forged(SIZE, PALETTE, PALETTE, DATA), "twice"),
        (forged((b"IHDR", b""), DATA), "size"),
        (file(1, 1, 8, 6, [b"\5" + RED]), "unknown kind"),
        (file(1, 1, 8, 6, [ROW], interlaced=1), "interlaced"),
        (file(0, 1, 8, 6, [b"\0"]), "0 x 1"),
        (file(1, 0, 8, 6, []), "1 x 0"),
        (file(513, 1, 8, 6, [b"\0" + RED * 513]), "513"),
        (file(65535, 65535, 8, 6, [ROW]), "65535"),
        (file(0xFFFFFFFF, 0xFFFFFFFF, 8, 6, [ROW]), "4294967295"),
        (file(1, 1, 8, 1, [ROW]), "colours"),
        (file(1, 1, 4, 6, [ROW]), "colours"),
        (file(1, 1, 16, 3, [ROW]), "colours"),
        (file(1, 1, 8, 3, [b"\0\0"]), "palette"),
        (file(1, 1, 8, 3, [b"\0\3"], PALETTE), "not in its palette"),
        (file(1, 1, 8, 3, [b"\0\0"], (b"PLTE", b"\0\0")), "palette"),
        (file(1, 1, 8, 3, [b"\0\0"], (b"PLTE", bytes(3 * 257))), "palette"),
        (file(1, 1, 8, 3, [b"\0\0"], PALETTE, (b"tRNS", bytes(4))), "palette"),
        (file(1, 1, 8, 2, [b"\0\0\0\0"], (b"tRNS", bytes(5))), "transparent"),
        (file(1, 1, 8, 0, [b"\0\0"], (b"tRNS", b"\1\0")), "transparent"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600 << 10), "bytes"),
    ],
)
def test_invalid_png_files_are_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueRefusedError, match=why):
        png.decode(data)


def test_each_size_gets_into_its_frame() -> None:
    ground = "#4363d8"
    for width, height in ((1, 1), (16, 16), (22, 22), (24, 32), (48, 48), (49, 47), (64, 64), (512, 512), (512, 1), (1, 512)):
        found = icon.framed(Picture(width, height, RED * (width * height)), ground)
        assert (found.width, found.height, len(found.pixels)) == (icon.SIDE, icon.SIDE, 4 * icon.SIDE**2)
        at = [found.pixels[4 * (y * icon.SIDE + x) :][:4] for x, y in ((32, 32), (32, 2), (61, 32))]
        if min(width, height) > 1:
            assert at[0] == RED, (width, height)
        assert at[1:] == [bytes.fromhex("4363d8ff")] * 2
        assert found.pixels[3] == 0, "the corners are round"


def test_a_smaller_picture_has_the_mean_of_what_is_seen() -> None:
    seen = Picture(96, 96, (RED + b"\0\xff\0\0") * (96 * 48))
    found = icon.framed(seen, "#000000")
    assert found.pixels[4 * (32 * icon.SIDE + 32) :][:4] == b"\xff\0\0\x7f"


def test_letters_on_a_ground() -> None:
    inks = {icon.tile(name, colour).pixels for name in "AZ09" for colour in ("#4363d8", "#f5f531")}
    assert len(inks) == 8
    for name in ("", "\u4e2d", "ß", "(", "\U0001f600"):
        assert set(struct.unpack("4096I", icon.tile(name, "#4363d8").pixels)) >= {
            struct.unpack("I", bytes.fromhex("4363d8ff"))[0]
        }
    assert icon.tile("a", "#4363d8") == icon.tile("A", "#4363d8")
    assert b"\0\0\0\xff" in icon.tile("A", "#f5f531").pixels
    assert b"\xff\xff\xff\xff" in icon.tile("A", "#4363d8").pixels


@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(ValueRefusedError):
        png.decode(b"\x89PNG\r\n\x1a\n" + data)


@settings(max_examples=200)
@given(
    st.integers(0, 20), st.integers(0, 20), st.integers(0, 17), st.integers(0, 7), st.integers(0, 1), st.binary(max_size=600),
    st.lists(st.tuples(st.sampled_from([b"PLTE", b"tRNS", b"tEXt"]), st.binary(max_size=30)), max_size=3),
)  # fmt: skip
def test_any_head_and_pixels(
    width: int, height: int, depth: int, colours: int, interlaced: int, rows: bytes, before: list[tuple[bytes, bytes]]
) -> None:
    """Whatever is taken has as many pixels as it says."""
    try:
        found = png.decode(file(width, height, depth, colours, [rows], *before, interlaced=interlaced))
    except ValueRefusedError:
        return
    assert (found.width, found.height, len(found.pixels)) == (width, height, 4 * width * height)
    assert png.decode(png.encode(icon.framed(found, "#123456"))).width == icon.SIDE


def test_icons_of_this_machine() -> None:
    files = [path for folder in ("hicolor", "Adwaita") for path in Path("/usr/share/icons", folder).glob("[1-9][0-9]x*/*/*.png")][
        :150
    ]
    if not files:
        pytest.skip("this machine has no icons")
    for path in files:
        data = path.read_bytes()
        assert png.decode(data).width == struct.unpack(">I", data[16:20])[0], path
