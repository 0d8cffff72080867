# SPDX-License-Identifier: Apache-2.0
"""Keys of the desktop: those printed with a loudspeaker or a sun, and that of the menu."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from pipeline.light.machine import bring
from pipeline.light.services import service
from tests.gui.conftest import Desktop
from tests.gui.test_desktop import BAR_TOP

SCREEN = "/sys/class/backlight/screen"
# What a menu's entries lie on.
PAPER = (252, 251, 250)


@pytest.fixture(scope="module")
def keys(desktop: Desktop) -> Iterator[Callable[[str], None]]:
    """Presses a key. Without a keyboard, here wtype, the desktop has none to press."""
    if shutil.which("wtype") is None:
        pytest.skip("not on this machine: wtype")
    bring(desktop.box, "wtype")
    desktop.open("wtype", "-s", "3600000")

    def press(key: str) -> None:
        *held, name = key.split("+")
        words = [word for one in held for word in ("-M", one)]
        desktop.run("wtype", "-s", "300", *words, "-k", name, "-s", "100", *(word for one in held for word in ("-m", one)))

    yield press
    desktop.run("pkill", "-x", "wtype", check=False)


def becomes(read: Callable[[], str], wanted: str) -> None:
    ends = time.monotonic() + 20
    while (found := read()) != wanted:
        assert time.monotonic() < ends, f"{found!r} is not {wanted!r}"
        time.sleep(0.1)


def in_use(desktop: Desktop) -> None:
    """Record what is played, so that the output is in use: PipeWire gives one of no card its volume then alone, and forgets it
    when it lets go of it.

    A recorder leaves if there is no output yet, or another one comes in its place, as where the sound has just begun: the next
    one stays. (A player of endless silence is no use: pw-cat takes a round for which PipeWire wants no samples for the end.)
    """

    def states() -> list[str]:
        dump = desktop.run("pw-dump", check=False)
        things = json.loads(dump.stdout) if dump.returncode == 0 else []
        nodes = [one["info"] for one in things if one["type"] == "PipeWire:Interface:Node"]
        return [str(one["state"]) for one in nodes if one["props"].get("media.class") == "Audio/Sink"]

    ends = time.monotonic() + 60
    steady = 0
    while steady < 10:
        assert time.monotonic() < ends, f"no recorder stays: {states()}"
        if desktop.run("pgrep", "-x", "pw-record", check=False).returncode:
            desktop.open("pw-record", "--raw", "-P", "stream.capture.sink=true", "/dev/null")
            steady = 0
        steady = steady + 1 if states() == ["running"] else 0
        time.sleep(0.2)


@pytest.mark.qa("T22", simulated=None)
def test_the_keys_for_volume_act(desktop: Desktop, keys: Callable[[str], None]) -> None:
    def volume() -> str:
        return desktop.run("wpctl", "get-volume", "@DEFAULT_AUDIO_SINK@", check=False).stdout.strip()

    becomes(volume, "Volume: 1.00")
    in_use(desktop)
    try:
        for key, wanted in (
            ("Lower", "0.95"),
            ("Lower", "0.90"),
            ("Raise", "0.95"),
            ("Raise", "1.00"),
            ("Raise", "1.00"),
            ("Mute", "1.00 [MUTED]"),
            ("Mute", "1.00"),
        ):
            keys(f"XF86Audio{key}{'' if key == 'Mute' else 'Volume'}")
            becomes(volume, f"Volume: {wanted}")
    finally:
        desktop.run("pkill", "-x", "pw-record", check=False)


@pytest.mark.qa("T22", simulated="the screen is a folder with the files of one")
def test_the_keys_for_brightness_act(desktop: Desktop, keys: Callable[[str], None]) -> None:
    box = desktop.box
    box.run("mount", "-t", "tmpfs", "screen", "/sys/class")
    try:
        box.run("mkdir", "-p", SCREEN)
        for name, value in (("brightness", 500), ("max_brightness", 1000), ("actual_brightness", 500), ("type", "raw")):
            box.run("sh", "-c", f"echo {value} >{SCREEN}/{name}; chmod 0644 {SCREEN}/{name}")
        service(box, "tower-desktop", "restart")

        def brightness() -> str:
            return box.run("cat", f"{SCREEN}/brightness").stdout.strip()

        for key, wanted in (("Up", "600"), ("Up", "700"), ("Down", "600")):
            keys(f"XF86MonBrightness{key}")
            becomes(brightness, wanted)
    finally:
        box.run("umount", "/sys/class")


@pytest.mark.qa("A02", simulated="no host is there")
def test_the_menu_of_the_wallpaper_opens_by_a_key(desktop: Desktop, keys: Callable[[str], None]) -> None:
    keys("logo+m")
    desktop.wait(lambda found: found.share(PAPER, 0, 0, 1280, BAR_TOP) > 0.02, "menu of the wallpaper")
    keys("Escape")
    desktop.wait(lambda found: found.share(PAPER, 0, 0, 1280, BAR_TOP) < 0.001, "no menu")
