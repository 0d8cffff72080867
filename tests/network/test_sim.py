# SPDX-License-Identifier: Apache-2.0
"""`doit sim`: a Tower that stays when the command has ended, is there once, and leaves nothing behind, however it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tower.menu import png

from pipeline.sim import running
from tests.gui.pictures import Colour, Picture, keep, near, read_png
from tests.gui.test_desktop import BAR_TOP, TERMINAL, WINDOW, YELLOW
from tests.integration.windows.test_sound import check_tone, sine
from tests.network.machines import CHECKOUT, missing_tools

FOLDER = CHECKOUT / "build" / "sim"
SECONDS = 240


def argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def sim(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv(*words), cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def listing() -> dict[str, dict[str, object]]:
    rows = [json.loads(line) for line in sim("sim:status", "json=1").stdout.splitlines()]
    return {row["machine"]: row for row in rows if row.get("command") == "sim"}


def networks(pids: list[int]) -> set[str]:
    """The networks of those processes that are still there."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
    return found


def wait_until_gone(mine: set[str]) -> None:
    """Until no process is in these networks."""
    ends = time.monotonic() + 30
    while True:
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found.add(str((process / "ns" / "net").readlink()))
            except OSError:
                continue
        if not mine & found:
            return
        assert time.monotonic() < ends, "a machine is still there"
        time.sleep(0.05)


@pytest.fixture
def nothing_runs() -> Iterator[None]:
    if missing := missing_tools():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    sim("sim:stop")
    yield
    sim("sim:stop")


def until_it_shows(file: Path, seen: Callable[[Picture], bool], why: str = "cat .cache/tower/desktop.log") -> None:
    """Take pictures of the thin client's screen until one shows what it should; `why` is what tells more if none does."""
    ends = time.monotonic() + 60
    while not seen(found := read_png(file.read_bytes())):
        if time.monotonic() > ends:
            path = keep(found, "what the thin client showed")
            raise AssertionError(f"the screen never showed it ({path})\n{sim('sim:ssh', 'thinclient', why).stdout[-3000:]}")
        sim("sim:screen", "thinclient", str(file))


def test_a_tower_stays_and_ends_when_told(nothing_runs: None, tmp_path: Path) -> None:
    del nothing_runs
    assert "no Tower is running" in sim("sim:status", status=17).stderr
    sim("sim", "machines=light")
    found = listing()
    assert list(found) == ["internet", "thinclient", "router", "web", "vault"]
    assert all(row["on"] for row in found.values())
    rows = {row["host"]: row for row in json.loads(sim("sim:ssh", "thinclient", "tower status --json").stdout)["hosts"]}
    assert {name: row["state"] for name, row in rows.items()} == {"router": "up", "web": "up", "vault": "up"}
    # Each is what its role makes of it: the online host reaches the Internet through the router, the other one does not.
    page = "wget -T 5 -qO- http://198.51.100.7/"
    assert "The pretended Internet" in sim("sim:ssh", "web", page).stdout
    assert "exit status" in sim("sim:ssh", "vault", page, status=1).stderr
    assert "no such machines" in sim("sim", "machines=odd", status=10).stderr
    assert "no machine 'nosuch'" in sim("sim:ssh", "nosuch", status=10).stderr
    # Words with `=` are the machine's, not the factory's.
    for name in ("web", "thinclient"):
        assert sim("sim:ssh", name, "one=two; echo three=$one").stdout.splitlines()[-1] == "three=two"
    # Its screen: the wallpaper, and what is opened there. The bar's own programs ask for the hosts.
    file = tmp_path / "screen.png"
    sim("sim:screen", "thinclient", str(file))
    until_it_shows(file, lambda found: near(found.at(*WINDOW), YELLOW))
    sim("sim:ssh", "thinclient", "foot >/dev/null 2>&1 &")
    until_it_shows(file, lambda found: found.share(TERMINAL, 0, 0, 1280, BAR_TOP) > 0.2)
    assert "web has no screen" in sim("sim:screen", "web", status=10).stderr
    # A second one is the same one.
    again = sim("sim", "machines=light")
    assert "is already running" in again.stderr
    assert listing()["web"]["pid"] == found["web"]["pid"]
    mine = networks([int(str(row["pid"])) for row in found.values()])
    assert len(mine) == 5
    # A machine that is killed is off, and stays so; what holds the Tower has nothing to complain of.
    os.kill(int(str(found["vault"]["pid"])), signal.SIGKILL)
    ends = time.monotonic() + 30
    while listing()["vault"]["on"]:
        assert time.monotonic() < ends, "a killed machine is still on"
    assert [name for name, row in listing().items() if not row["on"]] == ["vault"]
    sim("sim:stop")
    assert (FOLDER / "keeper.log").read_text() == ""
    assert not (FOLDER / "state.json").exists()
    wait_until_gone(mine)


