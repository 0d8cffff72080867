# SPDX-License-Identifier: Apache-2.0
"""Finished sets: an image and the files beside it, in a folder that several checkouts may use.

<folder>/<image>{,.bmap,.sha256,.manifest.json}
<folder>/.<image>.published    the owner of the set, its inputs, and the file system's data about its files
<folder>/.<image>.lock         held while the set is changed; exists only then
<folder>/.<image>.new/         files that are not complete yet; exists only meanwhile

At every moment, the files in the folder belong to one set: the files that describe the old image are removed before the
image is replaced, and the manifest comes last. A process that is killed in between leaves a set without a manifest, which
no reader accepts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from tower.base.jsontext import parse_json
from tower.base.regular import open_regular, read_regular

from pipeline.base.canonical import Digest, JsonValue, canonical_json
from pipeline.base.errors import StoreError
from pipeline.base.filelock import locked
from pipeline.store.artifact import FileRecord

ENDINGS = ("", ".bmap", ".sha256", ".manifest.json")
"""The suffixes of an image's name for the files of its set, in the order in which they appear."""

_FICLONE = 0x40049409
"""ioctl of Linux: share the blocks of another file (if the file system can); each side can still change its own."""
_CHUNK = 1 << 16  # larger pieces take twice the time: every one is new memory
_MOST_NOTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Spot:
    """The place of one set: a folder, and the name of the image."""

    folder: Path
    image: str

    @property
    def path(self) -> Path:
        """The image."""
        return self.folder / self.image

    @property
    def note(self) -> Path:
        """The note about the set."""
        return self.folder / f".{self.image}.published"

    @property
    def lock(self) -> Path:
        """The lock for changing the set."""
        return self.folder / f".{self.image}.lock"

    @property
    def work(self) -> Path:
        """The folder of a new set's files until they are complete; on the same file system."""
        return self.folder / f".{self.image}.new"


@dataclass(frozen=True, slots=True)
class NotedFile:
    """A file of a set: its content's record, and the file system's data about it when that was last checked."""

    sha256: Digest
    size: int
    stat: list[JsonValue]


@dataclass(frozen=True, slots=True)
class Note:
    """The owner of a set, and its inputs."""

    checkout: str
    key: Digest
    made_of: Digest
    files: Mapping[str, NotedFile]

    def to_json(self) -> bytes:
        """Return the content of the note's file."""
        rows: dict[str, JsonValue] = {
            name: {"sha256": row.sha256, "size": row.size, "stat": row.stat} for name, row in self.files.items()
        }
        return canonical_json({"checkout": self.checkout, "key": self.key, "made of": self.made_of, "files": rows})


@dataclass(frozen=True, slots=True)
class SetFile:
    """The wanted content of a file of a set: bytes, or a copy of a file."""

    record: FileRecord
    source: bytes | Path


