# SPDX-License-Identifier: Apache-2.0
"""The factory's own files: written whole or not at all, synced, removed."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

from pipeline.base.errors import StoreError


def write_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all. Raises StoreError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}", hint="make room or look at the permissions") from error
    finally:
        temporary.unlink(missing_ok=True)


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder, and not a link to one: a link's target does not belong to the store."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove whatever is there, as far as possible."""
    if is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a file into an existing folder, whole or not at all. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            if lasting:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    """Sync a folder and everything in it to the disk."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            sync(Path(folder) / name)
        sync(Path(folder))


def is_full(error: OSError) -> bool:
    """Tell whether a disk, or the user's quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(root: Path, error: OSError) -> StoreError:
    """Return the error for a full disk at `root`: how much is free, and what to do."""
    free = "unknown"
    with suppress(OSError):
        usage = shutil.disk_usage(root)
        free = f"{usage.free:,} of {usage.total:,} bytes free".replace(",", " ")
    return StoreError(
        f"{root}: {error.strerror or 'disk full'} ({free}); nothing that was finished is lost",
        hint="free some space (doit gc removes old artifacts), then run the same command again",
    )
