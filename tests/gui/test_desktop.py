# SPDX-License-Identifier: Apache-2.0
"""The thin client's desktop, as it looks: wallpaper, bar, terminal, lock."""

from __future__ import annotations

import signal

import pytest

from pipeline.light.machine import Box
from tests.gui.conftest import USER, Desktop
from tests.gui.pictures import Picture, near, plain

# On a screen of 1280 by 720, where the wallpaper is two thirds as large.
WINDOW = (986, 325)
SKY = (300, 60)
YELLOW, BAR, MENU, LOCKED, GREEN = (240, 180, 41), (11, 29, 48), (214, 69, 69), (16, 42, 67), (20, 160, 60)
TERMINAL = (36, 36, 36)
BAR_TOP = 690
SETTINGS = f"home/{USER}/.config/tower/desktop"


def whole(found: Picture) -> bool:
    return near(found.at(*WINDOW), YELLOW) and found.share(MENU, 0, BAR_TOP + 2, 60, 720) > 0.5


@pytest.mark.qa("T17")
def test_wallpaper_and_bar_are_there(desktop: Desktop) -> None:
    found = desktop.wait(whole, "wallpaper and bar")
    assert (found.width, found.height) == (1280, 720)
    assert found.share(BAR, 400, BAR_TOP + 2, 800, 720) > 0.8
    assert not near(found.at(*SKY), BAR)


@pytest.mark.qa("T17")
def test_another_wallpaper_is_shown_at_once_and_the_first_comes_back(desktop: Desktop) -> None:
    picture = desktop.box.path(f"home/{USER}/my green.png")
    picture.write_bytes(plain(GREEN).png())
    desktop.run("startw", "--wallpaper", "my green.png")
    desktop.wait(lambda found: near(found.at(*SKY), GREEN) and near(found.at(*WINDOW), GREEN), "another wallpaper")
    assert f"wallpaper=/home/{USER}/my green.png\n" in desktop.run("startw", "--show").stdout
    picture.write_text("no picture")
    refused = desktop.run("startw", "--wallpaper", "my green.png", check=False)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (2, "error: my green.png: is no picture")
    desktop.run("startw", "--wallpaper", "default")
    desktop.wait(whole, "wallpaper and bar")


@pytest.mark.qa("H15", simulated="the hosts' states are the unit tests'")
def test_the_bar_asks_for_the_hosts_again_and_again(desktop: Desktop) -> None:
    desktop.wait_for(r"-m tower status --json --watch")
    desktop.wait_for(r"-m tower\.status\.bar")


def test_a_terminal_opens_as_a_window(desktop: Desktop) -> None:
    desktop.wait(whole, "wallpaper and bar")
    desktop.open("foot", "--config=/dev/null")
    desktop.wait(lambda found: found.share(TERMINAL, 0, 0, 1280, BAR_TOP) > 0.2, "a terminal")
    desktop.box.kill(signal.SIGTERM, "^foot ")


SOUND = (r"(^|/)pipewire$", r"(^|/)wireplumber\b", r"(^|/)pipewire-pulse\b")


def test_sound_is_served(desktop: Desktop) -> None:
    for pattern in SOUND:
        desktop.wait_for(pattern)
    assert "PipeWire" in desktop.run("wpctl", "status").stdout


def test_sound_is_served_when_pipewire_starts_slowly(desktop: Desktop) -> None:
    """The other two programs end when there is no PipeWire to connect to, and so did the sound."""
    slow = desktop.box.path("tmp/slow/pipewire")
    slow.parent.mkdir(mode=0o755)
    slow.write_text("#!/bin/sh\nuntil [ -e /tmp/slow/go ]; do sleep 0.1; done\nexec /usr/bin/pipewire\n")
    slow.chmod(0o755)
    desktop.run("sh", "-c", "PATH=/tmp/slow:$PATH exec /usr/libexec/tower/desktop sound")
    desktop.wait_for_end("|".join(SOUND[1:]))
    desktop.box.path("tmp/slow/go").touch()
    for pattern in SOUND:
        desktop.wait_for(pattern)
    assert "PipeWire" in desktop.run("wpctl", "status").stdout