def read_note(spot: Spot) -> Note | None:
    """Return the note of a set; None if there is none, or if it is damaged."""
    try:
        with open_regular(spot.note, follow=False) as stream:
            data: Any = parse_json(stream.read())
        files = {
            str(name): NotedFile(Digest(str(row["sha256"])), int(row["size"]), list(row["stat"]))
            for name, row in data["files"].items()
        }
        if files.keys() != {f"{spot.image}{ending}" for ending in ENDINGS}:
            return None
        return Note(str(data["checkout"]), Digest(str(data["key"])), Digest(str(data["made of"])), files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def owner_of(spot: Spot, checkout: Path) -> str:
    """Return another owner of a complete set there: an existing checkout, or the makers who signed it; "" if there is none."""
    note = read_note(spot)
    if note is None:
        return "its makers, who signed it" if _is_signed(spot) else ""
    if note.checkout == str(checkout) or not _may_exist(Path(note.checkout, "pyproject.toml")):
        return ""
    return note.checkout if all(_has_size(spot.folder / name, row.size) for name, row in note.files.items()) else ""


def _is_signed(spot: Spot) -> bool:
    """Tell whether a signature beside it vouches for an image that is there."""
    from tower.image.minisign import SUFFIX
    from tower.image.verify import SUMS

    sums = spot.folder / SUMS
    try:
        listed = (spot.folder / f"{SUMS}{SUFFIX}").exists() and f"  {spot.image}\n".encode() in read_regular(sums)
    except OSError:
        listed = False
    return spot.path.exists() and (listed or (spot.folder / f"{spot.image}{SUFFIX}").exists())


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # another user's, say
        return True
    return True


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.lstat().st_size == size
    except OSError:
        return False


def damaged_in(spot: Spot, note: Note) -> str:
    """Return the first file of a set that differs from its note; "" if none does."""
    with ExitStack() as stack:
        return next((name for name, row in note.files.items() if _held(spot.folder / name, row, stack) is None), "")


def _held(path: Path, row: NotedFile, stack: ExitStack) -> BufferedReader | None:
    """Return the open file (`stack` closes it) if it matches `row`; it is hashed only if it may have changed."""
    try:
        stream = stack.enter_context(open_regular(path, follow=False))
        before = _fingerprint(stream)
        if before == row.stat:
            return stream
        if before[1] != row.size or hashlib.file_digest(stream, "sha256").hexdigest() != row.sha256:
            return None
        return stream if _fingerprint(stream) == before else None
    except OSError:
        return None


def _there(path: Path, record: FileRecord, known: NotedFile | None, stack: ExitStack) -> BufferedReader | None:
    """Return the open file in its place if it matches `record`; `known` is the note's row for it."""
    if known is None or known.sha256 == record.sha256:
        return _held(path, NotedFile(record.sha256, record.size, known.stat if known else []), stack)
    with ExitStack() as own:
        if _held(path, known, own) is not None:  # certainly a different file: no need to hash it
            return None
    return _held(path, NotedFile(record.sha256, record.size, []), stack)


def _fingerprint(stream: BinaryIO) -> list[JsonValue]:
    """Return data about an open file that changes with any change of the file."""
    info = os.fstat(stream.fileno())
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


# --- changing a set -----------------------------------------------------------------------------------------


@contextmanager
def changing(spot: Spot, *, on_wait: Callable[[], None], check: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the right to change a set, waiting for others; first, the leftovers of a killed process are removed."""
    with locked(spot.lock, on_wait=on_wait, check=check) as lock:
        try:
            yield
        finally:
            lock.remove()


def lay(spot: Spot, contents: Mapping[str, SetFile], *, checkout: Path, key: Digest, made_of: Digest) -> None:
    """Put a complete set in its place; files that are right already stay. Call it inside `changing`.

    `contents` has a file for each of `ENDINGS`. Raises OSError if that fails, and StoreError if a copied file differs
    from its record; until all new files are complete and on the disk, the old set is not touched.
    """
    names = [f"{spot.image}{ending}" for ending in ENDINGS]
    before = read_note(spot)
    with ExitStack() as stack:
        shutil.rmtree(spot.work, ignore_errors=True)
        stack.callback(shutil.rmtree, spot.work, ignore_errors=True)
        files: dict[str, BinaryIO] = {}
        new: list[str] = []
        for name in names:
            record = contents[name].record
            there = _there(spot.folder / name, record, before.files.get(name) if before is not None else None, stack)
            if there is None:
                new.append(name)
            files[name] = there or stack.enter_context(_write(_made(spot.work) / name, contents[name]))
        _switch(spot, new)
        # Use the descriptors that were hashed: another file may have the name by now.
        rows = {
            name: NotedFile(contents[name].record.sha256, contents[name].record.size, _fingerprint(files[name])) for name in names
        }
        note = Note(str(checkout), key, made_of, rows)
        if note != before:
            with (_made(spot.work) / "note").open("xb") as stream:
                stream.write(note.to_json())
                stream.flush()
                os.fsync(stream.fileno())
            (spot.work / "note").replace(spot.note)


def _switch(spot: Spot, new: list[str]) -> None:
    """Rename the complete files in `spot.work`; the files that describe the image are removed before it changes."""
    if not new:
        return
    names = [f"{spot.image}{ending}" for ending in ENDINGS]
    names = names[min(map(names.index, new)) :]
    for name in reversed(names):
        if name not in new:
            # It is right already, but a file before it is not.
            (spot.folder / name).rename(spot.work / name)
        elif name != spot.image:
            (spot.folder / name).unlink(missing_ok=True)
    _sync(spot.folder)
    for name in names:
        (spot.work / name).replace(spot.folder / name)
    _sync(spot.folder)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def remove(spot: Spot) -> None:
    """Remove a set and its note. Call it inside `changing`."""
    shutil.rmtree(spot.work, ignore_errors=True)
    for ending in reversed(ENDINGS):
        (spot.folder / f"{spot.image}{ending}").unlink(missing_ok=True)
    spot.note.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: SetFile) -> BufferedRandom:
    """Write a new file with this content, synced and open; it is hashed while it is written."""
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("xb+"))
        found = _copy(content.source, stream) if isinstance(content.source, Path) else _fill(content.source, stream)
        if found != content.record.sha256:
            raise StoreError(
                f"{path.name}: the copy has sha256 {found[:12]}, expected {content.record.sha256[:12]}",
                hint="run the same command again",
            )
        stream.flush()
        os.fchmod(stream.fileno(), 0o644)
        os.fsync(stream.fileno())
        stack.pop_all()
    return stream


def _fill(data: bytes, out: BinaryIO) -> str:
    out.write(data)
    return hashlib.sha256(data).hexdigest()


def _copy(source: Path, out: BufferedRandom) -> str:
    """Copy a file: share its blocks if the file system can, otherwise keep its holes."""
    with open_regular(source) as stream:
        with suppress(OSError):
            fcntl.ioctl(out.fileno(), _FICLONE, stream.fileno())
            return hashlib.file_digest(out, "sha256").hexdigest()
        digest = hashlib.sha256()
        zeros = bytes(_CHUNK)
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            if chunk == zeros:
                out.seek(len(chunk), os.SEEK_CUR)
            else:
                out.write(chunk)
        out.truncate(stream.tell())
        return digest.hexdigest()