def rgb(text: str) -> Colour:
    """A colour of a host, as the thin client writes it."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)


def widget(seen: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    """What the program behind the bar's hosts says, once it says what it should."""
    ends = time.monotonic() + 60
    while True:
        found = json.loads(sim("sim:ssh", "thinclient", "/usr/libexec/tower/status-widget 2>&1 | head -n 1").stdout)
        if seen(found):
            return dict(found)
        assert time.monotonic() < ends, found


@pytest.mark.qa("H15")
def test_the_bar_lists_the_hosts_and_tells_up_from_down(nothing_runs: None, tmp_path: Path) -> None:
    del nothing_runs
    sim("sim")
    shown = widget(lambda found: found["class"] == "up")
    colours = {name: colour for colour, name in re.findall(r'<span color="(#[0-9a-f]{6})">● (\w+)</span>', shown["text"])}
    assert list(colours) == ["router", "vault", "web"]
    assert re.search(r"^web  192\.168\.2\.200  online  up", shown["tooltip"], re.MULTILINE)
    there = {name: rgb(text) for name, text in colours.items()}

    def lit(found: Picture) -> set[str]:
        """The hosts whose colours are in the right half of the bar."""
        return {name for name, colour in there.items() if found.share(colour, 640, BAR_TOP + 2, 1280, 720) > 0.0008}

    file = tmp_path / "screen.png"
    sim("sim:screen", "thinclient", str(file))
    until_it_shows(file, lambda found: lit(found) == {"router", "web", "vault"})
    os.kill(running.need(FOLDER).row("web").pid, signal.SIGKILL)
    assert "○ web" in widget(lambda found: found["class"] == "down")["text"]
    until_it_shows(file, lambda found: lit(found) == {"router", "vault"})


LAUNCH = """
from gi.repository import Gio
entry = Gio.DesktopAppInfo.new_from_filename("/home/user/.local/share/applications/tower-web.galculator.desktop")
assert entry.launch([], None)
print(entry.get_icon().to_string())
"""
"""What a menu does with an entry; prints the entry's icon."""


