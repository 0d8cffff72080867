# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import children, proc
from pipeline.errors import ToolError

TIDIES = """
import pathlib, sys, time
try:
    pathlib.Path("begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path("tidied").touch()
    sys.exit(3)
"""
DEAF = """
import pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path("begun").touch()
time.sleep(60)
"""


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_what_a_program_left() -> None:
    done = proc.run(
        (sys.executable, "-c", "import sys; print(sys.stdin.read()); sys.exit(7)"), timeout=20, stdin=b"x", check=False
    )
    assert (done.status, done.stdout) == (7, b"x\n")


def test_no_such_program() -> None:
    with pytest.raises(ToolError, match="no-such-program: no such program"):
        proc.run(("no-such-program",), timeout=1)


def test_time_is_limited() -> None:
    with pytest.raises(ToolError, match="not finished after 0 s"):
        proc.run(("sleep", "60"), timeout=0.1)


@pytest.mark.parametrize(("program", "seconds", "status", "tidied"), [(TIDIES, 20, 3, True), (DEAF, 0.2, -9, False)])
def test_nothing_outlives_an_interrupted_run(tmp_path: Path, program: str, seconds: float, status: int, tidied: bool) -> None:
    """Once `./ci/doit test`, interrupted, left pytest and its machines behind: they have a session of their own."""
    found: list[int] = []

    def work() -> None:
        found.append(proc.run((sys.executable, "-c", program), timeout=60, cwd=tmp_path, check=False).status)

    other = proc.spawn(("sleep", "60"))
    before = frozenset(children.running())
    thread = threading.Thread(target=work)
    thread.start()
    wait_for((tmp_path / "begun").exists)
    children.stop_all(seconds, but=before)
    thread.join(20)
    assert found == [status]
    assert (tmp_path / "tidied").exists() == tidied
    started = time.monotonic()
    children.stop_all(20, but=before)
    assert time.monotonic() - started < 1, "there is nothing left to wait for"
    assert other.poll() is None, "what was there before is left alone"
    proc.kill_group(other.pid)
    other.wait()
