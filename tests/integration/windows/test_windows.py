# SPDX-License-Identifier: Apache-2.0
"""Applications of hosts in windows: how they look, how they end, and what is left."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tower.display.relay import OddError

from tests.gui.pictures import Picture
from tests.integration.windows.conftest import COLOURS, RED, SERVERS, XTERM, Place, children, place_without
from tests.integration.windows.screen import client, colour, inside
from tests.integration.windows.waiting import until

BAR = (60, 12, 100, 30)
"""A piece of the title bar of a window in the corner, left of its title."""


@pytest.fixture(scope="module", params=SERVERS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A place for each kind of servers."""
    with place_without(tmp_path_factory, SERVERS[request.param]) as made:
        yield made


@pytest.mark.qa("A03", simulated="both sides are this machine, and the desktop is an X server in memory")
def test_a_window_shows_what_the_application_paints_in_the_hosts_colour(desk: Place) -> None:
    running = desk.start("web", *XTERM)
    desk.picture(
        lambda found: found.share(RED, 20, 60, 300, 200) > 0.9 and found.share(colour(COLOURS["web"]), *BAR) > 0.9, "an xterm"
    )
    desk.window(r"xterm \(web\)|web")
    folder = desk.windows / desk.id()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "rfb").stat().st_mode & 0o077 == 0
    assert desk.run("--list", "web").stdout == f"web {folder.name}  xterm, 0 min\n"
    running.send_signal(signal.SIGTERM)
    assert running.wait(90) == 128 + signal.SIGTERM


@pytest.mark.qa("A03", simulated="both sides are this machine, and the desktop is an X server in memory")
def test_uncolored_leaves_the_title_bar_plain(desk: Place) -> None:
    desk.start("--uncolored", "web", *XTERM)
    found = desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm without colour")
    assert found.share(colour(COLOURS["web"]), *BAR) == 0


def test_two_hosts_have_two_colours(desk: Place) -> None:
    desk.start("web", *XTERM)
    first = desk.window(r"\(web\)")
    desk.type("windowmove", first, "0", "400")
    desk.start("vault", "galculator")
    desk.window(r"\(vault\)")
    desk.picture(
        lambda found: (
            found.share(colour(COLOURS["vault"]), *BAR) > 0.9
            and found.share(colour(COLOURS["web"]), BAR[0], BAR[1] + 400, BAR[2], BAR[3] + 400) > 0.9
            and found.share(RED, 20, 460, 300, 600) > 0.9
        ),
        "two hosts",
    )


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is an X server in memory")
def test_the_application_follows_the_size_of_the_window(desk: Place) -> None:
    desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    folder = desk.windows / desk.id()
    for width, height in ((1100, 700), (600, 450)):
        desk.type("windowsize", desk.window(r"\(web\)"), str(width), str(height))
        desk.picture(lambda found: found.share(RED, 20, 60, width - 20, height - 20) > 0.95, "an xterm of another size")  # noqa: B023
        until(lambda: width - 20 <= inside(folder).width <= width, "the display has the window's size")  # noqa: B023
        shown = inside(folder)
        assert shown.windows[-1] == (0, 0, shown.width, shown.height)


@pytest.mark.qa("A04", simulated="both sides are this machine, and the desktop is an X server in memory")
def test_menus_and_dialogs_are_whole(desk: Place) -> None:
    desk.start("web", "galculator")
    desk.window(r"\(web\)")
    folder = desk.windows / desk.id()
    until(lambda: len(inside(folder).windows) == 1, "one window")
    # The display has the window's size, which is more than this small application asks for.
    until(lambda: inside(folder).width == 480, "the display has the window's size")
    desk.picture(lambda found: found.share((255, 255, 255), 40, 80, 200, 110) > 0.9, "a calculator")
    desk.type("mousemove", "65", "50", "click", "1")
    until(lambda: len(inside(folder).windows) == 2, "a menu")
    assert_whole(folder)
    desk.type("key", "Escape")
    until(lambda: len(inside(folder).windows) == 1, "no menu")
    desk.type("key", "ctrl+p")
    until(lambda: len(inside(folder).windows) == 2, "a dialog")
    until(lambda: is_whole(folder), "a dialog that is whole")
    desk.picture(lambda found: found.share((0, 0, 0), 10, 60, 400, 300) < 0.1, "a dialog")


