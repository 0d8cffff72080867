# SPDX-License-Identifier: Apache-2.0
"""The lock that programs of root share on devices (overlays/common/usr/share/tower/lock.sh), under busybox's shell."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
LOCK = CHECKOUT / "overlays/common/usr/share/tower/lock.sh"
HEAD = f"set -eu\n. {LOCK}\n"


def shell(text: str) -> list[str]:
    return ["busybox", "sh", "-c", HEAD + text]


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(shell(text), capture_output=True, text=True, check=False, timeout=50)


def held(path: Path, more: str = "read -r _") -> subprocess.Popen[str]:
    """A process that holds the lock until it reads a line."""
    process = subprocess.Popen(
        shell(f'lock_take "{path}" 0\necho have\n{more}'), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "have\n"
    return process


def test_one_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = held(lock)
    assert run(f'lock_take "{lock}" 0').returncode == 1
    assert run(f'lock_held "{lock}"').returncode == 0
    first.communicate("\n", timeout=20)
    assert run(f'lock_take "{lock}" 0').returncode == 0


def test_a_holder_that_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = held(lock)
    first.send_signal(signal.SIGKILL)
    first.wait(20)
    assert run(f'lock_held "{lock}"').returncode == 1
    assert run(f'lock_take "{lock}" 0').returncode == 0


def test_a_process_number_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    """A process is its number and its start: another one that has the number now is not the owner."""
    lock = tmp_path / "lock"
    lock.touch()
    (tmp_path / "lock.owner").symlink_to(f"{os.getpid()} 1")
    assert run(f'lock_held "{lock}"').returncode == 1
    assert run(f'lock_take "{lock}" 0').returncode == 0


def test_two_never_hold_it(tmp_path: Path) -> None:
    """Four contenders: whoever has the lock makes a folder and removes it, and notes if it was there already."""
    lock, inside = tmp_path / "lock", tmp_path / "inside"
    rounds = 40
    script = (
        f'for _ in $(seq {rounds}); do (lock_take "{lock}" 20 && mkdir "{inside}" && rmdir "{inside}"'
        f' && echo in >>"{tmp_path}/log" || echo twice >>"{tmp_path}/log") & wait $!; done'
    )
    contenders = [subprocess.Popen(shell(script), stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(50) for process in contenders] == [0] * 4
    lines = (tmp_path / "log").read_text().split()
    assert lines.count("in") == 4 * rounds
    assert "twice" not in lines


def test_a_process_waits_for_the_lock_and_gets_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = held(lock)
    waiting = subprocess.Popen(shell(f'lock_take "{lock}" 30; echo got'), stdout=subprocess.PIPE, text=True)
    first.communicate("\n", timeout=20)
    assert waiting.communicate(timeout=40)[0] == "got\n"


def test_a_waiting_one_heeds_signals(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first = held(lock)
    waiting = subprocess.Popen(shell(f'lock_take "{lock}" 1000'))
    # It has asked for the lock once it sleeps.
    while not Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text() and waiting.poll() is None:
        time.sleep(0.01)
    waiting.terminate()
    assert waiting.wait(20) == -signal.SIGTERM
    first.communicate("\n", timeout=20)


@pytest.mark.parametrize("place", ["gone/lock", "file/lock"])
def test_a_lock_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    done = run(f'status=0; lock_take "{tmp_path / place}" 1000 || status=$?; exit "$status"')
    assert done.returncode == 2, "it neither waits nor goes on"


def test_only_the_owner_can_open_the_lock_file(tmp_path: Path) -> None:
    """The file is its owner's alone, whatever the umask of the caller."""
    lock = tmp_path / "lock"
    assert run(f'umask 000; lock_take "{lock}" 0').returncode == 0
    assert lock.stat().st_mode & 0o777 == 0o600
