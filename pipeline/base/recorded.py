# SPDX-License-Identifier: Apache-2.0
"""A cache of generated files with a record of each: the name holds the key of its inputs, the record its content.

    <folder>/<name>            the file; its name holds the key of everything that it was made from
    <folder>/<name>.record     its size and SHA-256, written when it was made

The name alone proves nothing: a damaged or foreign file may have the right name, too. So a file is hashed before it is
used, and read only through the descriptor that was hashed. A file that differs from its record is reported, removed, and
counts as absent: the caller makes it again. The caller must let only one process at a time write
(`pipeline.base.filelock`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tower.base.jsontext import parse_json
from tower.base.regular import open_regular

from pipeline.base.canonical import Digest, canonical_json
from pipeline.base.errors import StoreError

_RECORD = ".record"
_MOST_RECORD = 4096


@dataclass(frozen=True, slots=True)
class Recorded:
    """A file of the cache that was hashed and matches its record."""

    path: Path
    sha256: Digest
    size: int
    seen: tuple[int, ...]
    """The status of the very file that was hashed."""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the hashed file at its start. Raises StoreError if it is another file now, or changes meanwhile."""
        with _as_store_error(self.path), open_regular(self.path, follow=False) as stream:
            self._check(stream)
            yield stream
            self._check(stream)

    def _check(self, stream: BinaryIO) -> None:
        if _seen(stream) != self.seen:
            raise StoreError(f"{self.path}: was changed while it was used", hint="run the same command again: it is made again")


class RecordedCache:
    """The files below `folder`. `report` takes a line for the user about each file that differs from its record."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder = folder
        self._report = report

    def place(self, name: str) -> Path:
        """Return the place of the file of this name, whether it exists or not."""
        return self.folder / name

    def find(self, name: str) -> Recorded | None:
        """Return the file of this name, hashed now; None if it has to be made (again). Raises StoreError."""
        path = self.place(name)
        if not os.path.lexists(path):
            return None
        wanted = _read_record(path)
        if wanted is None:  # its maker was killed before it was recorded, or was an older factory
            self.remove(name)
            return None
        try:
            with open_regular(path, follow=False) as stream:
                before = _seen(stream)
                found = (Digest(hashlib.file_digest(stream, "sha256").hexdigest()), os.fstat(stream.fileno()).st_size)
                if found == wanted and _seen(stream) == before:
                    return Recorded(path, *found, before)
                what = f"has {found[1]} bytes, sha256 {found[0][:12]}; it was made with {wanted[1]}, {wanted[0][:12]}"
        except OSError as error:
            what = error.strerror or str(error)
        self._report(f"{path}: was changed since it was made ({what}); it is made again")
        self.remove(name)
        return None

    def keep(self, name: str, made: Path) -> None:
        """Move a finished file into its place, and record its content. Raises StoreError."""
        path = self.place(name)
        with _as_store_error(path):
            with made.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = os.fstat(stream.fileno()).st_size
            self.remove(name)
            made.replace(path)
            # The record comes last: without it the file counts as absent, whenever this is interrupted.
            part = _record_of(path).with_name(f".{path.name}.{os.getpid()}")
            part.write_bytes(canonical_json({"sha256": digest, "size": size}))
            part.replace(_record_of(path))

    def mark_used(self, name: str) -> None:
        """Note that a file is used now, so that unused ones can be removed. Raises StoreError."""
        with _as_store_error(self.place(name)):
            os.utime(_record_of(self.place(name)))

    def last_used(self, name: str) -> int:
        """Return the time of the last use in nanoseconds; 0 if unknown."""
        try:
            return _record_of(self.place(name)).lstat().st_mtime_ns
        except OSError:
            return 0

    def remove(self, name: str) -> None:
        """Remove a file and its record, or anything else in its place. Raises StoreError."""
        path = self.place(name)
        with _as_store_error(path):
            _record_of(path).unlink(missing_ok=True)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{_RECORD}")


def _read_record(path: Path) -> tuple[Digest, int] | None:
    try:
        with open_regular(_record_of(path), follow=False) as stream:
            data: Any = parse_json(stream.read(_MOST_RECORD))
        return Digest(str(data["sha256"])), int(data["size"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seen(stream: BinaryIO) -> tuple[int, ...]:
    """Return data about an open file that changes with any change of the file."""
    info = os.fstat(stream.fileno())
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{error.filename or path}: {error.strerror or error}", hint="make room, or look at the permissions"
        ) from error
