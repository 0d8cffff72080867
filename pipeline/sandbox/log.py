# SPDX-License-Identifier: Apache-2.0
"""Carries what a stage writes from its container into the log, as it comes, and remembers the last lines.

Attached before the container starts, so nothing is missed; the engine itself keeps no log. A stage that writes without
end fills no disk: what is more than a log may have is left out, but for the end of it, and the log says so.
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
    """A context in which the output of a container goes to `log`, the first `most` bytes of it and the last lines."""

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

    @property
    def left_out(self) -> int:
        """How many bytes of the output are not in the log, once it has ended."""
        return max(self._total - self._most - _KEPT, 0)

    def _read(self) -> None:
        from docker.utils.socket import frames_iter

        with suppress(OSError):  # an engine that went away; whoever asks it next says so
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
