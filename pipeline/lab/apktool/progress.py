# SPDX-License-Identifier: Apache-2.0
"""How far a change of a root is, for the descriptor of --progress-fd: a line `done/total` in bytes of packages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import BinaryIO, cast

from pipeline.lab.apktool.changes import Change

_STEP = 64 << 10


class Progress:
    """Counts what is read of packages; with descriptor 0 it tells nobody, as apk has it."""

    def __init__(self, descriptor: int, changes: Sequence[Change]) -> None:
        self._descriptor = descriptor
        self._total = sum(map(_size, changes))
        self._finished = self._done = 0
        self._told = -1

    def reading(self, stream: BinaryIO) -> BinaryIO:
        """A package's stream that counts what is read of it."""
        return cast("BinaryIO", _Counted(stream, self)) if self._descriptor else stream

    def add(self, count: int) -> None:
        """So many more bytes of the package at hand were read."""
        self._done = min(self._done + count, self._total)
        if self._done - self._told >= _STEP:
            self._tell()

    def finish(self, change: Change) -> None:
        """A change is done, however much of it had to be read."""
        self._finished += _size(change)
        self._done = self._finished
        self._tell()

    def _tell(self) -> None:
        if self._descriptor and self._done != self._told:
            self._told = self._done
            try:
                os.write(self._descriptor, b"%d/%d\n" % (self._done, self._total))
            except OSError:  # nobody reads it any more: no reason to stop
                self._descriptor = 0


class _Counted:
    def __init__(self, stream: BinaryIO, progress: Progress) -> None:
        self._stream = stream
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._progress.add(len(data))
        return data

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _size(change: Change) -> int:
    return change.new.size if change.new is not None else 0
