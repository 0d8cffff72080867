# SPDX-License-Identifier: Apache-2.0
"""File locks that two builds share: kernel locks, which vanish with the process, even one killed with -9.

A lock is a small file that is never written. Waiting polls, so that a build that is told to stop does not
hang in the kernel; threads of one process exclude each other like processes do.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_POLL_SECONDS = 0.1


class FileLock:
    """A held lock; `release` or the end of the process releases it."""

    __slots__ = ("_fd", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        """Release a lock that is no longer referenced, as Python closes a file object."""
        self.release()

    def remove(self) -> None:
        """Remove the file of an exclusive lock, then release it: waiting processes start over on a new file."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.release()


def try_lock(path: Path, *, shared: bool = False) -> FileLock | None:
    """Return the lock at `path`, or None if somebody else holds it."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        if _is_current(fd, path):
            return FileLock(path, fd)
        os.close(fd)


def _is_current(fd: int, path: Path) -> bool:
    """Tell whether `path` still names the file that was locked; `FileLock.remove` may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def wait_lock(
    path: Path,
    *,
    shared: bool = False,
    on_wait: Callable[[], None] | None = None,
    check: Callable[[], None] | None = None,
) -> FileLock:
    """Wait for the lock at `path` and return it.

    `on_wait` is called once if somebody else holds it; `check` is called while waiting and may raise to give up.
    """
    lock = try_lock(path, shared=shared)
    if lock is None and on_wait is not None:
        on_wait()
    while lock is None:
        if check is not None:
            check()
        time.sleep(_POLL_SECONDS)
        lock = try_lock(path, shared=shared)
    return lock


@contextmanager
def locked(
    path: Path, *, on_wait: Callable[[], None] | None = None, check: Callable[[], None] | None = None
) -> Iterator[FileLock]:
    """Hold an exclusive lock for the context; otherwise as `wait_lock`."""
    lock = wait_lock(path, on_wait=on_wait, check=check)
    try:
        yield lock
    finally:
        lock.release()
