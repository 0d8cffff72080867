# SPDX-License-Identifier: Apache-2.0
"""How long a server is waited for: it must keep sending, and not a byte now and then.

The time limit of a socket begins anew with every byte, so a server that drips (on purpose, or behind a line that hardly
works) would keep us for as long as it likes, in its headers as well as in a file. A watch looks at what has come in each
span of time, and ends the connection if that is too little.
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
"""Bytes that must come in a span: what the slowest of lines still brings."""
_LOOK: Final = 0.5


@dataclass(frozen=True, slots=True)
class Patience:
    """How much must come in how many seconds."""

    span: float = SPAN
    least: int = LEAST

    def __str__(self) -> str:
        return f"less than {self.least} bytes in {self.span:.0f} s"


class Watch:
    """Watches one answer of a server, from the request to its end (a context).

    `late` is true after it has ended the connection; `stop` is asked now and then, and ends it when it says so.
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
        """The answer comes by this connection from now on."""
        with self._guard:
            self._let_go()
            if connection is not None and connection.fileno() >= 0:
                # A descriptor of our own: the other one is closed by who uses it, and its number used again.
                self._socket = socket.socket(fileno=os.dup(connection.fileno()))

    def answered(self) -> None:
        """The headers are here: the server is alive."""
        self.came(self.patience.least)

    def came(self, amount: int) -> None:
        """So many bytes have come."""
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
