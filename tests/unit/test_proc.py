# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base import children, proc
from pipeline.base.errors import ToolError
from pipeline.base.guard import GUARD
from tests.cage import caged

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
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_run_returns_status_and_output() -> None:
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


OWNER = """
import sys, threading
from pipeline.base import proc

def begin(number):
    proc.run(("sh", "-c", f"echo $$ >run{number}; sleep 300 & echo $! >below{number}; wait"), timeout=300)

for number in range(2):
    threading.Thread(target=begin, args=(number,), daemon=True).start()
proc.run(("true",), timeout=20)
proc.spawn(("sh", "-c", "echo $$ >spawned; exec sleep 300"))
proc.run(("sh", "-c", "trap '' TERM HUP INT; echo $$ >deaf; while :; do sleep 1; done"), timeout=300)
"""
NAMES = ("run0", "run1", "below0", "below1", "spawned", "deaf")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_programs_end_with_who_started_them(tmp_path: Path, how: signal.Signals) -> None:
    """Once `./ci/doit fetch`, killed, left pip and apt-get behind; nobody asks a process that is killed."""
    owner = subprocess.Popen((sys.executable, "-c", OWNER), cwd=tmp_path, stderr=subprocess.DEVNULL, env=importable())
    try:
        wait_for(lambda: all((tmp_path / name).is_file() and (tmp_path / name).read_text().strip() for name in NAMES))
        pids = [int((tmp_path / name).read_text()) for name in NAMES]
        assert all(map(is_alive, pids))
        owner.send_signal(how)
        owner.wait(20)
        wait_for(lambda: not any(map(is_alive, pids)))
    finally:
        owner.kill()
        owner.wait()


SLOW = """
import time
from pathlib import Path
from pipeline.base import guard, proc

guard.Guard.started = lambda self, group: time.sleep(300)
proc.run(("sh", "-c", "echo $$ >program; exec sleep 300"), timeout=300)
"""


def test_a_program_that_the_guard_was_not_told_of_yet(tmp_path: Path) -> None:
    """Its owner is killed right after it started it."""
    owner = subprocess.Popen((sys.executable, "-c", SLOW), cwd=tmp_path, stderr=subprocess.DEVNULL, env=importable())
    try:
        wait_for(lambda: (tmp_path / "program").is_file() and bool((tmp_path / "program").read_text().strip()))
        pid = int((tmp_path / "program").read_text())
        assert is_alive(pid)
        owner.kill()
        owner.wait(20)
        wait_for(lambda: not is_alive(pid))
    finally:
        owner.kill()
        owner.wait()


def importable() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(proc.__file__).parents[2])}


def test_a_process_number_used_again_is_not_ended(tmp_path: Path) -> None:
    """What ended without our knowing is not confused with what has its number now."""
    innocent = subprocess.Popen(("sleep", "300"), start_new_session=True)
    code = f"""
from pipeline.base.guard import GUARD
GUARD.started({innocent.pid})
GUARD._tell("- {innocent.pid}\\n")
GUARD._tell("+ {innocent.pid} 12345\\n")
import os
print(GUARD.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    try:
        done = subprocess.run((sys.executable, "-c", code), capture_output=True, check=False, env=importable(), timeout=20)
        assert done.returncode == -9
        guard = int(done.stdout)
        wait_for(lambda: not is_alive(guard))
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


INNOCENT = """
import os, subprocess, sys, time
from pathlib import Path

def state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "Z"

owner = '''
import os, subprocess
from pipeline.base.guard import GUARD
program = subprocess.Popen(("sleep", "300"), start_new_session=True, env={**os.environ, **GUARD.starting()})
GUARD.started(program.pid)
GUARD.starting()
print(GUARD.pid, program.pid, flush=True)
os.kill(os.getpid(), 9)
'''
# Letters, digits and words that a line of /proc/PID/stat and the guard's own script have.
env = {"A": "RSDZTtXxKWPI 0123456789 running coming TOWER_GUARD=", "PATH": os.defpath}
innocent = subprocess.Popen(("sleep", "300"), start_new_session=True, env=env)
done = subprocess.run((sys.executable, "-c", owner), capture_output=True, text=True)
guard, program = map(int, done.stdout.split())
ends = time.monotonic() + 60
while state(guard) != "Z" and time.monotonic() < ends:
    time.sleep(0.05)
print(state(guard), state(program), innocent.poll())
"""


def test_a_guard_that_looks_for_a_program_ends_no_others() -> None:
    """The owner is killed with one program running, and one announced; in a namespace, where mistakes end nobody else."""
    done = subprocess.run(
        caged(sys.executable, "-c", INNOCENT), capture_output=True, text=True, check=False, env=importable(), timeout=100
    )
    assert (done.returncode, done.stdout.split()) == (0, ["Z", "Z", "None"]), done.stderr


def test_a_guard_that_was_killed_is_replaced() -> None:
    proc.run(("true",), timeout=20)
    before = GUARD.pid
    assert is_alive(before)
    assert before not in set(children.running())
    os.kill(before, signal.SIGKILL)
    os.waitpid(before, 0)
    for _ in range(3):
        proc.run(("true",), timeout=20)
    assert GUARD.pid != before
    assert is_alive(GUARD.pid)


WORKERS = """
import os, sys, time
from pathlib import Path
from pipeline.base import proc
from pipeline.base.workers import workers

def work(number):
    Path(f"worker{number}").write_text(str(os.getpid()))
    proc.run(("sh", "-c", f"echo $$ >program{number}; exec sleep 300"), timeout=300)

if __name__ == "__main__":
    pool = workers(2)
    for number in range(2):
        pool.submit(work, number)
    pool.submit(print, "waits")
    time.sleep(300)
"""


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    """When the parent ends, busy and idle workers end too, and so do the programs that they run."""
    (tmp_path / "owner.py").write_text(WORKERS)
    owner = subprocess.Popen((sys.executable, "owner.py"), cwd=tmp_path, stderr=subprocess.DEVNULL, env=importable())
    names = ("worker0", "worker1", "program0", "program1")
    try:
        wait_for(lambda: all((tmp_path / name).is_file() and (tmp_path / name).read_text().strip() for name in names))
        pids = [int((tmp_path / name).read_text()) for name in names]
        owner.kill()
        owner.wait(20)
        wait_for(lambda: not any(map(is_alive, pids)))
    finally:
        owner.kill()
        owner.wait()


def test_variables_of_the_engine_are_passed_to_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them are the tests, which use the engine that the user named."""
    named = {name: f"/of/{name}" for name in ("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "TMPDIR")}
    for name, value in {**named, "LD_PRELOAD_NONE": "x"}.items():
        monkeypatch.setenv(name, value)
    done = proc.run((sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"), timeout=30)
    seen = json.loads(done.stdout)
    assert {name: seen.get(name) for name in named} == named
    assert "LD_PRELOAD_NONE" not in seen
