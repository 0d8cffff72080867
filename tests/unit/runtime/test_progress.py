# SPDX-License-Identifier: Apache-2.0
"""The steps of a host's first start: the host's own program says them, and nobody else is believed."""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import AnswerError
from tower.base.view import View
from tower.hosts.env import Encryption, TowerEnv
from tower.hosts.registry import HOST_KEY, Host
from tower.provision import progress
from tower.provision.progress import FirstStartWatch, ForeignError, key_of, parse

PROGRAM = Path(__file__).resolve().parents[3] / "overlays/host/usr/libexec/tower/progress"
NONCE = "0123456789abcdef" * 2
KEY = key_of(b"key")
HELLO = b"tower-progress 1\n"
FOREIGN = "somebody is there, and has not this host's key"


def signed(text: bytes, *, nonce: str = NONCE, key: bytes = KEY) -> bytes:
    """What a host sends."""
    sign = hmac.new(key, f"tower-progress 1 {nonce}\n".encode() + text, hashlib.sha256).hexdigest()
    return text + sign.encode() + b"\n"


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """Somebody who takes each connection on loopback; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line, suppress(OSError):
                    serve(line)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def program(folder: Path, *words: str, line: socket.socket | None = None) -> None:
    env = {"PATH": os.environ["PATH"], "PROGRESS_STATE": str(folder / "state")}
    streams = subprocess.DEVNULL if line is None else line.fileno()
    argv = ["busybox", "sh", str(PROGRAM), *words]
    subprocess.run(argv, env=env, check=False, timeout=50, stdin=streams, stdout=streams, stderr=subprocess.DEVNULL)


@pytest.fixture
def host(tmp_path: Path, settings: TowerEnv) -> Host:
    """A host whose key is here, with its program's state made from it."""
    (tmp_path / HOST_KEY).write_bytes(b"the private key\n" * 20)
    program(tmp_path, "key", str(tmp_path / HOST_KEY))
    return Host(tmp_path, replace(settings, encryption=Encryption.NONE))


def test_each_step_of_the_hosts_program_is_shown_once(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    steps = host.folder / "state/steps"
    steps.write_text("")
    with server(lambda line: program(host.folder, "answer", line=line)) as port:
        watch = FirstStartWatch(host, View(), ("127.0.0.1", port))
        for text in ("1.50 name\n", "3.00 user\n3.20 keyboard\n", "3.50 keyboard: no zz\n", ""):
            with steps.open("a") as file:
                file.write(text)
            assert watch.ask() == progress.BUSY
        said = capsys.readouterr().err.splitlines()
        assert said == [
            "web: step 1 of 15, name (usually under 1 s)",
            "web: step 1 of 15, name: 1.5 s (usually under 1 s)",
            "web: step 2 of 15, user: 0.2 s (usually under 1 s)",
            "web: step 4 of 15, keyboard (usually under 1 s)",
        ]
        assert watch.seconds == {"name": 1.5, "user": 0.2}
        # Started anew: from the beginning.
        steps.write_text("1.00 name\n")
        assert watch.ask() == progress.BUSY
        assert capsys.readouterr().err.splitlines() == said[:1]
        # Tried again: that is no failure, unless it fails again.
        steps.write_bytes(b"1.00 name\n2.00 failed: user: no room\n3.00 user\n")
        assert watch.ask() == progress.BUSY
        steps.write_bytes(b"1.00 name\n2.00 failed: user: \x1b[2J\xffno room\n")
        with pytest.raises(AnswerError, match=r"web: its first start failed: user: \[2Jno room"):
            watch.ask()


@pytest.mark.parametrize(
    "asked", [b"\n", b"x\n", NONCE.encode()[:-1] + b"\n", NONCE.upper()[:-1].encode() + b"F\n", b"0" * 500, b"SSH-2.0-x\r\n"]
)
def test_an_invalid_question_gets_no_answer(host: Host, asked: bytes) -> None:
    (host.folder / "state/steps").write_text("1.00 name\n")
    with (
        server(lambda line: program(host.folder, "answer", line=line)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=20) as line,
    ):
        line.sendall(asked)
        got = b""
        with suppress(ConnectionResetError):  # it left some of the question
            while part := line.recv(1000):
                got += part
        assert got in (HELLO, b"")


def test_another_key_or_an_older_answer_is_refused(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    (host.folder / "state/steps").write_text("1.00 name\n")
    (host.folder / HOST_KEY).write_bytes(b"another\n")

    def again(line: socket.socket) -> None:
        line.sendall(HELLO)
        line.recv(100)
        line.sendall(signed(b"1.00 name\n2.00 now\n", key=key_of(b"another\n")))

    for serve in (lambda line: program(host.folder, "answer", line=line), again):
        with server(serve) as port:
            assert FirstStartWatch(host, View(), ("127.0.0.1", port)).ask() == FOREIGN
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("first", [b"SSH-2.0-OpenSSH_9.9\r\n", b"", b"tower-progress 2\n", b"\x00" * 100, HELLO[:-1]])
def test_a_server_that_sends_anything_else_is_asked_by_ssh(host: Host, first: bytes) -> None:
    with server(lambda line: line.sendall(first)) as port:
        assert FirstStartWatch(host, View(), ("127.0.0.1", port)).ask() is None


@pytest.mark.parametrize("first", [b"", HELLO])
def test_a_silent_or_slow_host_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch, first: bytes) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.3)
    over = threading.Event()

    def drip(line: socket.socket) -> None:
        line.sendall(first)
        while not over.wait(0.05):
            line.sendall(b"1.00 name\n" if first else b"")

    with server(drip) as port:
        assert FirstStartWatch(host, View(), ("127.0.0.1", port)).ask() is None
        over.set()


GOOD = b"1.00 name\n2.00 failed: no room\n3.00 now\n"


def test_a_good_answer() -> None:
    found = parse(signed(GOOD), NONCE, KEY)
    assert (found.steps, found.now, found.failure) == ((("name", 1.0),), 3.0, "no room")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        signed(GOOD)[:-1],
        signed(GOOD)[1:],
        signed(GOOD, nonce="0" * 32),
        signed(GOOD, key=key_of(b"x")),
        signed(GOOD).upper(),
        signed(b"1.00 name\n" * 4000 + b"1.00 now\n"),
        signed(b"1.00 name\n"),
        signed(b"\n3.00 now\n"),
        signed(b"1.00 NAME\n3.00 now\n"),
        signed(b"nan name\n3.00 now\n"),
        signed("\u0661.00 name\n3.00 now\n".encode()),
        signed(b"1.00 failed: \x1b[2J\n3.00 now\n"),
        signed(b"1.00 failed: " + b"x" * 401 + b"\n3.00 now\n"),
    ],
)
def test_invalid_answers_are_refused(data: bytes) -> None:
    with pytest.raises(ForeignError):
        parse(data, NONCE, KEY)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    for said in (data, data + b"\n", signed(data)):
        with pytest.raises(ForeignError):
            parse(said, NONCE, KEY)
