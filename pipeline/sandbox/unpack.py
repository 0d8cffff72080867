# SPDX-License-Identifier: Apache-2.0
"""Unpack the stream of `transfer` into a folder of this machine, as an engine does with a stream that it is sent.

An engine takes 200 MB/s, over a socket and with a process of its own. Names, modes and times come out the same here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import SandboxError
from pipeline.formats.tarstream import read_tar
from pipeline.sandbox.receive import PieceReader

if TYPE_CHECKING:
    from pipeline.formats.tarstream import Content

_CHUNK = 1 << 16


def unpack(pieces: Iterator[bytes], folder: Path, *, epoch: int) -> None:
    """Write the entries of a stream of `send` into `folder`, which is empty and nobody else's.

    Everything gets the owner of this process; `epoch` is the time of `folder` itself. `send` guarantees that no name leads
    out of the folder or through a link. Raises OSError, and what `pieces` raises.
    """
    folders = [(folder, 0o755, epoch)]
    for entry, content in read_tar(PieceReader(pieces, None), str(folder)):
        path = folder / entry.name
        if entry.kind == "dir":
            path.mkdir(exist_ok=True)  # the stream may name the folder itself
            folders.append((path, entry.mode, entry.mtime))
        elif entry.kind == "symlink":
            path.symlink_to(entry.target)
            os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
        elif entry.kind == "file":
            _write(path, content, entry.mode, entry.mtime)
        else:
            raise SandboxError(f"{entry.name}: an input is a file, a folder or a symbolic link, and not a {entry.kind}")
    for path, mode, time in reversed(folders):  # the time of a folder changes with its content
        path.chmod(mode)
        os.utime(path, (time, time))


def _write(path: Path, content: Content, mode: int, time: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as out:  # noqa: PTH123  (a descriptor, opened with O_EXCL and O_NOFOLLOW)
        while piece := content.read(_CHUNK):
            out.write(piece)
        out.flush()  # before the time is set
        os.fchmod(fd, mode)
        os.utime(fd, (time, time))
