# SPDX-License-Identifier: Apache-2.0
"""Open files that must be regular: a pipe in their place cannot hang us, and a device is not touched.

Errors are OSErrors with a text, as for a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_KINDS: Final = (
    (stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "device"),
    (stat.S_ISBLK, "device"), (stat.S_ISLNK, "link"),
)  # fmt: skip


def open_regular(path: Path | str, *, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading. Raises OSError if it is not regular; without `follow` also if it is a link."""
    # Check before, since opening some devices has an effect; and after, since it may have been replaced.
    _check(Path(path).stat(follow_symlinks=follow), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        _check(os.fstat(handle), path)
        os.set_blocking(handle, True)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path | str, *, most: int = 64 << 20) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises OSError."""
    with open_regular(path) as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes, too many for such a file", os.fspath(path))
    return data


def _check(info: os.stat_result, path: Path | str) -> None:
    if not stat.S_ISREG(info.st_mode):
        kind = next((name for test, name in _KINDS if test(info.st_mode)), "thing")
        number = errno.EISDIR if kind == "folder" else errno.EINVAL
        raise OSError(number, f"is a {kind}, not a regular file", os.fspath(path))
