# SPDX-License-Identifier: Apache-2.0
"""The size of a host's display, set by RandR, with both X servers that a host may have; and how a window passes its own on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tower.display import x11
from tower.display.randr import screen_of
from tower.display.x11 import Server

from tests.integration.windows.conftest import Place
from tests.integration.windows.screen import client, inside
from tests.integration.windows.waiting import until

LARGEST = (2048, 1536)
SERVERS = {
    "Xvnc": ("Xvnc", "-geometry", "1024x768", "-rfbport", "-1", "-SecurityTypes", "None"),
    "Xvfb": ("Xvfb", "-screen", "0", f"{LARGEST[0]}x{LARGEST[1]}x24", "-nolisten", "tcp"),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    argv = SERVERS[request.param]
    if shutil.which(argv[0]) is None:
        pytest.skip(f"not on this machine: {argv[0]}")
    reading, writing = os.pipe()
    started = subprocess.Popen([*argv, "-displayfd", str(writing)], pass_fds=(writing,), stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as said, client(said.readline().strip()) as made:
            yield made
    finally:
        started.terminate()
        started.wait(20)


def size(server: Server) -> tuple[int, ...]:
    found = server.ask(x11.GET_GEOMETRY, 0, "I", server.root)
    assert found is not None
    return found.numbers("HH", 16)


def test_a_display_gets_larger_and_smaller(server: Server) -> None:
    screen = screen_of(server)
    assert screen is not None
    for wanted in ((800, 600), (1111, 777), (1111, 777), (333, 1501), (64, 48), LARGEST, (640, 480)):
        assert screen.resize(*wanted) == wanted
        assert size(server) == wanted
        assert (server.width, server.height) == wanted


def test_a_display_gets_no_larger_than_it_can(server: Server) -> None:
    screen = screen_of(server)
    assert screen is not None
    width, height = screen.most
    assert (width, height) == LARGEST or min(width, height) > max(LARGEST)
    if (width, height) == LARGEST:
        assert screen.resize(60000, 60000) == size(server) == LARGEST


def test_another_client_takes_over(server: Server) -> None:
    """As another window of the same application does; what the first one made does not stand in its way."""
    first = screen_of(server)
    assert first is not None
    first.resize(800, 600)
    second = screen_of(server)
    assert second is not None
    assert second.mode == first.mode
    assert second.resize(700, 500) == size(server) == (700, 500)


def test_of_many_sizes_at_once_the_last_one_counts(desk: Place) -> None:
    desk.start("web", "xterm")
    window = desk.window(r"\(web\)")
    folder = desk.windows / desk.id()
    until(lambda: inside(folder).windows, "an xterm")
    for number in range(30):
        desk.type("windowsize", window, str(500 + 10 * number), str(700 - 7 * number))

    def follows() -> bool:
        shown = inside(folder)
        return 790 - 20 < shown.width <= 790 and shown.height <= 497 and shown.windows[-1] == (0, 0, shown.width, shown.height)

    until(follows, "the last size, and an xterm that fills it")