def is_whole(folder: Path) -> bool:
    shown = inside(folder)
    return all(
        x >= 0 and y >= 0 and x + width <= shown.width and y + height <= shown.height for x, y, width, height in shown.windows
    )


def assert_whole(folder: Path) -> None:
    assert is_whole(folder), inside(folder)


def test_keys_arrive_and_closing_asks_the_application(desk: Place) -> None:
    running = desk.start("web", "mousepad")
    desk.window(r"Mousepad \(web\)")
    folder = desk.windows / desk.id()
    white = desk.picture(lambda found: found.share((255, 255, 255), 20, 120, 400, 300) > 0.9, "an editor")
    desk.type("mousemove", "200", "250", "click", "1", "type", "--delay", "50", "Hello, Tower")
    # The title says that it was changed.
    desk.window(r"\*.*Mousepad \(web\)")
    written = desk.picture(lambda found: found.pixels != white.pixels, "an editor with a text")
    assert isinstance(written, Picture)
    desk.type("mousemove", "623", "21", "click", "1")
    until(lambda: len(inside(folder).windows) == 2, "a question whether to save")
    desk.picture(lambda found: found.share((255, 255, 255), 20, 120, 400, 200) > 0.9, "a question whether to save")
    assert running.poll() is None
    # It has the keyboard when it is in the title. Not to save is the question's second button.
    desk.window(r"Save Changes \(web\)")
    desk.type("key", "alt+d")
    assert running.wait(90) == 0
    assert desk.left() == []


