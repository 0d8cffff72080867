# SPDX-License-Identifier: Apache-2.0
"""The script that a host runs for windows, by itself: in this machine's shell, and in that of hosts."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tower.display.x11 import new_key

from tests.conftest import CHECKOUT
from tests.integration.windows.conftest import XVNC, find, processes, programs_without
from tests.integration.windows.waiting import until

SCRIPT = (CHECKOUT / "runtime" / "windows" / "host.sh").read_text()
SHELLS = [("sh",), ("busybox", "sh")]
ID = secrets.token_hex(4)
KEY = new_key()[1]
COOKIE = bytes(range(256))


class Host:
    """A home, and the script in it."""

    def __init__(self, home: Path, shell: tuple[str, ...]) -> None:
        self.home, self.shell = home, shell
        self.windows = home / ".cache/tower/windows"

    def run(self, *words: str, path: str = os.environ["PATH"]) -> tuple[int, bytes]:
        """Let it do something, as ssh would: in a session of its own. Its status and its output."""
        with self.running(*words, path=path) as child:
            said, _ = child.communicate(COOKIE + KEY, timeout=60)
            return child.returncode, said

    def running(self, *words: str, path: str = os.environ["PATH"]) -> subprocess.Popen[bytes]:
        """The same, with its input open."""
        argv = [*self.shell, "-c", SCRIPT, "sh", *words]
        program = "/bin/sh" if self.shell == ("sh",) else "/bin/busybox"
        return subprocess.Popen(
            argv, executable=program, env={"HOME": str(self.home), "PATH": path}, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(params=SHELLS, ids=" ".join)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, request.param)
    yield made
    made.run("stop", ID)
    until(lambda: not find(f"start {ID}"), "nothing is left")


def test_from_its_start_to_its_end(host: Host) -> None:
    assert host.run("start", ID, "800x600", "60", "4713", "xterm", "-T", "it's $HOME") == (0, KEY)
    status, said = host.run("list")
    assert (status, said.split()[0], said.split()[2]) == (0, ID.encode(), b"xterm")
    assert host.run("attach", ID) == (0, b"4713\n" + COOKIE + KEY)
    assert (host.windows / ID / "cookie").stat().st_mode & 0o777 == 0o600
    assert find("xterm -T it's $HOME")
    assert (host.windows / ID).stat().st_mode & 0o777 == 0o700
    assert host.run("stop", ID)[0] == 0
    assert not find(f"start {ID}")
    assert not find(str(host.windows))
    assert list(host.windows.iterdir()) == []


@pytest.mark.parametrize("lacks", [(), XVNC], ids=["Xvnc", "Xvfb-x11vnc"])
def test_nothing_lives_longer_than_it_may_without_a_window(host: Host, tmp_path: Path, lacks: tuple[str, ...]) -> None:
    path = str(programs_without(tmp_path / "programs", lacks))
    assert host.run("start", ID, "800x600", "2", "0", "xterm", path=path)[0] == 0
    assert any(line.startswith("x11vnc ") for line in processes().values() if str(host.windows) in line) == bool(lacks)
    until(lambda: not find(f"start {ID}"), "it has ended by itself")
    assert not find(str(host.windows))
    assert host.run("list") == (0, b"")
    assert host.run("attach", ID)[0] == 94
    # How it ended is kept for an hour, for who asks; then the next look sweeps it away.
    assert host.run("wait", ID)[0] == 0
    os.utime(host.windows / ID, (0, 0))
    assert host.run("list") == (0, b"")
    assert list(host.windows.iterdir()) == []


def test_who_connects_while_the_server_begins_again_waits_for_it(host: Host, tmp_path: Path) -> None:
    """The socket of one that was killed is still there for a moment, and nobody listens to it."""
    assert host.run("start", ID, "800x600", "60", "0", "xterm", path=str(programs_without(tmp_path / "programs", XVNC)))[0] == 0
    until((host.windows / ID / "rfb").is_socket, "a server")
    for _ in range(3):
        (server,) = (number for number, line in processes().items() if line.startswith("x11vnc ") and str(host.windows) in line)
        os.kill(server, signal.SIGKILL)
        with host.running("connect", ID, "pictures") as viewer:
            assert viewer.stdin is not None
            assert viewer.stdout is not None
            viewer.stdin.write(b"\n")
            viewer.stdin.flush()
            assert viewer.stdout.read(8) == b"RFB 003."
            viewer.terminate()


@pytest.mark.parametrize(("sound", "said"), [("4713", "tcp:127.0.0.1:4713 {}/cookie"), ("0", " ")])
def test_an_application_knows_its_sound_server(host: Host, tmp_path: Path, sound: str, said: str) -> None:
    line = 'echo "$PULSE_SERVER $PULSE_COOKIE" >"$1"'
    assert host.run("start", ID, "800x600", "60", sound, "sh", "-c", line, "sh", str(tmp_path / "said"))[0] == 0
    until((tmp_path / "said").exists, "its environment")
    until(lambda: (tmp_path / "said").read_text().endswith("\n"), "all of it")
    assert (tmp_path / "said").read_text() == said.format(host.windows / ID) + "\n"


def test_each_kind_of_failure_has_an_exit_status_of_its_own(host: Host) -> None:
    assert host.run("start", ID, "800x600", "60", "0", "xterm", path="/nonexistent")[0] == 91
    assert host.run("start", ID, "800x600", "60", "0", "no-such-program")[0] == 92
    assert host.run("start", ID, "no size", "60", "0", "xterm")[0] == 93
    without = str(programs_without(host.home / "programs", XVNC))
    assert host.run("start", ID, "no size", "60", "0", "xterm", path=without)[0] == 93
    neither = str(programs_without(host.home / "fewer", (*XVNC, "x11vnc")))
    assert host.run("start", ID, "800x600", "60", "0", "xterm", path=neither)[0] == 91
    assert not host.windows.exists() or list(host.windows.iterdir()) == []
    for action in ("attach", "wait", "stop"):
        assert host.run(action, ID)[0] == 94


def test_programs_with_menu_entries_are_known(host: Host) -> None:
    assert host.run("shows", "xterm")[0] == 0
    assert host.run("shows", "xter")[0] != 0
    assert host.run("shows", "term")[0] != 0
    assert host.run("shows", "uname")[0] != 0


def test_a_process_of_another_time_is_not_taken_for_it(host: Host) -> None:
    """After a power failure the folder is there, and its pid is somebody else's."""
    place = host.windows / ID
    place.mkdir(parents=True)
    for name, text in (("pid", f"{os.getpid()}\n"), ("display", "1\n"), ("name", "xterm\n"), ("application", "1\n")):
        (place / name).write_text(text)
    assert host.run("list") == (0, b"")
    assert host.run("attach", ID)[0] == 94
    assert host.run("stop", ID)[0] == 0
    assert not place.exists()
