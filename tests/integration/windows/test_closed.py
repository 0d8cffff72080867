# SPDX-License-Identifier: Apache-2.0
"""Pictures that end although application and connection live: their server was killed, or ended a connection by a fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration.windows.conftest import RED, XTERM, XVNC, Place, children, place_without
from tests.integration.windows.waiting import until


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One whose hosts make pictures by a program beside the X server, so that one ends without the other."""
    with place_without(tmp_path_factory, XVNC) as made:
        yield made


def kill_server(desk: Place) -> None:
    """Kill what makes the pictures."""
    (server,) = [number for number, line in desk.mine().items() if line.startswith("x11vnc ")]
    os.kill(server, signal.SIGKILL)


def test_the_window_comes_back_and_tower_gives_up_if_it_does_not_stay(desk: Place) -> None:
    running = desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm before its server is killed")
    number = desk.id()
    for _ in range(3):
        before = children(running, "tower.windows.viewer")
        kill_server(desk)
        until(lambda: children(running, "tower.windows.viewer") not in ([], before), "another viewer")  # noqa: B023
        desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm whose server was killed")
        assert running.poll() is None
    assert desk.ids() == [number]
    kill_server(desk)
    assert running.wait(60) == 15
    said = running.communicate()[1].decode()
    assert said.count("web: the display ended its connection; xterm keeps running, trying again\n") == 3
    assert f"hint: attach xterm again: tower run --attach web {number}" in said
    assert desk.ids() == [number]
