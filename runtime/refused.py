# SPDX-License-Identifier: Apache-2.0
"""What the system refuses, as an error of ours: which file, why, and how to mend it.

Most of it is one thing: `sudo tower` of an earlier day left files of root in the user's home.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tower.errors import StateError, TowerError

_HINTS: Final = {
    errno.ENOSPC: "make room: df -h",
    errno.EDQUOT: "make room: your quota on this file system is used up",
    errno.EFBIG: "a file may not become that large: see `ulimit -f`, and which file system it is on (FAT takes 4 GiB)",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENAMETOOLONG: "a file's name may have 255 bytes, a path 4095",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "too many files are open: see `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "this machine has no memory left: free",
    errno.EAGAIN: "try again; see `ulimit -u`",
    errno.EIO: "the disk may be failing: dmesg",
    errno.ENOTDIR: "a part of the path is a file, and no folder",
    errno.EISDIR: "it is a folder, and no file",
    errno.ETXTBSY: "it is a program that is running",
    errno.EBUSY: "something else uses it",
}


def refused(error: OSError, path: Path | str | None = None, *, kind: type[TowerError] = StateError, hint: str = "") -> TowerError:
    """The error of `kind` about `path`, or about the file that the system names; `hint` where errno tells nothing better."""
    where = os.fspath(path) if path is not None else _named(error)
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = _foreign(Path(where)) if where else hint
        hint = hint or "you may not do that there: see who may, with ls -ld"
    return kind(f"{where}: {what}" if where else what, hint=_HINTS.get(error.errno or 0, hint))


@contextmanager
def in_our_words(path: Path | str | None = None, *, kind: type[TowerError] = StateError, hint: str = "") -> Iterator[None]:
    """Raise what `refused` makes of an OSError; that nobody reads what we write is for `tower.cli`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refused(error, path, kind=kind, hint=hint) from error


def _named(error: OSError) -> str:
    """The file that an error of the system is about; empty if it names none."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    return " -> ".join(names)


def _foreign(path: Path) -> str:
    """How to get back what belongs to somebody else on the way from the home to `path`; empty if that is not the reason."""
    home, own = Path.home(), os.geteuid()
    path = path.absolute()
    if own == 0 or not path.is_relative_to(home):
        return ""
    steps = [home, *(home.joinpath(*path.relative_to(home).parts[:count]) for count in range(1, len(path.parts)))]
    for step in dict.fromkeys(steps):
        try:
            found = os.lstat(step)
        except OSError:
            return ""
        if found.st_uid != own:
            tool = "doas" if any(os.access(f"{folder}/doas", os.X_OK) for folder in ("/usr/bin", "/bin")) else "sudo"
            return (
                f"{step} belongs to {_user(found.st_uid)}, as after a `sudo tower`;"
                f" take it back: {tool} chown -R {_user(own)} {step}"
            )
    return ""


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
