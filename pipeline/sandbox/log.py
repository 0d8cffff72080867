# SPDX-License-Identifier: Apache-2.0
"""Copy a stage's output from its container into the log, as it comes, and remember the last lines.

The reader attaches before the container starts, so nothing is missed; the engine itself keeps no log. Endless output
cannot fill the disk: a log has a maximum size, what exceeds it is left out except for its end, and the log says so.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, Self

from pipeline.sandbox.container import Container

_KEPT = 1 << 16


class LogReader:
    """A context in which the output of a container goes to `log`: its first `most` bytes and the last lines."""

    def __init__(self, container: Container, log: BinaryIO, most: int) -> None:
        self._log = log
        self._most = most
        self._total = 0
        self._last = b""
        self._error: OSError | None = None
        self._socket: Any = container.attach(stdout=1, stderr=1)
        self._thread = threading.Thread(target=self._read, name="stage-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # This wakes the thread if the container still runs (the build was told to stop).
        with suppress(OSError, AttributeError), socket.socket(fileno=os.dup(self._socket.fileno())) as other:
            other.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        with suppress(OSError):
            self._socket.close()

    def ended(self, seconds: float) -> bool:
        """Wait up to `seconds`; tell whether the output has ended. Raises OSError if the log cannot be written."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        return not self._thread.is_alive()

    def tail(self, lines: int) -> tuple[str, ...]:
        """Return the last lines of the output."""
        return tuple(self._last.decode(errors="replace").splitlines()[-lines:])

    @property
    def left_out(self) -> int:
        """Return how many bytes of the output are not in the log, once it has ended."""
        return max(self._total - self._most - _KEPT, 0)

    def _read(self) -> None:
        from docker.utils.socket import frames_iter

        with suppress(OSError):  # the engine went away; the next request will report it
            for _, piece in frames_iter(self._socket, tty=False):  # type: ignore[no-untyped-call]
                self._last = (self._last + piece)[-_KEPT:]
                room = max(self._most - self._total, 0)
                self._total += len(piece)
                self._write(piece[:room])
        over = self._total - self._most
        if self.left_out:
            text = f"\n--- {self.left_out} bytes are left out here: a log has {self._most} bytes, and the last lines ---\n"
            self._write(text.encode())
        if over > 0:
            self._write(self._last[-over:])

    def _write(self, piece: bytes) -> None:
        if piece and self._error is None:
            try:
                self._log.write(piece)
                self._log.flush()
            except OSError as error:
                self._error = error
