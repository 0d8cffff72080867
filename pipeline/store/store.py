# SPDX-License-Identifier: Apache-2.0
"""The content-addressed store: it keeps artifacts by key, and alone decides whether something is built already.

It stands between plan and sandbox: a task asks `lookup`; if that returns None, the task builds inside `building`, which
holds the lock of the key, so that two builds share one store and make everything once. An artifact appears whole or not
at all: it is written to a temporary folder, synced and renamed. A damaged one is reported, moved away and built again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.base.canonical import Digest, JsonValue, canonical_json, digest_bytes
from pipeline.base.errors import StoreError
from pipeline.base.filelock import FileLock, locked, try_lock
from pipeline.base.files import disk_full, is_folder, is_full, remove, sync, sync_tree, write
from pipeline.base.refused import refused
from pipeline.store.artifact import (
    FILES,
    KEY,
    PULLED,
    RECORD,
    STAT,
    Artifact,
    DamagedError,
    FileRecord,
    check,
    fingerprint,
    hash_files,
    is_key,
    record_json,
    stat_files,
)

__all__ = ["Artifact", "FileRecord", "Store", "Work"]


class Store:
    """The artifacts below `root`. Safe to share between threads and between processes.

    `report` takes one line for the user (damage, waiting); `stop` is called while waiting and may raise.
    """

    def __init__(
        self, root: Path, *, report: Callable[[str], None] | None = None, stop: Callable[[], None] | None = None
    ) -> None:
        self.root = root
        self._report = report or _silent
        self._stop = stop
        self._pins: dict[Digest, FileLock] = {}
        self._pins_guard = threading.Lock()

    # --- places ---------------------------------------------------------------------------------------------

    @property
    def temporary(self) -> Path:
        """The folder of unfinished artifacts; on the same file system as the finished ones."""
        return self.root / "tmp"

    @property
    def damaged(self) -> Path:
        """The folder of damaged artifacts, kept for inspection; `gc` empties it."""
        return self.root / "damaged"

    def folder(self, key: Digest) -> Path:
        """Return the folder of the artifact of `key`, whether it exists or not. Raises StoreError if `key` is not a key."""
        if not is_key(key):
            raise StoreError(f"{key!r} is not a key: expected 64 hexadecimal digits")
        return self.root / key

    def lock_path(self, key: Digest) -> Path:
        """Return the lock that a process holds while it builds, moves or removes the artifact of `key`."""
        return self.root / "locks" / key

    def use_path(self, key: Digest) -> Path:
        """Return the lock that all users of the artifact of `key` share, so that `gc` does not remove it."""
        return self.root / "locks" / f"{key}.use"

    def built_keys(self) -> list[Digest]:
        """Return the keys of all artifacts, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(Digest(path.name) for path in self.root.iterdir() if is_key(path.name) and is_folder(path))

    # --- questions ------------------------------------------------------------------------------------------

    def lookup(self, key: Digest) -> Artifact | None:
        """Return the artifact of `key`; None if it is not built or damaged (a damaged one is reported and moved away)."""
        return self._checked(key, full=False)

    def verify(self, key: Digest) -> Artifact | None:
        """Do as `lookup`, but hash every file again."""
        return self._checked(key, full=True)

    def _checked(self, key: Digest, *, full: bool) -> Artifact | None:
        if not os.path.lexists(self.folder(key)):
            return None
        self._pin(key)
        try:
            return self._check(key, full=full)
        except DamagedError:
            # Check again under the lock: another build may have replaced it a moment ago.
            with _translated(self.root), locked(self.lock_path(key), check=self._stop):
                return self._check_or_move(key, full=full)

    def _check(self, key: Digest, *, full: bool) -> Artifact:
        folder = self.folder(key)
        if not is_folder(folder):
            raise DamagedError("it is not a folder", key=key)
        artifact, hashed = check(folder, key, full=full)
        self._pin(key)
        if hashed:
            with suppress(OSError):  # a read-only store still answers
                write(folder / STAT, canonical_json(fingerprint(folder)), lasting=False)
        with suppress(OSError):
            os.utime(folder)  # the time of the last use: `gc` removes the oldest first
        return artifact

    def _check_or_move(self, key: Digest, *, full: bool) -> Artifact | None:
        if not os.path.lexists(self.folder(key)):
            return None
        try:
            return self._check(key, full=full)
        except DamagedError as error:
            self._move_away(key, str(error))
            return None

    def _move_away(self, key: Digest, reason: str) -> None:
        with _translated(self.root):
            self.damaged.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.damaged))
            self.folder(key).rename(place / key)
        self._report(f"store: {key[:12]} is damaged ({reason}); moved to {place}, it will be built again")

    def reject(self, key: Digest, reason: str) -> None:
        """Move the artifact of `key` away, because its reader found that it is damaged."""
        with _translated(self.root), locked(self.lock_path(key), check=self._stop):
            if self._check_or_move(key, full=True) is not None:
                self._report(f"store: {key[:12]}: {reason}; a second reading matches the record")

    def origin(self, key: Digest) -> str:
        """Return the shared cache that the artifact of `key` was pulled from, and its signer; "" if it was built here.

        Raises StoreError if the note about it cannot be read.
        """
        try:
            return read_regular(self.folder(key) / PULLED).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise StoreError(
                f"{error.filename}: {error.strerror}", hint=f"remove the artifact to build it again: rm -r {self.folder(key)}"
            ) from error

    # --- building -------------------------------------------------------------------------------------------

    @contextmanager
    def building(self, key: Digest, document: JsonValue) -> Iterator[Work]:
        """Hold the right to build `key`, with an empty folder to build in.

        Waits while another build makes the same key; then `existing` of the work is what that build made, and
        nothing is left to do. Uncommitted files are removed when the context ends, or after the process was killed.
        Raises StoreError when the disk is full or the store cannot be written.
        """
        data = canonical_json(document)
        if digest_bytes(data) != key:
            raise StoreError(f"{key[:12]}: is not the key of the document that it is to be built for")
        self.folder(key)
        with _translated(self.root):
            waiting = partial(self._report, f"store: {key[:12]} is being built by another process; waiting for it")
            with locked(self.lock_path(key), on_wait=waiting, check=self._stop):
                self._remove_leftovers(key)
                existing = self._check_or_move(key, full=False)
                self.temporary.mkdir(parents=True, exist_ok=True)
                place = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self.temporary))
                try:
                    (place / FILES).mkdir()
                    yield Work(self, key, document, place, existing)
                finally:
                    shutil.rmtree(place, ignore_errors=True)

    def _remove_leftovers(self, key: Digest) -> None:
        """Remove the leftovers of killed builds of `key`; its lock is held, so no build is using them."""
        for path in self.temporary.glob(f"{key}.*"):
            remove(path)

    def sweep(self) -> int:
        """Remove the leftovers of killed builds, except where a build is running; return the number of removed folders."""
        removed = 0
        for path in sorted(self.temporary.glob("*")):
            name = path.name.partition(".")[0]
            lock = try_lock(self.lock_path(Digest(name))) if is_key(name) else None
            if lock is not None:
                remove(path)
                lock.release()
                removed += 1
        return removed

    # --- use ------------------------------------------------------------------------------------------------

    def _pin(self, key: Digest) -> None:
        """Hold the shared use lock of `key` until `close` or the end of the process."""
        with self._pins_guard, suppress(OSError):
            if key not in self._pins:
                lock = try_lock(self.use_path(key), shared=True)
                if lock is not None:
                    self._pins[key] = lock

    def close(self) -> None:
        """Release all artifacts that were looked up."""
        with self._pins_guard:
            for lock in self._pins.values():
                lock.release()
            self._pins.clear()

    def _commit(self, work: Work, seconds: float, known: Mapping[str, FileRecord], pulled: str) -> Artifact:
        seconds = round(seconds, 3)
        with _translated(self.root):
            for name, info in stat_files(work.path).items():
                (work.path / name).chmod(0o555 if info.st_mode & 0o100 else 0o444)
            outputs = hash_files(work.path, known)
            place = work.path.parent
            place.chmod(0o755)
            write(place / KEY, canonical_json(work.document))
            write(place / RECORD, record_json(work.key, work.document, outputs, seconds))
            if pulled:
                write(place / PULLED, pulled.encode())
            sync_tree(place)
            write(place / STAT, canonical_json(fingerprint(place)), lasting=False)
            self._pin(work.key)
            place.rename(self.folder(work.key))
            sync(self.root)
        return Artifact(work.key, self.folder(work.key) / FILES, outputs, seconds)


