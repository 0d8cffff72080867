# SPDX-License-Identifier: Apache-2.0
"""The console of a virtual machine, with a socket pair in the machine's place."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline.base.errors import BootError
from pipeline.images.guest import Guest, _processor_seconds, free_port, running


@contextmanager
def console(
    tmp_path: Path, ports: dict[int, int] | None = None, used: Callable[[], float] = time.monotonic
) -> Iterator[tuple[Guest, socket.socket]]:
    ours, theirs = socket.socketpair()
    with (tmp_path / "log").open("wb") as log, ours, theirs:
        yield Guest("machine", ours, log, tmp_path / "log", ports or {}, used=used), theirs


def test_waiting_continues_after_an_earlier_match(tmp_path: Path) -> None:
    with console(tmp_path) as (guest, machine):
        machine.sendall(b"one\r\n\x1b[1;32mtwo\x1b[0m login: ")
        guest.wait("one", 5)
        assert guest.wait(r"(\w+) login: ?$", 5).group(1) == "two"
        with pytest.raises(BootError, match=r"did not show 'one' within 0 s; .*\n.*\| one"):
            guest.wait("one", 0.1)


def test_a_machine_that_gets_no_processor_has_more_time(tmp_path: Path) -> None:
    """Beside other work, a start once took more than its 600 s by the clock."""
    with console(tmp_path, used=lambda: 0.0) as (guest, machine):
        threading.Timer(0.5, machine.sendall, (b"late\r\n",)).start()
        assert guest.wait("late", 0.3)
        with pytest.raises(BootError, match="did not show 'never'"):
            guest.wait("never", 0.1)
        assert not guest.ended(0.1)


def test_the_seconds_of_a_processor_are_those_of_the_machine() -> None:
    """Not those of the program that watches over its time limit."""
    with subprocess.Popen(["sh", "-c", "while :; do :; done & wait"], start_new_session=True) as watching:
        try:
            deadline = time.monotonic() + 60
            while _processor_seconds(watching.pid) < 0.2:
                assert time.monotonic() < deadline
        finally:
            os.killpg(watching.pid, signal.SIGKILL)
    assert _processor_seconds(watching.pid) == 0


def test_output_that_arrives_in_pieces_is_joined(tmp_path: Path) -> None:
    """A shell asks the terminal for its size behind the prompt; the question once came in two pieces and looked like text."""
    with console(tmp_path) as (guest, machine):
        for piece in (b"[root@host ~]# \x1b", b"[6", b"n"):
            machine.sendall(piece)
            time.sleep(0.05)  # sleeps: the pieces must not arrive as one
        assert guest.wait(r"# $", 5)
        for piece in (b"caf\xc3", b"\xa9 \x1b[0m."):
            machine.sendall(piece)
            time.sleep(0.05)  # sleeps: the pieces must not arrive as one
        assert guest.wait(r"café \.$", 5)


def test_a_panic_ends_the_waiting(tmp_path: Path) -> None:
    with console(tmp_path) as (guest, machine):
        machine.sendall(b"[ 1.0] Kernel panic - not syncing\r\n")
        with pytest.raises(BootError, match="its console says: Kernel panic"):
            guest.wait("login:", 30)


def test_the_end_of_a_machine_is_reported(tmp_path: Path) -> None:
    with console(tmp_path) as (guest, machine):
        machine.close()
        with pytest.raises(BootError, match="ended before its console showed 'login:'") as raised:
            guest.wait("login:", 30)
        assert str(tmp_path / "log") in raised.value.hint


def test_the_answer_of_a_command_is_not_its_echo(tmp_path: Path) -> None:
    with console(tmp_path) as (guest, machine):

        def shell() -> None:
            typed = machine.recv(4096)
            machine.sendall(typed.replace(b"\r", b"\r\n") + b"=begin1=\r\nhello\r\n=end1=3=\r\n# ")

        thread = threading.Thread(target=shell)
        thread.start()
        answer = guest.command("say hello", timeout=5)
        thread.join()
    assert (answer.status, answer.text) == (3, "hello\n")


def test_a_greeting_is_asked_for_until_it_comes(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, console(tmp_path, {22: server.getsockname()[1]}) as (guest, _machine):

        def serve() -> None:
            server.accept()[0].close()
            connection, _ = server.accept()
            connection.sendall(b"SSH-2.0-test\r\n")
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert guest.banner(22, 20) == "SSH-2.0-test"
        thread.join()


def test_a_program_that_is_no_machine_is_shown(tmp_path: Path) -> None:
    with (
        pytest.raises(BootError, match=r"QEMU ended at once: .*socket,id=console"),
        running("machine", ["echo", "no"], log=tmp_path / "log", limit=30, ports={}),
    ):
        pass


def test_ports_are_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


OWNER = """
import sys
from pathlib import Path
from pipeline.images.guest import running
note = Path(sys.argv[1])
# In the place of QEMU; it never opens the console that the owner waits for.
with running("machine", ["sh", "-c", f"echo $$ > {note}; exec sleep 60"], log=note.with_name("log"), limit=60, ports={}):
    pass
"""


def test_the_machine_ends_with_an_owner_that_is_killed(tmp_path: Path, checkout: Path) -> None:
    note = tmp_path / "pid"
    argv = [sys.executable, "-c", OWNER, str(note)]
    with subprocess.Popen(argv, cwd=checkout, env={**os.environ, "TMPDIR": str(tmp_path)}) as owner:
        deadline = time.monotonic() + 30
        while not (note.exists() and note.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        machine = Path("/proc") / note.read_text().strip()
        assert machine.exists()
        owner.send_signal(signal.SIGKILL)
    with suppress(OSError):  # it is gone
        while (machine / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.05)
