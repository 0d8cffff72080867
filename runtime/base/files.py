# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent: written beside their place, synced, renamed. Only their owner may read them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from tower.base.errors import StateError, TowerError
from tower.base.refused import home_folder, in_our_words, refused
from tower.base.regular import open_regular

_WRITABLE = "you must be able to write to it"
_MISSING = (FileNotFoundError, NotADirectoryError)


def look(path: Path, kind: type[TowerError] = StateError) -> os.stat_result | None:
    """Return the status of a path; None if nothing is there. Raises an error of `kind` if it may not be read, or is no path."""
    try:
        return path.stat()
    except _MISSING:
        return None
    except OSError as error:
        raise refused(error, path, kind=kind) from error


def is_file(path: Path, kind: type[TowerError] = StateError) -> bool:
    """Tell whether a path is a file, or a link to one. Raises as `look` does."""
    found = look(path, kind)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Path, kind: type[TowerError] = StateError) -> bool:
    """Tell whether a path is a folder, or a link to one. Raises as `look` does."""
    found = look(path, kind)
    return found is not None and stat.S_ISDIR(found.st_mode)


def give(handle: int, path: Path) -> None:
    """Give the open file at `path`, which root made, to its proper owner, so that `sudo tower` leaves no files of root.

    In a home that is the owner of the home, elsewhere that of the folder. Raises OSError.
    """
    if os.geteuid() != 0:
        return
    home = home_folder()
    about = (home if path.absolute().is_relative_to(home) else path.parent).stat()
    if about.st_uid != 0:
        os.fchown(handle, about.st_uid, about.st_gid)


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` to `path`, unless the file holds it already. Raises StateError."""
    try:
        if path.is_file() and path.read_bytes() == data:
            path.chmod(mode)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as out:
                os.fchmod(out.fileno(), mode)
                give(out.fileno(), path)
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
        raise refused(error, path, hint=_WRITABLE) from error


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a new folder with all of `files`, or none, which only its owner may enter. Raises StateError."""
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            os.close(_give_folder(temporary))
            for name, data in files.items():
                write_file(temporary / name, data)
            temporary.rename(folder)
        except BaseException:
            remove_folder(temporary)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        raise refused(error, folder, hint=_WRITABLE) from error


def remove_folder(folder: Path) -> None:
    """Remove a folder of plain files; one that is gone is fine. Raises StateError if a part of it stays."""
    import shutil

    with in_our_words(hint=_WRITABLE), suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _drop(folder: Path) -> None:
    """Remove as much of a scratch folder as possible; the next run removes the rest."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _give_folder(folder: Path) -> int:
    """Make and open a new folder, and give it to its proper owner. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give(handle, folder)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def own_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a new folder that nobody else may enter, removed at the end; a lock on it says that it is in use.

    First it removes folders of the same kind that killed processes left. Raises OSError.
    """
    _sweep(parent, prefix)
    folder, handle = _locked_folder(parent, prefix)
    try:
        yield folder
    finally:
        _drop(folder)
        os.close(handle)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Before it is locked, another `tower` may remove it: then make another one.
        with suppress(FileNotFoundError):
            handle = _give_folder(folder)
            flock(handle, LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove our folders whose `tower` has ended."""
    for folder in parent.glob(f"{prefix}????????"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(handle).st_uid == os.geteuid():
                flock(handle, LOCK_EX | LOCK_NB)
                _drop(folder)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)


def read_file(path: Path, *, most: int = 1 << 20) -> bytes:
    """Return the content of a small regular file. Raises StateError."""
    try:
        with open_regular(path) as stream:
            data = stream.read(most + 1)
    except OSError as error:
        raise refused(error, path) from error
    if len(data) > most:
        raise StateError(f"{path}: more than {most} bytes, too many for such a file")
    return data


def make_folder(folder: Path) -> None:
    """Make a folder for its owner alone, with its parents; an existing folder is closed to others. Raises StateError."""
    with in_our_words(folder, hint="it must be a folder that you own"):
        make_folders(folder, 0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)


def make_folders(folder: Path, mode: int = 0o777) -> None:
    """Make a folder with its parents, each for its proper owner; existing ones stay as they are. Raises OSError."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folders(folder.parent)
    try:
        folder.mkdir(mode=mode)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        os.close(_give_folder(folder))


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, *, busy: str = "") -> Iterator[None]:
    """Hold a lock that ends with this process, even if it is killed.

    With `busy`, another holder is an error with that text; otherwise wait for it. Raises StateError.
    """
    with in_our_words(path, hint=_WRITABLE):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with in_our_words(path):
            give(handle, path)
        try:
            flock(handle, LOCK_EX | (LOCK_NB if busy else 0))
        except BlockingIOError:
            raise StateError(busy, hint="wait for it to end") from None
        yield
    finally:
        os.close(handle)