@pytest.mark.qa("A02")
@pytest.mark.qa("A03")
def test_windows_of_two_hosts_are_on_the_desktop(nothing_runs: None, tmp_path: Path) -> None:
    """Applications of an online and an offline host: installed from the simulated Internet, shown in colours, and heard.

    One is started by its entry in the menu.
    """
    del nothing_runs
    sim("sim")
    sim("sim:ssh", "thinclient", "tower install web galculator tigervnc socat pulseaudio-utils --yes")
    sim("sim:ssh", "thinclient", "tower install vault xterm tigervnc socat --yes")
    rows = json.loads(sim("sim:ssh", "thinclient", "tower status --json").stdout)["hosts"]
    colours = {row["host"]: rgb(row["color"]) for row in rows}
    file = tmp_path / "screen.png"
    sim("sim:screen", "thinclient", str(file))
    shown: list[str] = []

    def all_of_them(found: Picture) -> bool:
        return all(found.share(colours[name], 0, 0, 1280, BAR_TOP) > 0.005 for name in shown)

    # One after the other: a window that opens later is placed so that the title bars of both are seen.
    icon = started_from_the_menu()
    shown.append("web")
    until_it_shows(file, all_of_them, "cat .cache/menu.log; tower run --list")
    drawn = png.decode(base64.b64decode(sim("sim:ssh", "thinclient", f"base64 {icon}").stdout))
    assert drawn.pixels[4 * (drawn.width // 2) :][:3] == bytes(colours["web"])
    sim("sim:ssh", "thinclient", "setsid tower run vault xterm >/dev/null 2>.cache/vault.log </dev/null &")
    shown.append("vault")
    until_it_shows(file, all_of_them, "cat .cache/vault.log; tower run --list")
    check_sound_and_menu(tmp_path)


def started_from_the_menu() -> str:
    """Start galculator on web by its entry in the thin client's menu; the path of the entry's icon."""
    sim("sim:ssh", "thinclient", f"cat >.cache/launch.py <<'END'\n{LAUNCH}END")
    # What it starts has its output, and goes on.
    line = "setsid python3 .cache/launch.py >.cache/icon 2>.cache/menu.log </dev/null && cat .cache/icon"
    return sim("sim:ssh", "thinclient", line).stdout.strip()


def check_sound_and_menu(folder: Path) -> None:
    """A tone that is played on a host is heard on the thin client; what was installed is in its menu."""
    (folder / "tone").write_bytes(sine())
    player = "pacat --raw --format=s16le --rate=44100 --channels=1 tone"
    send = ["sim:ssh", "thinclient", "tower run web sh -c 'cat >tone'"]
    subprocess.run(argv(*send), cwd=CHECKOUT, input=(folder / "tone").read_bytes(), check=True, timeout=SECONDS)
    record = "setsid pw-record -P stream.capture.sink=true --format s16 --rate 44100 --channels 1 heard.wav >/dev/null 2>&1 &"
    sim("sim:ssh", "thinclient", record)
    ends = time.monotonic() + 60
    while "heard.wav" not in sim("sim:ssh", "thinclient", "find heard.wav -size +10k 2>/dev/null || :").stdout:
        assert time.monotonic() < ends, "nothing is recorded"
    sim("sim:ssh", "thinclient", f"tower run --window web sh -c '{player}'")
    sim("sim:ssh", "thinclient", "pkill -INT -x pw-record")
    wav = sim("sim:ssh", "thinclient", "base64 heard.wav").stdout
    # Without the head of a WAV file.
    (folder / "heard").write_bytes(base64.b64decode(wav[wav.index("UklGR") :].partition("\nsim:")[0])[44:])
    # The desktop has no sound card, whose clock would be kept before other programs.
    check_tone(folder / "heard", within=0.5)
    names = json.loads(sim("sim:ssh", "thinclient", "tower menu --json").stdout)
    assert {"galculator", "xterm"} <= set(json.dumps(names).replace('"', " ").split())


def test_nothing_is_left_of_a_start_that_was_cut_off(nothing_runs: None) -> None:
    """Interrupted, and killed, while machines start."""
    del nothing_runs
    for how in (signal.SIGINT, signal.SIGKILL):
        child = subprocess.Popen(argv("sim", "machines=light"), cwd=CHECKOUT, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        with child, child.stderr:
            said = next(line for line in child.stderr if "thinclient: starting" in line)
            assert said
            keeper = running.read(FOLDER)
            assert keeper is not None
            mine = networks([keeper.keeper, *_below(keeper.keeper)]) - networks([os.getpid()])
            assert mine
            child.send_signal(how)
            child.wait(60)
        no_tower_is_left(mine)


def test_nothing_is_left_of_a_tower_whose_process_is_killed(nothing_runs: None) -> None:
    del nothing_runs
    sim("sim")
    found = running.need(FOLDER)
    mine = networks([row.pid for row in found.machines])
    assert len(mine) == 5
    os.kill(found.keeper, signal.SIGKILL)
    no_tower_is_left(mine)


def no_tower_is_left(mine: set[str]) -> None:
    """Check that nothing runs in these networks, and that the commands know it."""
    wait_until_gone(mine)
    ends = time.monotonic() + 30
    while running.is_held(FOLDER):
        assert time.monotonic() < ends
        time.sleep(0.05)
    assert "no Tower is running" in sim("sim:status", status=17).stderr


def _below(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *_below(child)]
    return found
