# SPDX-License-Identifier: Apache-2.0
"""The places of the vault: which files may be there, how a file gets its name, and the leftovers of a killed run."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base.errors import StoreError
from pipeline.base.files import disk_full, is_full

VERIFIED_NS = 1_000_000_000
"""The time stamp of verified files; any later write changes it."""


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Make a file in `folder`, removed at the end unless it was given a name.

    It is locked, so that leftovers of killed processes can be recognised and removed first. Raises StoreError.
    """
    with ours(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("new-*"):
            if (handle := _lock(left)) is not None:
                left.unlink(missing_ok=True)
                os.close(handle)
        made, handle = _locked_file(folder)
    try:
        yield made
    finally:
        made.unlink(missing_ok=True)
        os.close(handle)


def _locked_file(folder: Path) -> tuple[Path, int]:
    while True:
        made, name = tempfile.mkstemp(dir=folder, prefix="new-")
        os.close(made)
        handle = _lock(Path(name))
        # Before it was locked, another process may have taken it for a leftover.
        if handle is not None:
            if Path(name).exists():
                return Path(name), handle
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Return the descriptor of a file that nobody else has locked, or None."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def ours(path: Path) -> Iterator[None]:
    """Raise StoreError in place of the system's errors about `path`, a place in the vault."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(path.parent, error) from error
        raise StoreError(
            f"{error.filename or path}: {error.strerror or error}",
            hint="you must own it and be able to write to it; files in the vault may be removed, since they can be fetched again",
        ) from error


def clear(path: Path) -> os.stat_result | None:
    """Return the status of a regular file; None if there is none, after removing anything else.

    Raises StoreError for a folder: somebody made it, and it may hold something.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(info.st_mode):
        raise StoreError(f"{path}: is a folder, but must be a file", hint=f"look into it, then remove it: rm -r {path}")
    if not stat.S_ISREG(info.st_mode):
        path.unlink()
        return None
    return info


def give_name(part: Path, place: Path) -> None:
    """Sync a verified file and move it to its place, replacing a file there. Raises OSError, and StoreError for a folder."""
    clear(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.chmod(0o644)
    try:
        part.replace(place)
    except OSError as error:
        if error.errno != errno.EXDEV:  # it is on another file system
            raise
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        shutil.copyfile(part, beside)
        part.unlink()
        beside.replace(place)
    mark(place)


def mark(path: Path) -> None:
    """Note that the content was right, and that somebody used it now."""
    os.utime(path, ns=(time.time_ns(), VERIFIED_NS))
