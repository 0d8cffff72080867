# SPDX-License-Identifier: Apache-2.0
"""The hosts' applications in the desktop of the product's own root: the launcher and the menu show what `tower menu` writes."""

from __future__ import annotations

import signal
from xml.etree import ElementTree

import pytest

from tests.gui.conftest import USER, Desktop
from tests.gui.pictures import Colour, Picture
from tests.gui.test_desktop import BAR_TOP

WEB, VAULT = (0x43, 0x63, 0xD8), (0xF5, 0x82, 0x31)
# Two applications as hosts send them: one with an icon of its own, one without.
FILL = """\
from tower.menu import icon
from tower.menu import png
from tower.menu.applications import Application
from tower.menu.entries import Entry
from tower.menu.desktop_files import menu_of_user

red = png.decode(png.encode(png.Picture(48, 48, b"\\xff\\0\\0\\xff" * 48**2)))
menu_of_user().put("web", [Application(Entry("red", "Red Picture", ("red", "a word")), png.encode(icon.framed(red, "#4363d8")))])
menu_of_user().put("vault", [Application(Entry("tile", "Tile", ("tile",)), png.encode(icon.tile("Tile", "#f58231")))])
"""


def middle(found: Picture, colour: Colour) -> float:
    """The part of the screen's middle, where the launcher is, of a colour."""
    return found.share(colour, 400, 0, 880, 690)


@pytest.mark.qa("A02", simulated="no host is there: its applications are given to what writes the entries")
def test_the_launcher_shows_applications_of_hosts_in_their_colours(desktop: Desktop) -> None:
    assert "None yet" in desktop.run("/usr/libexec/tower/desktop", "applications").stdout
    desktop.run("env", "PYTHONPATH=/usr/lib/tower", "python3", "-P", "-c", FILL)
    before = desktop.picture()
    assert middle(before, WEB) == middle(before, VAULT) == 0
    desktop.open("fuzzel", "--width=40", "--line-height=40", "--lines=8")
    desktop.wait(
        lambda found: min(middle(found, one) for one in (WEB, VAULT, (255, 0, 0))) > 0.0005,
        "applications of hosts in the launcher",
    )
    desktop.box.kill(signal.SIGTERM, "^fuzzel")


def test_the_menu_of_the_wallpaper_has_them(desktop: Desktop) -> None:
    desktop.run("env", "PYTHONPATH=/usr/lib/tower", "python3", "-P", "-c", FILL)
    found = ElementTree.fromstring(desktop.run("/usr/libexec/tower/desktop", "applications").stdout)
    items = {one.attrib["label"]: one for one in found.findall("item")}
    assert list(items) == ["Tile (vault)", "Red Picture (web)"]
    assert items["Red Picture (web)"][0].attrib["command"] == "tower run --window --tell web -- red 'a word'"
    icon = f"/home/{USER}/.local/share/icons/hicolor/64x64/apps/tower-web.red.png"
    assert items["Red Picture (web)"].attrib["icon"] == icon
    assert desktop.run("test", "-s", icon).stdout == ""


def test_the_bar_shows_the_icon_of_a_window_of_a_host(desktop: Desktop) -> None:
    """It finds it among the user's entries, by the name that such a window has."""
    desktop.run("env", "PYTHONPATH=/usr/lib/tower", "python3", "-P", "-c", FILL)
    desktop.open("foot", "--config=/dev/null", "--app-id=tower-web.red")
    desktop.wait(lambda found: found.share((255, 0, 0), 60, BAR_TOP + 2, 400, 720) > 0.005, "icon of a window in the bar")
    desktop.box.kill(signal.SIGTERM, "^foot ")
