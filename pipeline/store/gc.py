# SPDX-License-Identifier: Apache-2.0
"""Bound the size of the store: remove the artifacts that have been unused for the longest time.

Always kept are the keys that the caller names (the current plan), artifacts that a running build looked up, and those
that are being built. If it is interrupted, every artifact is either whole or gone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.canonical import Digest
from pipeline.base.filelock import try_lock
from pipeline.store.store import Store


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of a collection: what was removed and what is left, in bytes on the disk, and how many were in use."""

    removed: tuple[Digest, ...]
    freed: int
    left: int
    kept_in_use: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    used: float
    key: Digest
    size: int


def collect(
    store: Store,
    *,
    keep: Collection[Digest],
    max_bytes: int,
    max_age_seconds: float | None = None,
    dry_run: bool = False,
) -> Collected:
    """Remove leftovers and damaged artifacts, artifacts older than the age, then the oldest until the size fits.

    Age counts from the last use. Sizes are those that the disk gives back (holes do not count).
    """
    freed = 0 if dry_run else _remove_rubbish(store)
    rows = sorted(
        (_Candidate(_used(store.folder(key)), key, disk_size(store.folder(key))) for key in store.built_keys()),
        key=lambda row: (row.used, row.key),
    )
    total = sum(row.size for row in rows)
    oldest = time.time() - max_age_seconds if max_age_seconds is not None else float("-inf")
    removed: list[Digest] = []
    in_use = 0
    for row in rows:
        if row.key in keep or (row.used >= oldest and total <= max_bytes):
            continue
        if dry_run or remove(store, row.key):
            removed.append(row.key)
            freed += row.size
            total -= row.size
        else:
            in_use += 1
    return Collected(tuple(removed), freed, total, in_use)


def remove(store: Store, key: Digest) -> bool:
    """Remove one artifact, unless somebody builds or uses it; tell whether it was removed."""
    building = try_lock(store.lock_path(key))
    if building is None:
        return False
    using = try_lock(store.use_path(key))
    if using is None:
        building.release()
        return False
    try:
        # Rename it first, so that a kill in the middle leaves a leftover and not half an artifact.
        store.temporary.mkdir(parents=True, exist_ok=True)
        grave = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=store.temporary))
        with suppress(FileNotFoundError):
            store.folder(key).rename(grave / key)
        shutil.rmtree(grave, ignore_errors=True)
    finally:
        using.remove()
        building.remove()
    return True


def _remove_rubbish(store: Store) -> int:
    freed = disk_size(store.damaged)
    shutil.rmtree(store.damaged, ignore_errors=True)
    before = disk_size(store.temporary)
    store.sweep()
    return freed + before - disk_size(store.temporary)


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def disk_size(root: Path) -> int:
    """Return the bytes that the files below `root` take on the disk."""
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_blocks * 512
    return total
