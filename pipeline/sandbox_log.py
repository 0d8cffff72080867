# SPDX-License-Identifier: Apache-2.0
"""Carries what a stage writes from its container into the log, as it comes, and remembers the last lines.

Attached before the container starts, so nothing is missed; the engine itself keeps no log.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.container import Container

_KEPT = 1 << 16


class LogReader:
    """A context in which the output of a container goes to `log`."""

    def __init__(self, container: Container, log: BinaryIO) -> None:
        self._log = log
        self._last = b""
        self._error: OSError | None = None
        self._socket: Any = container.attach(stdout=1, stderr=1)
        self._thread = threading.Thread(target=self._read, name="stage-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Wakes the thread if the container still runs (the build was told to stop).
        with suppress(OSError, AttributeError), socket.socket(fileno=os.dup(self._socket.fileno())) as other:
            other.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        with suppress(OSError):
            self._socket.close()

    def ended(self, seconds: float) -> bool:
        """Whether the output has ended, waiting up to `seconds` for it. Raises OSError if the log cannot be written."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def tail(self, lines: int) -> tuple[str, ...]:
        """The last lines of the output."""
        return tuple(self._last.decode(errors="replace").splitlines()[-lines:])

    def _read(self) -> None:
        from docker.utils.socket import frames_iter

        with suppress(OSError):  # an engine that went away; whoever asks it next says so
            for _, piece in frames_iter(self._socket, tty=False):  # type: ignore[no-untyped-call]
                self._last = (self._last + piece)[-_KEPT:]
                self._write(piece)

    def _write(self, piece: bytes) -> None:
        if self._error is None:
            try:
                self._log.write(piece)
                self._log.flush()
            except OSError as error:
                self._error = error
