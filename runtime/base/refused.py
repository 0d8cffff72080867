# SPDX-License-Identifier: Apache-2.0
"""Turn errors of the system into errors of ours: which file, why, and what to do about it.

The usual cause is that an earlier `sudo tower` left files of root in the user's home.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tower.base.errors import StateError, ToolError, TowerError, ValueRefusedError

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
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ETXTBSY: "it is a program that is running",
    errno.EBUSY: "something else uses it",
    errno.EBADF: "it is closed, or not open for writing",
}


def ours(error: Exception) -> TowerError:
    """Return our error for one that no module handled: an error of the system, undecodable text, an incomplete installation."""
    match error:
        case TowerError():
            return error
        case BrokenPipeError():
            raise error  # a reader that went away is handled by `tower.cli.main`
        case OSError():
            return refused(error)
        case UnicodeError():
            return ValueRefusedError(f"the input is not text: {error}", hint="give it in UTF-8")
        case MemoryError():
            return StateError("there is no memory left", hint="see what uses it: free; and `ulimit -v`")
        case ImportError():
            return ToolError(f"a part of tower cannot be loaded: {error}", hint="install it again, whole")
    raise error


OURS: Final = (OSError, UnicodeError, MemoryError, ImportError)
"""The exceptions that `ours` translates."""


def refused(error: OSError, path: Path | str | None = None, *, kind: type[TowerError] = StateError, hint: str = "") -> TowerError:
    """Return the error of `kind` about `path`, or about the file that the system names; `hint` is used if errno has none."""
    where = os.fspath(path) if path is not None else _named(error)
    if not where and error.errno == errno.ENOENT:
        where = "the current folder"  # the only path without a name; the folder was removed
    what = error.strerror or (os.strerror(error.errno) if error.errno else str(error) or type(error).__name__)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = (_barrier(Path(where)) if where else "") or hint
    elif what == os.strerror(error.errno or 0):  # the system's own words are enough
        hint = _HINTS.get(error.errno or 0, hint)
    return kind(f"{where}: {what}" if where else what, hint=hint)


@contextmanager
def in_our_words(path: Path | str | None = None, *, kind: type[TowerError] = StateError, hint: str = "") -> Iterator[None]:
    """Raise what `refused` makes of an OSError, except for a reader that went away: `tower.cli.main` handles that."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refused(error, path, kind=kind, hint=hint) from error


def asked_by() -> str:
    """Return the user who became root by doas or sudo to run this; empty if nobody did."""
    if os.geteuid() != 0:
        return ""
    found = os.environ.get("DOAS_USER") or os.environ.get("SUDO_USER") or ""
    return "" if found == "root" else found


def home_folder() -> Path:
    """Return the user's home folder. Raises StateError if there is none."""
    try:
        return Path.home().absolute()
    except RuntimeError:
        raise StateError("this user has no home folder", hint="set HOME to a folder that you own") from None


def _named(error: OSError) -> str:
    """Return the file that an error of the system is about; empty if it names none."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    return " -> ".join(names)


def _barrier(path: Path) -> str:
    """Return which part of the way to `path` keeps us out, and how to change that; empty if unknown."""
    own = os.geteuid()
    try:
        home, path = home_folder(), path.absolute()
        for step in (*reversed(path.parents), path):
            about = os.lstat(step)
            if own not in (0, about.st_uid) and step.is_relative_to(home):
                return (
                    f"{step} belongs to {_user(about.st_uid)}, as after a `sudo tower`;"
                    f" take it back: {_root_by()} chown -R {_user(own)} {shlex.quote(os.fspath(step))}"
                )
            inside = os.X_OK if stat.S_ISDIR(about.st_mode) and step != path else os.R_OK | os.W_OK
            if not stat.S_ISLNK(about.st_mode) and not os.access(step, inside, effective_ids=True):
                return f"{step} is {_user(about.st_uid)}'s, mode {stat.S_IMODE(about.st_mode):04o}"
    except (TowerError, OSError):
        pass
    return ""


def _root_by() -> str:
    return "doas" if any(os.access(f"{folder}/doas", os.X_OK) for folder in ("/usr/bin", "/bin")) else "sudo"


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
