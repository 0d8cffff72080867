# SPDX-License-Identifier: Apache-2.0
"""Icons of windows: what the desktop knows an application's window as, and the picture that it has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tower.menu import png

from tests.integration.windows.conftest import COLOURS, Place
from tests.integration.windows.screen import client, colour
from tests.integration.windows.waiting import until
from tests.integration.windows.wayland import Screen


@pytest.fixture
def menu(desk: Place) -> Iterator[Path]:
    """The user's ~/.local/share after a refresh."""
    done = desk.tower("menu", "--refresh", "web")
    assert done.returncode == 0, done.stderr
    folder = desk.folder / "home/.local/share"
    yield folder
    for name in ("applications", "icons", "tower"):
        shutil.rmtree(folder / name)


def icon_of(desk: Place, title: str) -> tuple[int, ...]:
    """The icon of a window of an X desktop: width, height, pixels."""
    window = int(desk.window(title))
    with client(desk.display) as server:
        return server.words(window, "_NET_WM_ICON")


@pytest.mark.qa("A02", simulated="both sides are this machine, and the desktop is an X server in memory")
def test_a_window_has_the_icon_of_its_menu_entry(desk: Place, menu: Path) -> None:
    desk.start("web", "mousepad")
    width, height, *pixels = icon_of(desk, r"Mousepad \(web\)")
    drawn = png.decode((menu / "icons/hicolor/64x64/apps/tower-web.org.xfce.mousepad.png").read_bytes())
    assert (width, height) == (drawn.width, drawn.height)
    # A frame in the host's colour.
    assert pixels[width // 2].to_bytes(4, "big") == b"\xff" + bytes(colour(COLOURS["web"]))


def test_files_of_others_give_no_icon(desk: Place, menu: Path) -> None:
    entry = menu / "applications/tower-web.galculator.desktop"
    for odd in (
        b"",
        b"\xff\0[",
        b"[Desktop Entry]\nExec=tower run web -- galculator\n",
        entry.read_bytes().replace(b"=web", b"=vault"),
    ):
        entry.write_bytes(odd)
        running = desk.start("web", "galculator")
        assert icon_of(desk, r"\(web\)") == ()
        desk.run("--stop", "web", desk.id())
        running.wait(60)
    entry.unlink()


@pytest.mark.qa("A02", simulated="both sides are this machine, and the desktop is sway in memory")
def test_a_desktop_of_wayland_finds_the_entry_by_the_windows_name(desk: Place, menu: Path, sway: Screen) -> None:
    """It looks for a file of the name that it is told, which is how bars and lists of windows come to an icon."""
    wayland = replace(desk, more=sway.more)
    wayland.start("web", "mousepad")
    until(lambda: [one["app_id"] for one in sway.windows()] == ["tower-web.org.xfce.mousepad"], "the window has the entry's name")
    assert (menu / "applications/tower-web.org.xfce.mousepad.desktop").exists()
    wayland.start("web", "xterm", "-T", "an xterm")
    until(lambda: {one["app_id"] for one in sway.windows()} >= {"tower-web.debian-xterm"}, "another one has another name")
