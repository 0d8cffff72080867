# SPDX-License-Identifier: Apache-2.0
"""Files of the factory's own: written so that they are whole or not there, brought to the disk, removed."""

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
    """Write a file so that it is whole or not there."""
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
    """Whether a real folder is there: what links lead to is not the store's."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove whatever is there, as far as it lets itself be removed."""
    if is_folder(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Write a file into a folder that is there, whole or not at all. Raises OSError."""
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
    """Bring a file, or the names in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(root: Path) -> None:
    """Bring a folder and everything in it to the disk."""
    for folder, _, files in os.walk(root, topdown=False):
        for name in files:
            sync(Path(folder) / name)
        sync(Path(folder))


def is_full(error: OSError) -> bool:
    """Whether a disk, or the user's share of it, has no room left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(root: Path, error: OSError) -> StoreError:
    """The error for a disk without room at `root`: how much is free, and what to do."""
    free = "unknown"
    with suppress(OSError):
        usage = shutil.disk_usage(root)
        free = f"{usage.free:,} of {usage.total:,} bytes free".replace(",", " ")
    return StoreError(
        f"{root}: {error.strerror or 'disk full'} ({free}); nothing that was finished is lost",
        hint="make room (doit gc removes old artifacts), then run the same command again",
    )
