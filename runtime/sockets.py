# SPDX-License-Identifier: Apache-2.0
"""Where the sockets of connections are: a folder for each, that nobody else may enter, gone with the `tower` that made it.

A `tower` that was killed leaves its folder; the next one sweeps it away. A lock on the folder says that it is in use.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tower.errors import StateError
from tower.files import remove_folder

_PREFIX: Final = "tower-"
_MOST: Final = 104 - len("/tower-12345678/s.1234567890123456") - 1
"""Bytes of a folder's path; those of a socket's are limited to 104, and ssh first makes it under a longer name."""


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A new folder for the sockets of one connection. Raises StateError if there is no place for it."""
    parent = _parent()
    _sweep(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StateError(f"{parent}: {error.strerror}", hint="it must be writable for you") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        remove_folder(folder)
        os.close(handle)


def _parent() -> Path:
    for text in (os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"):  # noqa: S108  (mkdtemp makes it safe)
        path = Path(text)
        if text and len(os.fsencode(text)) <= _MOST and path.is_absolute() and os.access(path, os.W_OK | os.X_OK):
            return path
    raise StateError("there is no folder for sockets", hint="make $XDG_RUNTIME_DIR or /tmp writable")


def _sweep(parent: Path) -> None:
    """Remove the folders of ours whose `tower` is gone."""
    for folder in parent.glob(f"{_PREFIX}????????"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid() and _old(handle):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_folder(folder)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)


def _old(handle: int) -> bool:
    """Not one that another `tower` made just now, and has not locked yet."""
    import time

    return time.time() - os.fstat(handle).st_mtime > 10
