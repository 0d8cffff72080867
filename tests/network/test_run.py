# SPDX-License-Identifier: Apache-2.0
"""`tower run` on the ring: words, input, output, terminals, statuses and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.network.home import User, child_of, make_hosts, talk, unplugged
from tests.network.machines import Machine, Tower


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, ("offline1",))


WORDS = ["a b", "", "$HOME", "`id`", "it's", '"', "\\", "*", "x;y", "a\nb", "-n", "--", "é", "~", "!", "&", "a'\\''b"]


def test_words_arrive_as_they_were_typed(user: User) -> None:
    done = user.tower("run", "offline1", "printf", "%s\\0", *WORDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\0")[:-1] == WORDS


def test_the_hosts_shell_is_there_for_who_asks(user: User) -> None:
    done = user.tower("run", "offline1", "--", "sh", "-c", "echo one two | wc -w; hostname")
    assert (done.stdout, done.stderr, done.returncode) == ("2\noffline1\n", "", 0)


def test_input_and_outputs_pass_unchanged(user: User, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open("rb") as given, (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        argv = user.argv("run", "offline1", "/bin/sh", "-c", "cat; echo trouble >&2")
        assert subprocess.run(argv, stdin=given, stdout=out, stderr=err, timeout=60, check=False).returncode == 0
    assert (tmp_path / "out").read_bytes() == data
    assert (tmp_path / "err").read_bytes() == b"trouble\n"


@pytest.mark.parametrize(
    ("program", "status"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_statuses_pass(user: User, program: str, status: int) -> None:
    assert user.tower("run", "offline1", "/bin/sh", "-c", program).returncode == status


def test_a_command_that_is_not_there(user: User) -> None:
    done = user.tower("run", "offline1", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_run_without_a_command_is_refused(user: User) -> None:
    done = user.tower("run", "offline1")
    assert done.returncode == 10
    assert "ssh offline1" in done.stderr


def pids(host: Machine, words: str) -> list[str]:
    """Processes of the host with these arguments."""
    found = host.run(
        "sh", "-c", 'for one in /proc/[0-9]*; do tr "\\0" " " <$one/cmdline | sed "s|^|$one |"; echo; done 2>/dev/null'
    )
    return [line.split()[0] for line in found.stdout.splitlines() if line.partition(" ")[2].strip() == words]


def wait_until(wanted: int, host: Machine, words: str) -> None:
    ends = time.monotonic() + 20
    while len(pids(host, words)) != wanted:
        assert time.monotonic() < ends, f"{words}: not {wanted} of them"
        time.sleep(0.1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command(machines: Tower, user: User, how: signal.Signals) -> None:
    with subprocess.Popen(user.argv("run", "offline1", "/bin/sleep", "4321"), stdin=subprocess.DEVNULL) as running:
        wait_until(1, machines["offline1"], "/bin/sleep 4321")
        os.kill(child_of(running), how)
        assert running.wait(20) == 128 + how
    wait_until(0, machines["offline1"], "/bin/sleep 4321")


def test_a_command_may_catch_the_signal_and_end_well(machines: Tower, user: User) -> None:
    program = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    argv = user.argv("run", "offline1", "/bin/sh", "-c", program)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        os.kill(child_of(running), signal.SIGTERM)
        assert running.communicate(timeout=20)[0] == "caught\n"
        assert running.returncode == 3


def test_a_second_signal_ends_what_ignores_the_first(machines: Tower, user: User) -> None:
    program = "trap 'echo caught' TERM; echo ready; while :; do sleep 0.1; done; : 9876"
    argv = user.argv("run", "offline1", "/bin/sh", "-c", program)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        os.kill(child_of(running), signal.SIGTERM)
        assert running.stdout.readline() == "caught\n"
        assert running.poll() is None
        os.kill(child_of(running), signal.SIGTERM)
        assert running.wait(20) == 128 + signal.SIGTERM
    wait_until(0, machines["offline1"], f"/bin/sh -c {program}")


def test_a_terminal_here_is_a_terminal_there(user: User) -> None:
    status, shown = talk(
        user.argv("run", "offline1", "/bin/sh", "-c", "tty; stty size; printf 'name? '; read -r name; echo hello $name"),
        (b"name? ", b"al\n"),
    )
    assert status == 0
    assert b"/dev/pts/" in shown
    assert b"hello al" in shown


def test_ctrl_c_on_the_terminal_reaches_the_command(machines: Tower, user: User) -> None:
    # `sleep` loses a signal that comes between its fork and its exec, and the shell runs the trap only when `sleep` has ended.
    program = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done; : 8765"
    status, shown = talk(user.argv("run", "offline1", "/bin/sh", "-c", program), (b"ready", b"\x03"), raw=True)
    assert status == 5, shown
    assert b"caught" in shown
    wait_until(0, machines["offline1"], f"/bin/sh -c {program}")


def test_no_terminal_when_told_so(user: User) -> None:
    status, shown = talk(user.argv("run", "--no-tty", "offline1", "tty"))
    assert status == 1
    assert b"not a tty" in shown


def test_a_host_that_is_off(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        done = user.tower("run", "--timeout", "1", "offline1", "true")
    assert done.returncode == 15
    assert "nothing answers" in done.stderr


def test_a_connection_that_breaks_is_told_from_a_status(machines: Tower, user: User) -> None:
    argv = user.argv("run", "offline1", "/bin/sh", "-c", "echo ready; sleep 7654")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        machines["offline1"].run(
            "sh", "-c", "kill $(grep -l '^sshd' /proc/[0-9]*/comm | cut -d/ -f3 | grep -vx \"$(cat /run/sshd.pid)\")", check=False
        )
        assert "the connection broke" in running.communicate(timeout=30)[1]
        assert running.returncode == 15