@pytest.mark.parametrize(
    ("program", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_status_of_the_application_comes_back(desk: Place, program: str, status: int) -> None:
    done = desk.run("--window", "web", "sh", "-c", f"echo its words >&2; {program}")
    assert done.returncode == status, done.stderr
    assert ("its words" in done.stderr) == (status != 0)
    assert desk.ids() == []


def test_an_application_that_begins_another_one(desk: Place, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "end")
    program = f"{shlex.join(XTERM)} & exec cat {tmp_path}/end"
    running = desk.start("--window", "web", "sh", "-c", program)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm whose parent has ended")
    folder = desk.windows / desk.id()
    (tmp_path / "end").write_text("now")
    until((folder / "status").exists, "the first one has ended")
    assert running.poll() is None
    os.kill(desk.find("xterm -bg #c03020 -fg")[-1], signal.SIGTERM)
    assert running.wait(90) == 0


def test_several_windows_of_one_application(desk: Place) -> None:
    running = desk.start("--window", "web", "sh", "-c", "xterm -T first & xterm -T second & wait")
    folder = desk.windows / desk.id()

    def fill() -> bool:
        shown = inside(folder)
        return len(shown.windows) == 2 and set(shown.windows) == {(0, 0, shown.width, shown.height)}

    until(fill, "two windows that fill the display")
    for title, other in (("first", "second"), ("second", "")):
        (number,) = (number for number, line in desk.mine().items() if line.startswith(f"xterm -T {title}"))
        assert running.poll() is None
        os.kill(number, signal.SIGTERM)
        if other:
            desk.window(rf"{other} \(web\)")
    assert running.wait(90) == 0


def test_a_program_that_is_not_there(desk: Place) -> None:
    done = desk.run("--window", "web", "no-such-program")
    assert done.returncode == 17
    assert "web: no-such-program: no such program\n  hint: install it: tower install web no-such-program" in done.stderr


def test_a_program_for_the_terminal_needs_no_window(desk: Place) -> None:
    done = desk.run("web", "sh", "-c", "echo ${DISPLAY-none}")
    assert (done.stdout, done.returncode) == ("none\n", 0)


def test_without_a_desktop_no_window_is_opened(desk: Place) -> None:
    env = {name: value for name, value in desk.environment.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run(desk.argv("--window", "web", "xterm"), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 10
    assert "startw" in done.stderr


def test_a_killed_viewer_leaves_an_application_that_can_be_attached(desk: Place) -> None:
    running = desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    number = desk.id()
    os.kill(children(running, "tower.windows.viewer")[0], signal.SIGKILL)
    assert running.wait(90) == 16
    assert f"tower run --attach web {number}" in running.communicate()[1].decode()
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) == 0, "no window")
    again = desk.start("--attach", "web")
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    assert desk.run("--stop", "web").returncode == 0
    assert again.wait(90) != 0
    assert desk.ids() == []


def test_an_application_that_is_attached_twice_has_its_window_where_it_was_attached_last(desk: Place) -> None:
    first = desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    number = desk.id()
    second = desk.start("--attach", "web")
    assert first.wait(90) == 16
    said = first.communicate()[1].decode()
    assert "web: the window of xterm is shown elsewhere now" in said
    assert f"to have it here again: tower run --attach web {number}" in said
    # The second one manages the display, too.
    desk.type("windowsize", desk.window(r"\(web\)"), "900", "600")
    desk.picture(lambda found: found.share(RED, 20, 60, 880, 580) > 0.95, "an xterm of another size")
    assert second.poll() is None
    assert desk.ids() == [number]


def test_a_killed_tower_takes_its_window_and_leaves_the_application(desk: Place) -> None:
    running = desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    (viewer,) = children(running, "tower.windows.viewer")
    running.kill()
    until(lambda: not Path(f"/proc/{viewer}").exists(), "no viewer")
    until(lambda: not desk.find(f"-F {desk.folder}/home"), "no connection")
    until(lambda: not desk.find(f"sh wait {desk.id()}"), "nobody who waits on the host")
    assert desk.run("--list", "web").stdout.startswith(f"web {desk.id()}  xterm")


def test_a_connection_that_breaks_comes_back_with_the_window(desk: Place) -> None:
    running = desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    before = children(running, "tower.windows.viewer")
    for number in children(desk.server):
        os.kill(number, signal.SIGKILL)
    until(lambda: children(running, "tower.windows.viewer") not in ([], before), "another viewer")
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    assert running.poll() is None


def test_the_display_has_no_port_and_refuses_unauthenticated_clients(desk: Place) -> None:
    desk.start("web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm")
    folder = desk.windows / desk.id()
    servers = [
        number for number, line in desk.mine().items() if str(folder) in line and line.startswith(("Xvnc ", "Xvfb ", "x11vnc "))
    ]
    assert servers
    inodes = {str(path.readlink()) for number in servers for path in Path(f"/proc/{number}/fd").iterdir()}
    listening = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
    assert not [row for row in listening if f"socket:[{row[9]}]" in inodes], "it listens on a port"
    number = (folder / "display").read_text().strip()
    with pytest.raises(OddError, match="does not let us in"), client(number):
        pass


def test_nothing_is_left_after_many_windows(desk: Place) -> None:
    for _ in range(5):
        assert desk.run("--window", "web", "sh", "-c", "exit 3").returncode == 3
        assert desk.ids() == []
    until(lambda: desk.left() == [], f"nothing is left: {desk.left()}")


def test_servers_make_no_shared_memory(desk: Place) -> None:
    """The kernel keeps memory of this kind when its maker is killed, and has room for 4,096 pieces."""
    desk.start("--window", "web", *XTERM)
    desk.picture(lambda found: found.share(RED, 20, 60, 300, 200) > 0.9, "an xterm whose server is looked at")
    programs = ("x11vnc -display", "Xvnc -displayfd", "Xvfb -displayfd 3")
    servers = {str(number) for words in programs for number in desk.find(words)}
    assert servers
    rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
    assert [row for row in rows if row[4] in servers] == []
