# SPDX-License-Identifier: Apache-2.0
"""Pictures of an X display, and what its windows are: for tests, by the product's own client of X."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.display import x11
from tower.display.x11 import Server, key_in, open_server

from tests.gui.pictures import Colour, Picture

GET_IMAGE = 73


def colour(text: str) -> Colour:
    """Of a colour's name such as #4363d8."""
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


@contextmanager
def client(display: int | str, key: bytes = bytes(16)) -> Iterator[Server]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(f"/tmp/.X11-unix/X{display}")
        yield open_server(connection, key)


def picture(display: int | str) -> Picture:
    """What is on a display."""
    with pytest.MonkeyPatch.context() as patch, client(display) as server:
        patch.setattr(x11, "_MOST", 1 << 26)
        width, height = server.width, server.height
        found = server.ask(GET_IMAGE, 2, "IhhHHI", server.root, 0, 0, width, height, 0xFFFFFFFF)
    assert found is not None
    data = found.data[32 : 32 + 4 * width * height]
    pixels = bytearray(3 * width * height)
    pixels[0::3], pixels[1::3], pixels[2::3] = data[2::4], data[1::4], data[0::4]
    return Picture(width, height, bytes(pixels))


@dataclass(frozen=True)
class Inside:
    """The display of an application: its size, and its visible windows as (x, y, width, height)."""

    width: int
    height: int
    windows: tuple[tuple[int, int, int, int], ...]


def inside(folder: Path) -> Inside:
    """What an application's display has, by the folder that the host keeps of it."""
    with client((folder / "display").read_text().strip(), key_in((folder / "key").read_bytes())) as server:
        tree = server.ask(x11.QUERY_TREE, 0, "I", server.root)
        assert tree is not None
        found = []
        for number in tree.numbers(f"{tree.numbers('H', 16)[0]}I", 32):
            state = server.ask(x11.GET_ATTRIBUTES, 0, "I", number)
            place = server.ask(x11.GET_GEOMETRY, 0, "I", number)
            if state is not None and place is not None and state.data[26] == 2:
                x, y, width, height = place.numbers("hhHH", 12)
                found.append((x, y, width, height))
        return Inside(server.width, server.height, tuple(found))
