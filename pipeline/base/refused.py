# SPDX-License-Identifier: Apache-2.0
"""Turn errors of the system into errors of ours: which file, why, and what to do about it.

Imports next to nothing, because the short commands of `pipeline.apk` use it, too.
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
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ETXTBSY: "it is a program that is running",
    errno.EBUSY: "something else uses it",
}
_DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def refused(error: OSError, where: str = "", *, hint: str = "") -> FactoryError:
    """Return the error about `where`, or about the file that the system names; `hint` is used if the number has none.

    A StoreError if the disk or the permissions are to blame.
    """
    where = where or _named(error)
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    kind = StoreError if error.errno in _DISK else FactoryError
    return kind(f"{where}: {what}" if where else str(what), hint=_HINTS.get(error.errno or 0, hint))


def expected(error: BaseException) -> FactoryError | None:
    """Return our error for one of the system, for undecodable text or for lack of memory; None for a bug."""
    if isinstance(error, FactoryError):
        return error
    if isinstance(error, OSError):
        return refused(error)
    if isinstance(error, UnicodeError):
        return FactoryError(f"a name or a text is not UTF-8: {error}")
    if isinstance(error, MemoryError):
        return FactoryError("this machine has no memory left", hint="see what uses it: free, top")
    # pathlib raises it for ELOOP, and for a user without a home.
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return FactoryError(f"{error}", hint=_HINTS[errno.ELOOP])
    if isinstance(error, RuntimeError) and str(error).startswith("Could not determine home"):
        return FactoryError("this user has no home folder", hint="set HOME to a folder that you own")
    return None


def _named(error: OSError) -> str:
    names = (error.filename, error.filename2)
    return " -> ".join(os.fsdecode(name) for name in names if isinstance(name, (str, bytes, os.PathLike)))
