# SPDX-License-Identifier: Apache-2.0
"""Windows that have the whole screen: whose they are, how to leave, and who may take it. The desktop is sway in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.gui.pictures import Picture
from tests.integration.windows.conftest import COLOURS, RED, SERVERS, XTERM, Place, place_without
from tests.integration.windows.screen import colour, inside
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen

WEB = colour(COLOURS["web"])
NOTICE = (480, 6, 800, 26)
"""A piece of the notice, which is in the middle of the screen's upper edge."""
LINE = (0, 0, 1280, 3)
ASKS = """
import gi, pathlib
gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk
window = Gtk.Window()
window.connect("key-press-event", lambda _, event: window.fullscreen() if event.string == "a" else window.unfullscreen())
window.show_all()
GLib.timeout_add(8000, lambda: window.fullscreen() or pathlib.Path("asked").touch())
Gtk.main()
"""
"""Asks for the whole screen long after its start, and by the key `a`; gives it back by another one."""


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for each kind of servers."""
    with place_without(tmp_path_factory, SERVERS[request.param]) as made:
        yield made


@pytest.fixture
def screen(sway: Screen) -> Screen:
    sway.point(300, 400)
    return sway


def is_whole(screen: Screen) -> bool:
    return [window["fullscreen_mode"] for window in screen.windows()] == [1]


def stays(seen: Callable[[], bool]) -> None:
    """Check that something is so for two seconds."""
    ends = time.monotonic() + 2
    while time.monotonic() < ends:
        assert seen()


def has_line(found: Picture) -> bool:
    return found.share(WEB, *LINE) > 0.99


def has_notice(found: Picture) -> bool:
    return has_line(found) and found.share(WEB, *NOTICE) > 0.4


def only_line(found: Picture) -> bool:
    return has_line(found) and found.share(RED, 0, 6, 1280, 36) > 0.97


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is sway in memory")
def test_a_window_with_the_whole_screen_says_whose_it_is_and_how_to_leave(wayland: Place, screen: Screen) -> None:
    wayland.start("web", *XTERM)
    screen.wait(lambda found: found.share(RED, 20, 100, 1260, 780) > 0.9, "an xterm on sway")
    screen.tell("fullscreen enable")
    screen.wait(has_notice, "notice of a window with the whole screen")
    screen.wait(only_line, "whole screen of an xterm")
    screen.point(900, 0)
    screen.wait(has_notice, "notice when the pointer is at the edge")
    # It stays while the pointer is on it, and its button leaves.
    screen.point(560, 14)
    stays(lambda: has_notice(screen.picture()))
    white = screen.picture()
    screen.point(next(x for x in range(840, 480, -1) if white.at(x, 20) == (255, 255, 255)) - 4, 20)
    screen.click()
    until(lambda: not is_whole(screen), "the window leaves the whole screen")
    screen.wait(lambda found: found.share(WEB, 100, 8, 400, 28) > 0.6, "the title bar again")


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is sway in memory")
def test_an_application_takes_the_whole_screen_by_its_key_and_gives_it_back(wayland: Place, screen: Screen) -> None:
    wayland.start("web", "mousepad")
    screen.wait(lambda found: found.share((255, 255, 255), 20, 200, 1260, 700) > 0.9, "an editor on sway")
    folder = wayland.windows / wayland.id()
    until(lambda: inside(folder).width > 1200, "the editor has almost the width of the screen")
    for whole in (True, False):
        screen.type("-s", "300", "-k", "F11", "-s", "100")
        until(lambda: is_whole(screen) == whole, f"the whole screen: {whole}")  # noqa: B023
    until(lambda: inside(folder).windows[-1] == (0, 0, inside(folder).width, inside(folder).height), "it fills the window")


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is sway in memory")
def test_an_application_that_nobody_touched_does_not_get_the_whole_screen(wayland: Place, screen: Screen) -> None:
    program = wayland.folder / "asks.py"
    program.write_text(ASKS)
    wayland.start("--window", "web", "/usr/bin/python3", str(program))
    until((wayland.folder / "away/asked").exists, "the application has asked")
    (wayland.folder / "away/asked").unlink()
    stays(lambda: not is_whole(screen))
    screen.wait(lambda found: found.share(WEB, 100, 8, 400, 28) > 0.6, "refusal of the whole screen")
    screen.type("-s", "300", "a", "-s", "100")
    until(lambda: is_whole(screen), "the whole screen after a key")
    screen.type("-s", "300", "b", "-s", "100")
    until(lambda: not is_whole(screen), "it gives it back")


def test_an_application_may_begin_with_the_whole_screen(wayland: Place, screen: Screen) -> None:
    wayland.start("web", *XTERM, "-fullscreen")
    screen.wait(has_notice, "whole screen from the beginning")
