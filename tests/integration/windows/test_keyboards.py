# SPDX-License-Identifier: Apache-2.0
"""What is typed on keyboards of several layouts arrives at applications of hosts: letters, dead keys, keys of composition."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.windows.conftest import RED, SERVERS, XTERM, Place, place_without
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen

LAYOUTS = {
    "de": ("12 altgr+18 26 13 18 41 30 21 altgr+16 shift+12", "ß€üéâz@?"),
    "fr": ("3 26 18 shift+26 22 altgr+18 16 shift+3", "éêü€a2"),
    "es": ("39 40 30 shift+40 22", "ñáü"),
    "us(dvorak)": ("30 31 32 16", "aoe'"),
    "us(intl)": ("40 18 shift+41 49 shift+40 22", "éñü"),
    "us+compose(menu)": ("127 31 31 127 shift+40 22", "ßü"),
    "gr": ("30 17 39 30", "αςά"),
    "ru": ("shift+19 24", "Кщ"),
}
"""What is pressed on a keyboard with each layout, by numbers of linux/input-event-codes.h, and the text that this is."""


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for each kind of servers."""
    with place_without(tmp_path_factory, SERVERS[request.param]) as made:
        yield made


def type_all(sway: Screen, typed: Path) -> None:
    """Press the keys of each layout, and wait until the application has written down what they are."""
    wanted = ""
    for layout, (keys, text) in LAYOUTS.items():
        wanted += text
        with sway.keyboard(layout) as keyboard:
            for key in keys.split():
                keyboard.press(key)
            ends = time.monotonic() + 30
            while (found := typed.read_text(errors="replace")) != wanted:
                assert time.monotonic() < ends, f"{layout}: {found!r} is not {wanted!r}"
                time.sleep(0.05)


@pytest.mark.qa("A03", simulated="both sides are this machine, and the desktop is sway in memory")
def test_a_terminal_gets_what_is_typed(wayland: Place, sway: Screen) -> None:
    """Also the very first character, and one that the keyboard of the host's display does not have."""
    typed = wayland.folder / "away/typed"
    wayland.start("web", *XTERM, "-e", "sh", "-c", "stty -icanon -echo; exec cat >typed")
    sway.wait(lambda found: found.share(RED, 20, 100, 1260, 780) > 0.9, "an xterm that is typed into")
    until(typed.exists, "the terminal reads")
    type_all(sway, typed)
    typed.unlink()


@pytest.mark.qa("A03", simulated="both sides are this machine, and the desktop is sway in memory")
def test_a_program_of_gtk_gets_what_is_typed(wayland: Place, sway: Screen) -> None:
    """An entry that writes down its text: what another toolkit makes of dead keys."""
    program = wayland.folder / "entry.py"
    program.write_text(ENTRY)
    wayland.start("--window", "web", "/usr/bin/python3", str(program))
    text = wayland.folder / "away/text"
    until(text.exists, "the entry is there")
    sway.wait(lambda found: found.share((255, 255, 255), 100, 100, 1200, 700) > 0.9, "an entry that is typed into")
    type_all(sway, text)
    text.unlink()


ENTRY = """
import gi, pathlib
gi.require_version("Gtk", "3.0")
from gi.repository import Gtk
window, view = Gtk.Window(), Gtk.TextView()
buffer = view.get_buffer()
write = lambda _: pathlib.Path("text").write_text(buffer.props.text)
buffer.connect("changed", write)
window.add(view)
window.show_all()
write(buffer)
Gtk.main()
"""
