# SPDX-License-Identifier: Apache-2.0
"""What a user types at ./ci/doit and at plain doit: words that name nothing, and a second run with nothing to do."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.integration.conftest import Tiny


def plain_doit(tiny: Tiny, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [str(tiny.folder / ".venv" / "bin" / "doit"), *args]
    return subprocess.run(argv, env=tiny.environment, cwd=tiny.folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [("hsot",), ("list", "hsot"), ("run", "hsot"), ("clean", "hsot"), ("compress=none", "hsot")])
def test_a_mistyped_task(tiny: Tiny, words: tuple[str, ...]) -> None:
    said = tiny.doit(*words, status=3)
    assert "hsot: there is no such task" in said
    assert "did you mean host" in said
    assert "./ci/doit list shows all tasks" in said
    assert 'Type "' not in said


def test_a_mistyped_task_of_plain_doit(tiny: Tiny) -> None:
    done = plain_doit(tiny, "hsot")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "ERROR: hsot: there is no such task"
    assert "did you mean host" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_doit_lists_the_tasks(tiny: Tiny) -> None:
    done = plain_doit(tiny, "list")
    assert done.returncode == 0, done.stderr
    assert {"host", "gc", "test"} <= {line.split()[0] for line in done.stdout.splitlines() if line}


def processor_seconds(tiny: Tiny) -> tuple[float, str]:
    """Seconds of the processor that ./ci/doit takes, its children included, and what it says."""
    before = os.times()
    said = tiny.doit()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, said


def test_a_second_run_has_nothing_to_do_and_is_quick(tiny: Tiny) -> None:
    """In seconds of the processor, best of three: what else the machine does at the time is not its fault."""
    tiny.doit()
    taken = [processor_seconds(tiny) for _ in range(3)]
    assert all("nothing to do" in said for _, said in taken), taken[0][1]
    assert min(seconds for seconds, _ in taken) < 2


def test_the_next_replay_removes_the_remains_of_a_killed_one(tiny: Tiny) -> None:
    tiny.doit("lock")
    tiny.script("first", "sleep 60")
    killed = tiny.start("replay", "stage=first")
    try:
        deadline = time.monotonic() + 60
        while not (left := list((tiny.folder / "build").glob("tower-replay-*/.owner"))):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert left[0].exists()
    tiny.script("first", "cp /src/text/first /out/first")
    tiny.doit("replay", "stage=first")
    assert list((tiny.folder / "build").glob("tower-replay-*")) == []