@pytest.mark.qa("T18", simulated="nobody waits five minutes: who counts them, and what comes then, is looked at")
def test_the_program_that_counts_idle_minutes_locks_the_screen(desktop: Desktop) -> None:
    assert "timeout 300 /usr/libexec/tower/desktop lock" in desktop.wait_for("^swayidle")
    desktop.run("startw", "--lock", "7")
    desktop.wait_for("^swayidle .*timeout 420 ")
    desktop.run("startw", "--lock", "5")
    desktop.wait(whole, "wallpaper and bar")
    desktop.run("/usr/libexec/tower/desktop", "lock")
    locked = desktop.wait(lambda found: near(found.at(20, 710), LOCKED, 2) and near(found.at(*WINDOW), LOCKED, 2), "locked")
    assert locked.share(LOCKED, 0, 0, 400, 720) > 0.99
    unlock(desktop)


@pytest.mark.qa("T21", simulated="nobody closes a lid: what then locks the screen is run")
def test_root_locks_the_screens_of_all_desktops(desktop: Desktop) -> None:
    desktop.box.run("/usr/libexec/tower/lock")
    desktop.wait(lambda found: near(found.at(20, 710), LOCKED, 2) and near(found.at(*WINDOW), LOCKED, 2), "locked")
    unlock(desktop)


def unlock(desktop: Desktop) -> None:
    """End the lock as swaylock does after the right password.

    It starts a process that looks at passwords, which must not get the signal, before it becomes a daemon by a further one.
    """
    desktop.run("kill", "-s", "USR1", str(desktop.box.running("^swaylock")[-1]))
    desktop.wait(whole, "wallpaper and bar")


@pytest.mark.qa("T18", simulated="the shell ends an idle console by itself, after the time that it is told")
def test_an_idle_console_is_logged_out_after_the_same_time(thinclient: Box) -> None:
    def seconds() -> str:
        return thinclient.run("sh", "-lc", "echo $TMOUT", user=USER).stdout.strip()

    assert seconds() == "300"
    thinclient.run("startw", "--lock", "12", user=USER)
    assert seconds() == "720"
    thinclient.run("startw", "--lock", "5", user=USER)
    assert thinclient.run("sh", "-lc", "echo ${TMOUT-none}").stdout.strip() == "none"


@pytest.mark.qa("T16", simulated="a light machine has no consoles to log in on")
def test_the_setting_for_logins_is_kept_and_invalid_ones_are_ignored(thinclient: Box) -> None:
    def shown() -> list[str]:
        return thinclient.run("startw", "--show", user=USER).stdout.splitlines()

    default = ["at_login=no", "lock=5", "wallpaper=/usr/share/tower/desktop/wallpaper.png"]
    thinclient.run("startw", "--at-login", "yes", user=USER)
    assert shown() == ["at_login=yes", *default[1:]]
    thinclient.run("startw", "--at-login", "no", user=USER)
    assert shown() == default
    for text in ("at_login=$(id)\nlock=0\nwallpaper=x\n", "lock=601\n\0\xff\n", "lock=5x", "at_login", "lock=9999999999\n"):
        thinclient.write(SETTINGS, text)
        assert shown() == default, text
    thinclient.path(SETTINGS).unlink()


@pytest.mark.parametrize(
    "words",
    [
        ("--lock", "0"),
        ("--lock", "601"),
        ("--lock", "5m"),
        ("--lock", ""),
        ("--at-login", "maybe"),
        ("--wallpaper", "none"),
        ("x",),
    ],
)
def test_wrong_words_are_refused_and_nothing_is_kept(thinclient: Box, words: tuple[str, ...]) -> None:
    done = thinclient.run("startw", *words, user=USER, check=False)
    assert done.returncode == 2
    assert done.stderr
    assert not thinclient.path(SETTINGS).exists()


def test_root_has_no_desktop(thinclient: Box) -> None:
    done = thinclient.run("startw", env={"HOME": "/root"}, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: the desktop is not for root")
