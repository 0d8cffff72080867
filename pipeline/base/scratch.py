# SPDX-License-Identifier: Apache-2.0
"""Temporary folders with an owner's mark, so that the next run removes those of killed processes, and nothing else.

The owner holds a kernel lock on a file in the folder, which ends with the process, however that ends.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.base import proc
from pipeline.base.errors import ToolError
from pipeline.base.filelock import try_lock, wait_lock

_OWNER = ".owner"
_UNMARKED_SECONDS = 24 * 3600
"""The age from which on a folder without a mark has no owner: the mark is made a moment after the folder."""
_UMOUNT_SECONDS = 30


@contextmanager
def temporary_folder(kind: str, parent: Path | None = None) -> Iterator[Path]:
    """Make a folder `tower-<kind>-…` in `parent` (default: the system's temporary folder), removed at the end.

    First it removes folders of this kind whose owners are dead.
    """
    place = parent or Path(tempfile.gettempdir())
    sweep(place, kind)
    folder = Path(tempfile.mkdtemp(prefix=f"tower-{kind}-", dir=place))
    try:
        lock = wait_lock(folder / _OWNER)
        try:
            yield folder
        finally:
            remove_tree(folder)
            lock.release()
    finally:
        remove_tree(folder)


def sweep(place: Path, kind: str) -> list[Path]:
    """Remove the folders of `kind` that dead processes of this user left in `place`; return them."""
    removed = []
    for folder in sorted(place.glob(f"tower-{kind}-*")):
        with suppress(OSError):
            info = folder.lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and _remove_if_dead(folder, info.st_mtime):
                removed.append(folder)
    return removed


def _remove_if_dead(folder: Path, changed: float) -> bool:
    if not (folder / _OWNER).exists():
        return time.time() - changed > _UNMARKED_SECONDS and remove_tree(folder)
    lock = try_lock(folder / _OWNER)
    if lock is None:
        return False
    try:
        return remove_tree(folder)
    finally:
        lock.release()


def remove_tree(folder: Path) -> bool:
    """Remove a folder and its content, but nothing of a file system that is mounted there; tell whether it is gone.

    File systems mounted below it are detached first. If that fails, the folder is left as it is.
    """
    for place in reversed(mounts_below(folder)):
        with suppress(ToolError):
            proc.run(("umount", "--lazy", place), timeout=_UMOUNT_SECONDS)
    if mounts_below(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def mounts_below(folder: Path) -> list[Path]:
    """Return the mount points at or below `folder`, in the order in which they were mounted."""
    root = folder.resolve()
    places = (_unescaped(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [place for place in places if place.is_relative_to(root)]


def _unescaped(text: str) -> Path:
    """Return the path for a text of mountinfo, which writes spaces as octal numbers."""
    return Path(os.fsdecode(text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")))
