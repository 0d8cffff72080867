# SPDX-License-Identifier: Apache-2.0
"""How long to wait for a server: it must keep sending, and not just a byte now and then.

The time limit of a socket begins again with every byte, so a server that trickles (on purpose, or over a bad line)
could hold us as long as it likes, in its headers as well as in a file. A watch counts the bytes of each span of time,
and ends the connection if there are too few.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

SPAN: Final = 60.0
"""Seconds."""
LEAST: Final = 30 << 10
"""The bytes that must come in a span: what the slowest usable line delivers."""
_LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """How many bytes must come in how many seconds."""

    span: float = SPAN
    least: int = LEAST

    def __str__(self) -> str:
        return f"less than {self.least} bytes in {self.span:.0f} s"


class Watch:
    """Watches one answer of a server, from the request to its end (a context manager).

    `late` is true once it has ended the connection; it calls `stop` regularly, and ends the connection if that returns true.
    """

    def __init__(self, patience: Patience, stop: Callable[[], bool] = lambda: False) -> None:
        self.patience = patience
        self.late = False
        self._stop = stop
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None
        self._came = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self._let_go()

    def attach(self, connection: socket.socket | None) -> None:
        """Watch this connection from now on: the answer comes through it."""
        with self._guard:
            self._let_go()
            if connection is not None and connection.fileno() >= 0:
                # A descriptor of our own: the user closes the other one, and the system reuses its number.
                self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def answered(self) -> None:
        """Note that the headers have come: the server is alive."""
        self.came(self.patience.least)

    def came(self, amount: int) -> None:
        """Note that so many bytes have come."""
        self._came += amount

    def _look(self) -> None:
        began, before = time.monotonic(), self._came
        while not self._over.wait(min(_LOOK, self.patience.span)):
            if self._stop():
                self._end()
                return
            if time.monotonic() - began >= self.patience.span:
                if self._came - before < self.patience.least:
                    self.late = True
                    self._end()
                    return
                began, before = time.monotonic(), self._came

    def _end(self) -> None:
        with self._guard:
            if self._socket is not None:
                with suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
