# SPDX-License-Identifier: Apache-2.0
"""Windows on a screen with the scale 2: applications know it, and have all its pixels. The desktop is sway in memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tower.display import outputs, x11
from tower.display.x11 import key_in

from tests.gui.pictures import Picture
from tests.integration.windows.conftest import COLOURS, SERVERS, Place, place_without
from tests.integration.windows.screen import client, colour, inside
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen, desktop

CREATE_GC, FILL = 55, 70
WIDTH, HEIGHT = 1280, 700


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for each kind of servers."""
    with place_without(tmp_path_factory, SERVERS[request.param]) as made:
        yield made


@pytest.fixture(scope="module")
def sway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    with desktop(tmp_path_factory.mktemp("sway"), "output * scale 2\n") as made:
        yield made


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is sway in memory")
def test_an_application_is_neither_blurred_nor_minute(desk: Place, sway: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sway.more.items():
        monkeypatch.setenv(name, value)
    assert outputs.scale() == 2
    program = "echo $GDK_SCALE >scale; exec xterm -bg white -fg white +sb"
    replace(desk, more=sway.more).start("--window", "web", "sh", "-c", program)
    folder = desk.windows / desk.id()
    until(lambda: inside(folder).width == WIDTH, "the display has the pixels of the screen")
    until(lambda: inside(folder).windows, "a terminal")
    # The text on its title bar would be half as high.
    found = sway.wait(lambda found: found.share((255, 255, 255), 20, 100, 1260, 780) > 0.9, "a terminal with the scale 2")
    assert found.at(3, 45) == colour(COLOURS["web"])
    paint_stripes(folder)

    def exact(found: Picture) -> bool:
        # Had the picture been enlarged or reduced anywhere, there would be greys.
        black, white = (0, 0, 0), (255, 255, 255)
        row = [found.at(x, 500) for x in range(100, 1200)]
        return row in ([black, white] * 550, [white, black] * 550)

    sway.wait(exact, "stripes of one pixel on a screen with the scale 2")
    assert (desk.folder / "away/scale").read_text() == "2\n"


def paint_stripes(folder: Path) -> None:
    """Paint on an application's windows, one pixel black, one as it was."""
    with client((folder / "display").read_text().strip(), key_in((folder / "key").read_bytes())) as server:
        context = server.base + 1
        # Black, and on inner windows, too.
        server.send(CREATE_GC, 0, "IIIII", context, server.root, 1 << 2 | 1 << 15, 0, 1)
        for x in range(0, WIDTH, 2):
            server.send(FILL, 0, "IIhhHH", server.root, context, x, 0, 1, HEIGHT)
        assert server.ask(x11.QUERY_TREE, 0, "I", server.root) is not None


@pytest.mark.parametrize("answer", [b"", b"\0" * 8, b"\2\0\0\0\0\0\x10\0" + b"x" * 8, b"\3\0\0\0\0\0\x0c\0abcd"])
def test_without_a_sound_answer_the_scale_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "wayland"))
        listening.listen()

        def run() -> None:
            with listening.accept()[0] as accepted:
                accepted.recv(4096)
                accepted.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        monkeypatch.setenv("WAYLAND_DISPLAY", str(tmp_path / "wayland"))
        assert outputs.scale() == 1
        thread.join(20)
    assert outputs.scale() == 1  # nobody listens any more


def test_under_x_the_scale_is_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for text, wanted in (("2", 2), ("x", 1), ("-3", 1), ("1000", 4)):
        monkeypatch.setenv("GDK_SCALE", text)
        assert outputs.scale() == wanted