@dataclass(slots=True)
class Work:
    """One build of an artifact: `path` is the empty folder to fill; `existing` is set if there is nothing to do."""

    _store: Store
    key: Digest
    document: JsonValue
    _place: Path
    existing: Artifact | None
    committed: Artifact | None = field(default=None, init=False)

    @property
    def path(self) -> Path:
        """The folder to fill with regular files and folders."""
        return self._place / FILES

    def commit(self, seconds: float, known: Mapping[str, FileRecord] | None = None, *, pulled: str = "") -> Artifact:
        """Record the files in `path`, sync them and move them to their place in the store.

        `known` has the records of files that were hashed while they were written (what `run_stage` returns). `pulled` says
        where it comes from, if it was not built.
        Raises StoreError for anything but regular files and folders, and when the disk is full.
        """
        if self.existing is not None:
            return self.existing
        if self.committed is None:
            self.committed = self._store._commit(self, seconds, known or {}, pulled)  # noqa: SLF001  (of this module)
        return self.committed


# --- small acts on files ------------------------------------------------------------------------------------


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    """Turn errors of the system into StoreError, with a remedy if a disk is full or read-only."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise disk_full(root, error) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise StoreError(f"{error.filename or root}: {error.strerror}", hint="the store must be writable for you") from error
        hint = refused(error).hint or f"look at {root}"
        raise StoreError(f"{error.filename or root}: {error.strerror or error}", hint=hint) from error


def _silent(_line: str) -> None:
    """Report nothing."""
