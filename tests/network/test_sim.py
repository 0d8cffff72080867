# SPDX-License-Identifier: Apache-2.0
"""`doit sim`: a Tower that stays when the command has ended, is there once, and leaves nothing behind, however it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.menu import png

from pipeline.sim import running
from pipeline.sim.machines import USER
from pipeline.sim.prepared import PAGE
from tests.gui.pictures import Colour, Picture, keep, near, read_ppm
from tests.gui.test_desktop import BAR_TOP, TERMINAL, WINDOW, YELLOW
from tests.integration.windows.test_sound import check_tone, sine
from tests.network.machines import CHECKOUT, missing_tools
from tests.network.simulated import (
    SECONDS,
    HostClipboard,
    argv,
    changed,
    press,
    rgb,
    sim,
    start,
    start_keyboard,
    there,
    until,
    until_it_shows,
)

FOLDER = CHECKOUT / "build" / "sim"


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


@dataclass
class Desk:
    """The desktop of a Tower whose hosts have applications, and a keyboard."""

    colours: dict[str, Colour]

    def picture(self) -> Picture:
        """What is on the screen, by a form that takes a test no time to read."""
        there("grim -t ppm .cache/screen.ppm")
        machine = Path(f"/proc/{running.need(FOLDER).row('thinclient').pid}/root")
        return read_ppm((machine / f"home/{USER}/.cache/screen.ppm").read_bytes())

    def wait(self, seen: Callable[[Picture], bool], what: str, why: str = "tower run --list") -> Picture:
        """The screen when it shows what it should; it is kept in build/gui/."""
        ends = time.monotonic() + 60
        while not seen(found := self.picture()):
            assert time.monotonic() < ends, f"the screen never showed this: {what} ({keep(found, what)})\n{there(why)[-3000:]}"
        keep(found, what)
        return found

    def rest(self, seen: Callable[[Picture], bool], what: str, why: str = "tower run --list") -> Picture:
        """The screen when it shows what it should, and nothing above the bar has changed for a second."""
        found, since = self.wait(seen, what, why), time.monotonic()
        ends = since + 60
        while time.monotonic() < since + 1:
            assert time.monotonic() < ends, f"the screen never came to rest: {what} ({keep(found, what)})"
            before, found = found, self.picture()
            if changed(before, found) != (0, 0, 0, 0):
                since = time.monotonic()
        return found

    def has_window_of(self, found: Picture, host: str) -> bool:
        return found.share(self.colours[host], 0, 0, 1280, BAR_TOP) > 0.005


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One Tower for all tests of windows, whose hosts get their applications from the simulated Internet."""
    if missing := missing_tools():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    sim("sim:stop")
    try:
        sim("sim")
        for words in ("web dillo galculator pulseaudio-utils xclip", "vault xterm xclip"):
            there(f"tower install {words} tigervnc socat --yes")
        there("tower install thinclient wtype --yes")
        rows = json.loads(there("tower status --json"))["hosts"]
        # Its desktop starts with the first picture.
        sim("sim:screen", "thinclient", str(tmp_path_factory.mktemp("desk") / "screen.png"))
        start_keyboard()
        yield Desk({row["host"]: rgb(row["color"]) for row in rows})
    finally:
        sim("sim:stop")


LAUNCH = """
from gi.repository import Gio
entry = Gio.DesktopAppInfo.new_from_filename("/home/user/.local/share/applications/tower-web.galculator.desktop")
assert entry.launch([], None)
print(entry.get_icon().to_string())
"""
"""What a list of applications does with an entry; prints the entry's icon."""


