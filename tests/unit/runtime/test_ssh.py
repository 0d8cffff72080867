# SPDX-License-Identifier: Apache-2.0
"""Connections: words through a real shell, ssh's complaints sorted, folders of sockets, limits of programs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base import errors, proc
from tower.base.errors import GarbageError, ValueRefusedError
from tower.base.proc import OverrunError
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Host
from tower.ssh import sessions, tunnel
from tower.ssh.sockets import socket_folder
from tower.ssh.trouble import trouble_of

SOCKETS_PATH = 104


@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30), min_size=1, max_size=8))
def test_words_pass_a_shell_unchanged(words: list[str]) -> None:
    line = shlex.join(["printf", "%s\\0", *words])
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=True)
    assert done.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_root_is_asked_by_doas_and_options_end_there() -> None:
    assert sessions.as_root(["-x", "y"]) == ("doas", "-n", "--", "-x", "y")
    assert sessions.as_root(["x"], {"A": "b c"}) == ("doas", "-n", "--", "env", "A=b c", "x")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("ssh: connect to host 192.168.3.200 port 22: Connection timed out", "DownError"),
        ("ssh: connect to host 192.168.3.200 port 22: No route to host", "DownError"),
        ("ssh: connect to host 192.168.3.200 port 22: Connection refused", "RefusedError"),
        ("Connection timed out during banner exchange\nConnection to 192.168.3.200 port 22 timed out", "HangsError"),
        ("Connection to 192.168.3.200 port 22 timed out", "HangsError"),
        ("al@192.168.3.200: Permission denied (publickey).", "KeyRefusedError"),
        ("@@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@@\nHost key verification failed.", "HostKeyError"),
        ("kex_exchange_identification: banner line contains invalid characters", "GarbageError"),
        ("ssh_dispatch_run_fatal: Connection to 192.168.3.200 port 22: message authentication code incorrect", "GarbageError"),
        ("kex_exchange_identification: Connection closed by remote host", "LostError"),
        ("kex_exchange_identification: read: Connection reset by peer", "LostError"),
        ("something new", "AnswerError"),
        ("", "AnswerError"),
    ],
)
def test_each_complaint_of_ssh_has_its_remedy(settings: TowerEnv, said: str, kind: str) -> None:
    error = trouble_of(Host(Path("/x"), settings), b"", said)
    assert type(error).__name__ == kind
    assert error.exit_status == errors.AnswerError.exit_status
    assert error.message.startswith("web: ")
    assert error.hint


@given(st.binary(max_size=300), st.text(max_size=300))
def test_whatever_a_machine_says_is_shown_harmless_and_short(line: bytes, said: str) -> None:
    error = trouble_of(Host(Path("/x"), _SETTINGS), line, said)
    assert error.message.isprintable()
    assert len(error.message) < 400


_SETTINGS: TowerEnv


@pytest.fixture(autouse=True)
def _keep(settings: TowerEnv) -> None:
    global _SETTINGS  # noqa: PLW0603  # hypothesis and a fixture of each test do not go together
    _SETTINGS = replace(settings)


@pytest.mark.parametrize("target", ["", "-x", "a b", "a:b", "::1", "a/b", "$(id)", "a\n", ".a", "x" * 300])
def test_a_tunnel_leads_to_a_name_or_an_address(target: str) -> None:
    with pytest.raises(ValueRefusedError), tunnel.forward(None, target, 80, 0):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_tunnel_leads_to_a_port(port: int) -> None:
    with pytest.raises(ValueRefusedError), tunnel.forward(None, "a", port, 0):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueRefusedError), tunnel.reverse(None, port, 0, "127.0.0.1"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("said", [b"", b"0", b"65536", b"12 34", b"-1", b"\xff", "٣".encode(), b"port 5"])
def test_a_port_that_a_host_has_chosen_is_a_number(said: bytes) -> None:
    with pytest.raises(GarbageError):
        tunnel._allocated(said, "web")
    assert tunnel._allocated(b"40001\n", "web") == 40001


def test_the_folder_of_a_connection_is_private_short_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / ("x" * 100)))
    with socket_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(f"{folder}/s.0123456789abcdef") < SOCKETS_PATH
    assert not folder.exists()


def test_folders_of_killed_ones_are_swept_away_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Path(f"/tmp/t-{os.getpid()}")
    short.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    try:
        for name in ("tower-aaaaaaaa", "tower-notes"):
            (short / name).mkdir()
        with socket_folder() as mine, socket_folder() as other:
            assert mine.is_dir()
            left = {path.name for path in short.iterdir()}
        assert left == {"tower-notes", mine.name, other.name}
    finally:
        subprocess.run(["rm", "-rf", str(short)], check=True)


def test_a_program_is_fed_and_bounded() -> None:
    code = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data); sys.stderr.write('e' * 100000)"
    done = proc.run([sys.executable, "-c", code], timeout=20, stdin=b"x" * 300_000, most=1_000_000)
    assert (len(done.stdout), len(done.stderr), done.status) == (300_000, 100_000, 0)
    with pytest.raises(OverrunError, match="wrote more than 1000 bytes"):
        proc.run(["yes"], timeout=20, most=1000)
    start = time.monotonic()
    with pytest.raises(OverrunError, match="not finished"):
        proc.run(["sleep", "20"], timeout=0.3, most=1000)
    with pytest.raises(OverrunError, match="not finished"):  # it reads nothing of what it is fed
        proc.run(["sleep", "20"], timeout=0.3, stdin=b"x" * 1_000_000, most=1000)
    assert time.monotonic() - start < 10


def test_a_program_that_does_not_end_is_ended() -> None:
    start = time.monotonic()
    with proc.running(["sh", "-c", "exec >&-; sleep 60"]) as child:
        assert proc.ended(child, 0.2) == -signal.SIGKILL
    with proc.running(["sh", "-c", "exit 7"]) as child:
        assert proc.ended(child, 10) == 7
    assert time.monotonic() - start < 10


def test_a_host_that_never_stops_talking_is_not_alive_for_ever() -> None:
    with proc.running(["sh", "-c", "while :; do echo xxxxxxxx; done"]) as child, pytest.raises(TimeoutError):
        assert child.stdout is not None
        end = time.monotonic() + 0.3
        while sessions._line(child.stdout, end):
            assert time.monotonic() < end + 5


def test_a_command_of_root_that_failed_is_called_by_its_name() -> None:
    words = sessions.as_root(["reboot", "now"], sessions.SYSTEM_PATH)
    assert sessions.failed("web", words, proc.Done(3, b"", b"no \x1b[2J")).message == "web: reboot: exit status 3\n  no ?[2J"


@pytest.mark.parametrize("known", [True, False])
def test_the_key_exchange_is_quick_and_nothing_is_lost(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that this ssh knows comes first; all that it would offer otherwise comes after it."""
    first = "curve25519-sha256"  # known to every ssh
    monkeypatch.setattr(sessions, "_POST_QUANTUM", first if known else "unknown-sha256")

    def said(*options: str) -> dict[str, str]:
        argv = ("ssh", "-G", "-F", "none", *(word for option in options for word in ("-o", option)), "--", "x")
        return dict(line.split(" ", 1) for line in proc.run(argv, timeout=20).stdout.decode().splitlines() if " " in line)

    ours, other = said(*sessions._options(10)), said()
    exchanges = ours["kexalgorithms"].split(",")
    assert set(exchanges) == set(other["kexalgorithms"].split(","))
    assert (exchanges[0] == first) is known
    assert ours["ciphers"] == sessions._CIPHERS
    assert set(ours["ciphers"].split(",")) <= set(other["ciphers"].split(","))
