# SPDX-License-Identifier: Apache-2.0
"""Locks between threads and processes: exclusive, shared, gone with a killed process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.filelock import locked, try_lock, wait_lock

FORK = multiprocessing.get_context("fork")


def test_an_exclusive_lock_has_one_holder(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "deep" / "a")
    assert lock is not None
    assert try_lock(lock.path) is None
    assert try_lock(lock.path, shared=True) is None
    lock.release()
    lock.release()
    again = try_lock(lock.path)
    assert again is not None
    again.release()


def test_a_shared_lock_has_many_holders_and_excludes_a_writer(tmp_path: Path) -> None:
    locks = [try_lock(tmp_path / "a", shared=True) for _ in range(3)]
    assert None not in locks
    assert try_lock(tmp_path / "a") is None


def _hold(path: Path, ready: Any) -> None:
    with locked(path):
        ready.set()
        signal.pause()


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    ready = FORK.Event()
    child = FORK.Process(target=_hold, args=(tmp_path / "a", ready))
    child.start()
    assert ready.wait(10)
    assert try_lock(tmp_path / "a") is None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    lock = try_lock(tmp_path / "a")
    assert lock is not None
    lock.release()


def test_a_removed_lock_is_locked_anew(tmp_path: Path) -> None:
    """Whoever waits for a lock whose file was removed must not end up with a lock that nobody else sees."""
    first = try_lock(tmp_path / "a")
    assert first is not None
    got: list[bool] = []
    waits = threading.Event()

    def wait() -> None:
        lock = wait_lock(tmp_path / "a", on_wait=waits.set)
        got.append(try_lock(tmp_path / "a") is None)
        lock.release()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waits.wait(10)
    first.remove()
    waiter.join(10)
    assert got == [True]


def test_counting_under_a_lock(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(20):
            with locked(tmp_path / "lock"):
                counter.write_text(str(int(counter.read_text()) + 1))

    children = [FORK.Process(target=count) for _ in range(2)] + [threading.Thread(target=count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert counter.read_text() == "60"


def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    class GiveUpError(Exception):
        pass

    def check() -> None:
        raise GiveUpError

    told: list[str] = []
    with locked(tmp_path / "a"), pytest.raises(GiveUpError):
        wait_lock(tmp_path / "a", on_wait=lambda: told.append("waiting"), check=check)
    assert told == ["waiting"]
