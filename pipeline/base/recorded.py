# SPDX-License-Identifier: Apache-2.0
"""A cache of made files that knows what each of them holds: named by what went in, recorded by what came out.

    <folder>/<name>            the file; its name holds the key of all that it was made of
    <folder>/<name>.record     its size and SHA-256, written when it was made

The name alone says nothing of the content: a file that was damaged, or put there by somebody, has the right name, too.
So whoever takes one out has it hashed, and reads only from the file that was hashed. One that is not as it was made is
removed and said, and counts as absent: the caller makes it again. The caller sees to it that one process at a time
writes (`pipeline.base.filelock`).
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
    """A file of the cache that was hashed, and is as it was made."""

    path: Path
    sha256: Digest
    size: int
    seen: tuple[int, ...]
    """What the system said of the very file that was hashed."""

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file that was hashed, to read from its start. Raises StoreError if it is another now, or changes meanwhile."""
        with _as_store_error(self.path), open_regular(self.path, follow=False) as stream:
            self._check(stream)
            yield stream
            self._check(stream)

    def _check(self, stream: BinaryIO) -> None:
        if _seen(stream) != self.seen:
            raise StoreError(f"{self.path}: was changed while it was used", hint="run the same command again: it is made anew")


class RecordedCache:
    """The files below `folder`. `report` takes one line for the user about each that is not as it was made."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.folder = folder
        self._report = report

    def place(self, name: str) -> Path:
        """Where the file of this name is, or would be."""
        return self.folder / name

    def find(self, name: str) -> Recorded | None:
        """The file of this name, hashed now; None if it is to be made (again). Raises StoreError."""
        path = self.place(name)
        if not os.path.lexists(path):
            return None
        wanted = _read_record(path)
        if wanted is None:  # killed before it was recorded, or of an older factory
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
        self._report(f"{path}: was changed since it was made ({what}); it is not used, and made again")
        self.remove(name)
        return None

    def keep(self, name: str, made: Path) -> None:
        """Move a finished file into its place, and record what it holds. Raises StoreError."""
        path = self.place(name)
        with _as_store_error(path):
            with made.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                size = os.fstat(stream.fileno()).st_size
            self.remove(name)
            made.replace(path)
            # After the file: without a record it counts as absent, whenever this ends.
            part = _record_of(path).with_name(f".{path.name}.{os.getpid()}")
            part.write_bytes(canonical_json({"sha256": digest, "size": size}))
            part.replace(_record_of(path))

    def mark_used(self, name: str) -> None:
        """Note that a file is used now, for those who remove the ones that were not for long. Raises StoreError."""
        with _as_store_error(self.place(name)):
            os.utime(_record_of(self.place(name)))

    def last_used(self, name: str) -> int:
        """When that was, in nanoseconds; 0 if nobody knows."""
        try:
            return _record_of(self.place(name)).lstat().st_mtime_ns
        except OSError:
            return 0

    def remove(self, name: str) -> None:
        """Remove a file and its record; what else lies in the file's place goes, too. Raises StoreError."""
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
    """What any change of a file also changes."""
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
