# SPDX-License-Identifier: Apache-2.0
"""All keys of the keyboard for an application, as the user wants it, and how they come back. The desktop is sway in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gui.pictures import Picture
from tests.integration.windows.conftest import COLOURS, RED, XTERM, Place
from tests.integration.windows.screen import colour
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen, desktop

WEB = colour(COLOURS["web"])
BUTTON = (0, 4, 260, 30)
"""A piece of the title bar, with the button of the keys."""
GRABS = """
import gi, pathlib
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, Gtk
window = Gtk.Window()
def grab(*_):
    seat = window.get_display().get_default_seat()
    found = seat.grab(window.get_window(), Gdk.SeatCapabilities.KEYBOARD, True, None, None, None)
    pathlib.Path("grabs").write_text(found.value_nick)
window.connect("map-event", grab)
window.show_all()
Gtk.main()
"""
"""Takes all keys of its own display."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the desktop makes by its own key, Super+X."""
    return tmp_path_factory.mktemp("key") / "done"


@pytest.fixture(scope="module")
def sway(tmp_path_factory: pytest.TempPathFactory, done: Path) -> Iterator[Screen]:
    with desktop(tmp_path_factory.mktemp("sway"), f"bindsym Mod4+x exec touch {done}\n") as made:
        yield made


@pytest.fixture
def press(sway: Screen, done: Path) -> Callable[..., None]:
    """Presses Super and a key, then others; what the desktop made before is gone."""

    def act(key: str, *more: str) -> None:
        done.unlink(missing_ok=True)
        then = [word for one in more for word in ("-k", one)]
        sway.type("-s", "300", "-M", "logo", "-k", key, "-m", "logo", *then, "-s", "100")

    return act


def said(found: Picture) -> float:
    """How much of the button's place in the title bar is text."""
    return 1 - found.share(WEB, *BUTTON)


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is sway in memory")
def test_the_user_gives_an_application_all_keys_and_takes_them_back(
    desk: Place, sway: Screen, done: Path, press: Callable[..., None]
) -> None:
    place = replace(desk, more=sway.more)
    typed = desk.folder / "away/typed"
    place.start("web", *XTERM, "-e", "sh", "-c", "cat >typed")
    plain = sway.wait(lambda found: found.share(RED, 20, 100, 1260, 780) > 0.9, "an xterm, and the desktop has its keys")
    until(typed.exists, "the terminal reads")
    press("x")
    until(done.exists, "the desktop's key acts")
    press("Escape")
    sway.wait(lambda found: said(found) > said(plain) + 0.05, "an xterm that has all keys")
    press("x", "Return")
    until(lambda: typed.read_text() == "x\n", "the terminal got the desktop's key")
    assert not done.exists()
    # Another window has the keyboard: the desktop has its keys, and gives them again with the keyboard.
    place.start("vault", "xterm")
    until(lambda: len(sway.windows()) == 2, "another window")
    until(lambda: [one["app_id"] for one in sway.windows() if one["focused"]] != [], "it has the keyboard")
    press("x")
    until(done.exists, "the desktop's key acts in another window")
    sway.tell("focus left")
    press("x", "Return")
    until(lambda: typed.read_text() == "x\nx\n", "the terminal got the desktop's key again")
    assert not done.exists()
    press("Escape")
    press("x")
    until(done.exists, "the desktop's key acts again")
    # By the button, and on the whole screen.
    sway.point(14, 18)
    sway.click()
    press("x", "Return")
    until(lambda: typed.read_text() == "x\nx\nx\n", "the terminal got the desktop's key after the button")
    assert not done.exists()
    sway.tell("fullscreen enable")
    sway.point(300, 400)
    sway.wait(lambda found: found.share(WEB, 440, 6, 840, 26) > 0.4, "whole screen, and all keys")


def test_an_application_does_not_get_the_desktops_keys_by_itself(
    desk: Place, sway: Screen, done: Path, press: Callable[..., None]
) -> None:
    program = desk.folder / "grabs.py"
    program.write_text(GRABS)
    replace(desk, more=sway.more).start("--window", "web", "/usr/bin/python3", str(program))
    grabs = desk.folder / "away/grabs"
    until(lambda: grabs.exists() and grabs.read_text() == "success", "the application has all keys of its display")
    until(lambda: [one for one in sway.windows() if one["focused"]], "its window has the keyboard")
    press("x")
    until(done.exists, "the desktop's key acts")