@pytest.mark.qa("A02")
@pytest.mark.qa("A03")
def test_windows_of_two_hosts_are_on_the_desktop(desk: Desk) -> None:
    """One of an online host is started by its entry in the list, one of an offline host by keys in the desktop's menu."""
    there(f"cat >.cache/launch.py <<'END'\n{LAUNCH}END")
    # What it starts has its output, and goes on.
    icon = there("setsid python3 .cache/launch.py >.cache/icon 2>.cache/menu.log </dev/null && cat .cache/icon")
    desk.wait(lambda found: desk.has_window_of(found, "web"), "window of web", "cat .cache/menu.log; tower run --list")
    drawn = png.decode(base64.b64decode(there(f"base64 {icon}")))
    assert drawn.pixels[4 * (drawn.width // 2) :][:3] == bytes(desk.colours["web"])
    menu = there("/usr/libexec/tower/desktop applications")
    labels = re.findall('<item label="([^"]+)"', menu)
    assert {"XTerm (vault)", "Galculator (web)"} <= set(labels)
    # The menu opens where the pointer is; its second entry is that of hosts' applications, whose first one is chosen then.
    press("logo+m", "Down", "Down", "Right", *["Down"] * labels.index("XTerm (vault)"))
    desk.wait(lambda found: found.share(desk.colours["vault"], 270, 120, 300, 220) > 0.05, "menu with applications of hosts")
    press("Return")
    desk.wait(lambda found: all(desk.has_window_of(found, host) for host in ("web", "vault")), "windows of two hosts")


@pytest.mark.qa("A05")
def test_texts_pass_between_thin_client_and_hosts_and_from_host_to_host(desk: Desk) -> None:
    web, vault = HostClipboard("web"), HostClipboard("vault")

    def keyboard() -> list[str]:
        state = f"import tower.clipboard.messages as m; from tower.clipboard.policy import folder; {STATE}"
        found: list[str] = json.loads(there(f"PYTHONPATH=/usr/lib/tower python3 -c '{state}'"))
        return found

    def has_it(host: str) -> bool:
        if keyboard() == [host]:
            return True
        press("alt+Tab")
        return False

    def go_to(host: str) -> None:
        until(lambda: has_it(host), f"{host}'s window has the keyboard")

    go_to("vault")
    there("printf %s 'of the thin client, 東京' | wl-copy >/dev/null 2>&1")
    until(lambda: vault.paste() == "of the thin client, 東京", "vault has what was copied here")
    vault.copy("of vault, Grüße")
    until(lambda: there("wl-paste -n || :") == "of vault, Grüße", "the thin client has what was copied on vault")
    go_to("web")
    assert web.paste() == ""
    # From an offline to an online host.
    assert "web: its windows have what was copied on vault" in there("tower clipboard send web --yes 2>&1")
    until(lambda: web.paste() == "of vault, Grüße", "web has what was sent")
    web.copy("of web")
    until(lambda: there("wl-paste -n || :") == "of web", "the thin client has what was copied on web")
    go_to("vault")
    assert vault.paste() == "of vault, Grüße"
    assert "vault: its windows have what was copied on web" in there("tower clipboard send vault 2>&1")
    until(lambda: vault.paste() == "of web", "vault has what was sent")
    lines = json.loads(there("tower clipboard log --json"))["transfers"]
    assert [(one["from"], one["to"]) for one in lines] == [
        ("thinclient", "vault"), ("vault", "thinclient"), ("vault", "web"), ("web", "thinclient"), ("web", "vault"),
    ]  # fmt: skip


STATE = """
s = m.connected(folder()); s.sendall(m.packed(do="state")); import json; held = bytearray()
while data := s.recv(4096): held += data
print(json.dumps(list(next(iter(m.unpacked(held)))[0]["keyboard"])))
"""
"""Prints the hosts whose windows have the keyboard, as the clipboard's broker knows it."""


@pytest.mark.qa("A04")
def test_an_application_follows_its_window_and_menus_and_dialogs_are_whole(desk: Desk) -> None:
    said = start("tower run vault xterm -bg '#204060' -fg '#204060' +sb -e sh -c 'while sleep 0.2; do stty size >size; done'")

    def filled(found: Picture, part: float) -> bool:
        return found.share((0x20, 0x40, 0x60), 0, 30, 1280, BAR_TOP) > part

    def cells() -> tuple[int, ...]:
        return tuple(int(word) for word in there("tower run vault cat size").split())

    desk.wait(lambda found: filled(found, 0.1), "a terminal of vault", said)
    until(lambda: cells()[1:] and cells()[1] < 160, "the terminal has the size of its window")
    before = cells()
    press("logo+a")
    desk.wait(lambda found: filled(found, 0.95), "a terminal of vault on the whole screen", said)
    # A character has 6 by 13 pixels.
    until(lambda: cells()[1:] and cells()[1] >= 210 and cells()[0] >= 49, "the terminal has as many characters as the screen")
    press("logo+a")
    until(lambda: cells() == before, "the terminal is as small as before")
    press("logo+f")
    desk.wait(lambda found: found.share((0x20, 0x40, 0x60), 0, 0, 1280, 720) > 0.97, "full screen of a terminal of vault", said)
    press("logo+f")
    until(lambda: cells() == before, "the terminal is as small as before")
    plain = desk.rest(lambda found: desk.has_window_of(found, "vault"), "a terminal of vault, as small as before", said)
    press("logo+Escape")
    desk.rest(lambda found: changed(plain, found) != (0, 0, 0, 0), "a terminal of vault that has all keys", said)
    press("logo+a")
    time.sleep(1)  # sleeps: nothing is to happen to the window, and there is nothing that tells so
    assert cells() == before
    press("logo+Escape", "logo+a")
    until(lambda: cells()[1:] and cells()[1] >= 210, "the desktop's key acts again")
    press("logo+a")
    until(lambda: cells() == before, "the terminal is as small as before")
    # Those of earlier tests, too: the next one then opens in the middle of the screen.
    there("tower run vault pkill -x xterm; tower run web pkill -x galculator || :")
    desk.wait(lambda found: not any(desk.has_window_of(found, host) for host in ("web", "vault")), "no windows")
    said = start("tower run web galculator")
    plain = desk.rest(lambda found: found.share(desk.colours["web"], 400, 140, 880, 185) > 0.3, "galculator", said)

    def opened(found: Picture, width: int, height: int) -> bool:
        """Whether something of about this size is open, and ends before the window does."""
        left, top, right, bottom = changed(plain, found)
        return left >= 400 and right < 880 and bottom < 540 and right - left >= width and bottom - top >= height

    press("F10", "Right", "Right")
    desk.wait(lambda found: opened(found, 120, 60), "a menu of galculator", said)
    press("Escape", "Escape", "F10", "Left", "Up", "Return")
    desk.wait(lambda found: opened(found, 440, 320), "a dialog of galculator", said)
    press("Escape")


@pytest.mark.qa("A06")
def test_a_browser_of_an_online_host_shows_a_page_of_the_internet(desk: Desk) -> None:
    said = start("tower run web dillo http://alpine.test/")

    def page(found: Picture) -> float:
        return found.share(PAGE, 0, 0, 1280, BAR_TOP)

    desk.wait(lambda found: page(found) > 0.2, "a page of the Internet", said)
    there("tower run web pkill -x dillo || :")


@pytest.mark.qa("A06")
@pytest.mark.qa("T22")
def test_sound_of_an_online_host_is_heard(desk: Desk, tmp_path: Path) -> None:
    """A tone that is played on a host is heard on the thin client."""
    (tmp_path / "tone").write_bytes(sine())
    player = "pacat --raw --format=s16le --rate=44100 --channels=1 tone"
    send = ["sim:ssh", "thinclient", "tower run web sh -c 'cat >tone'"]
    subprocess.run(argv(*send), cwd=CHECKOUT, input=(tmp_path / "tone").read_bytes(), check=True, timeout=SECONDS)
    record = "setsid pw-record -P stream.capture.sink=true --format s16 --rate 44100 --channels 1 heard.wav >/dev/null 2>&1 &"
    sim("sim:ssh", "thinclient", record)
    until(lambda: "heard.wav" in there("find heard.wav -size +10k 2>/dev/null || :"), "a record")
    there(f"tower run --window web sh -c '{player}'")
    there("pkill -INT -x pw-record")
    # Without the head of a WAV file.
    (tmp_path / "heard").write_bytes(base64.b64decode(there("base64 heard.wav"))[44:])
    # The desktop has no sound card, whose clock would be kept before other programs.
    check_tone(tmp_path / "heard", within=0.5)
