# SPDX-License-Identifier: Apache-2.0
"""What the system refuses, as an error of ours: which file, why, and what to do about it.

Imports next to nothing: the short commands of `pipeline.apk` use it, too.
"""

from __future__ import annotations

import errno
import os

from pipeline.base.errors import FactoryError, StoreError

_PERMISSIONS = "look at the permissions, and at the disk"
_HINTS = {
    errno.EACCES: _PERMISSIONS,
    errno.EPERM: _PERMISSIONS,
    errno.EROFS: "the file system is mounted read-only",
    errno.EIO: "the disk may be failing: dmesg",
    errno.ENOSPC: "make room: df -h",
    errno.EDQUOT: "make room: your quota on this file system is used up",
    errno.EFBIG: "a file may not become that large: see `ulimit -f`, and which file system it is on (FAT takes 4 GiB)",
    errno.ENAMETOOLONG: "a file's name may have 255 bytes, a path 4095",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "too many files are open: see `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "this machine has no memory left: free",
    errno.EAGAIN: "try again; see `ulimit -u`",
    errno.ENOTDIR: "a part of the path is a file, and no folder",
    errno.EISDIR: "it is a folder, and no file",
    errno.ETXTBSY: "it is a program that is running",
    errno.EBUSY: "something else uses it",
}
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refused(error: OSError, where: str = "", *, hint: str = "") -> FactoryError:
    """The error about `where`, or about the file that the system names; `hint` where the number tells nothing better.

    StoreError where it is the disk's fault, or that of permissions.
    """
    where = where or _named(error)
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    kind = StoreError if error.errno in _DISK else FactoryError
    return kind(f"{where}: {what}" if where else str(what), hint=_HINTS.get(error.errno or 0, hint))


def expected(error: BaseException) -> FactoryError | None:
    """The error of ours for one of the system, of a text that is none, or of memory; None for a mistake in the code."""
    if isinstance(error, FactoryError):
        return error
    if isinstance(error, OSError):
        return refused(error)
    if isinstance(error, UnicodeError):
        return FactoryError(f"a name or a text is not UTF-8: {error}")
    if isinstance(error, MemoryError):
        return FactoryError("this machine has no memory left", hint="see what uses it: free, top")
    # What pathlib makes of ELOOP, and of a user without a home.
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return FactoryError(f"{error}", hint=_HINTS[errno.ELOOP])
    if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home"):
        return FactoryError("whoever runs this has no home", hint="set HOME to a folder of yours")
    return None


def _named(error: OSError) -> str:
    names = (error.filename, error.filename2)
    return " -> ".join(os.fsdecode(name) for name in names if isinstance(name, (str, bytes, os.PathLike)))
