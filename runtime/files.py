# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there: written beside, synced, renamed. Nobody else may read what is written here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from tower.errors import StateError


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make `path` hold `data`; one that holds it already is not touched. Raises StateError."""
    try:
        if path.is_file() and path.read_bytes() == data:
            path.chmod(mode)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                os.fchmod(out.fileno(), mode)
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}", hint="it must be writable for you") from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder that holds `files`, all of them or none, for its owner alone. Raises StateError."""
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, data in files.items():
                write_file(temporary / name, data)
            temporary.rename(folder)
        except BaseException:
            remove_folder(temporary)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}", hint="it must be writable for you") from error


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files; one that is gone is fine."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder that nobody else may enter, gone at the end; a lock on it says that it is in use.

    What killed ones left of the same kind is swept away first. Raises OSError.
    """
    _sweep(parent, prefix)
    folder, handle = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        remove_folder(folder)
        os.close(handle)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Before it is locked, another of us may sweep it away: then another one.
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flock(handle, LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the folders of ours whose `tower` is gone."""
    for folder in parent.glob(f"{prefix}????????"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                flock(handle, LOCK_EX | LOCK_NB)
                remove_folder(folder)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)


def read_file(path: Path, *, most: int = 1 << 20) -> bytes:
    """A small file. Raises StateError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    if len(data) > most:
        raise StateError(f"{path}: more than {most} bytes, which no such file has")
    return data


def make_folder(folder: Path) -> None:
    """A folder for its owner alone, with its parents; what is there is closed to others."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}", hint="it must be a folder of yours") from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, busy: str = "") -> Iterator[None]:
    """Hold a lock that ends with this process, whatever ends it.

    With `busy`, another holder is an error with that text; otherwise it is waited for.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}", hint="it must be writable for you") from error
    try:
        try:
            flock(handle, LOCK_EX | (LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StateError(busy, hint="wait for it to end") from None
        yield
    finally:
        os.close(handle)
