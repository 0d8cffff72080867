# SPDX-License-Identifier: Apache-2.0
"""The part of a window that carries contents between its application's display and the broker of the clipboard.

A thread of its own reads what the broker says; what it has to do with the display it hands to the manager's thread. The broker is
started when there is none, and again when it is gone.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

from tower.base import proc
from tower.base.errors import TowerError
from tower.base.files import make_folder
from tower.clipboard import messages, policy
from tower.clipboard.content import Kind
from tower.clipboard.selection import CHANGED, TOO_LARGE, Selection

if TYPE_CHECKING:
    import subprocess

_PAUSE: Final = 0.05
_LONGEST: Final = 10.0
_CHUNK: Final = 1 << 18
_CALM: Final = 0.1
"""Seconds from one content of an application to the next."""
_PASSED: Final = ("GDK_BACKEND", "XAUTHORITY", "PYTHONPATH")


class _State(Enum):
    """What is being done about a content that an application copied."""

    IDLE = 0
    TOLD = 1
    """The broker knows, and has not said yet whether it wants it."""
    FETCHING = 2
    """It comes. Selection stops that by itself when there is a newer one."""


class Focus(Protocol):
    """What a window does for the user; called from the courier's thread."""

    def ask(self, number: int, text: str) -> None:
        """Ask the user, and `answer` with this number; 0: take the question back."""

    def say(self, text: str) -> None:
        """Show a message for a while."""


@dataclass(slots=True)
class Courier:
    """The courier of one window. `focus` and `answer` may be called from any thread, `run` needs one of its own."""

    host: str
    online: bool
    window: Focus
    order: Callable[[Callable[[], None]], None]
    """Hands something to the manager's thread."""
    selection: Selection | None = None
    """Set by the manager's thread before anything is ordered."""
    focused: bool = False
    _number: int = 0
    _found: dict[Kind, bytes] = field(default_factory=dict)
    _large: list[str] = field(default_factory=list)
    _state: _State = _State.IDLE
    _dirty: bool = False
    """Whether there was another change since the broker was told."""
    _calm: float = 0.0
    """When the next content may be fetched."""
    _due: float | None = None
    _socket: socket.socket | None = None
    _started: subprocess.Popen[bytes] | None = None
    """The broker, if this window started it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Carry, for ever; without a broker, nothing is carried."""
        pause = _PAUSE
        while True:
            began = time.monotonic()
            with suppress(OSError, TowerError, messages.WireError, KeyError, TypeError, ValueError):
                self._serve(self._connect())
            with self._lock:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
            self.order(self._lost)
            pause = _PAUSE if time.monotonic() - began > _LONGEST else min(2 * pause, _LONGEST)
            time.sleep(pause)

    def _connect(self) -> socket.socket:
        """Connect to the broker, which is started if there is none. Raises OSError, TowerError."""
        folder = policy.folder()
        make_folder(folder)
        ends = time.monotonic() + _LONGEST
        with suppress(OSError):
            return messages.connected(folder)
        env = {name: os.environ[name] for name in _PASSED if name in os.environ}
        # It outlives this window if there are others. One that finds another one at work ends at once.
        started = self._started = proc.detached((sys.executable, "-P", "-m", "tower.clipboard.broker"), env=env)
        while True:
            with suppress(OSError):
                return messages.connected(folder)
            if time.monotonic() > ends or (started.poll() or 0) > 0:
                raise TimeoutError("the broker of the clipboard does not start")
            time.sleep(_PAUSE)

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self._socket = connection
        self._tell(do="window", host=self.host, online=self.online)
        self._tell(do="focus", on=self.focused)
        self.order(self._met)
        held = bytearray()
        while data := connection.recv(_CHUNK):
            held += data
            for words, more in messages.unpacked(held):
                self._message(words, more)

    def _message(self, words: dict[str, Any], data: bytes) -> None:
        what = words["do"]
        if what == "say":
            self.window.say(str(words["text"]))
        elif what == "ask":
            self.window.ask(int(words["number"]), str(words["text"]))
        elif what == "offer":
            kinds, number = [Kind(one) for one in words["kinds"]], int(words["number"])
            self.order(lambda: self._own(number, kinds))
        elif what == "given":
            token, given = int(words["token"]), data if words["ok"] else None
            self.order(lambda: self._give(token, given))
        elif what in ("fetch", "ignore"):
            self.order(self._fetch if what == "fetch" else self._done)

    def focus(self, on: bool) -> None:
        """Tell the broker whether the window has the keyboard."""
        if on != self.focused:
            self.focused = on
            self._tell(do="focus", on=on)

    def answer(self, number: int, yes: bool) -> None:
        """Answer a question of the broker."""
        self._tell(do="answer", number=number, yes=yes)

    def _tell(self, data: bytes = b"", **words: object) -> None:
        with self._lock, suppress(OSError):
            if self._socket is not None:
                self._socket.sendall(messages.packed(data, **words))

    # In the manager's thread.

    def changed(self, somebody: bool) -> None:
        """Handle a new owner of the display's clipboard."""
        if self._state is _State.TOLD:
            self._dirty = somebody
        elif not somebody:
            self._state, self._due = _State.IDLE, None
        elif time.monotonic() < self._calm:
            # An application that copies all the time: not each of its contents crosses, but the last one does.
            self._state, self._due = _State.IDLE, self._calm
        else:
            self._state, self._due, self._dirty = _State.TOLD, None, False
            self._tell(do="changed")

    def wanted(self, token: int, kind: Kind) -> None:
        """Handle an application that asks for what we offered."""
        if self._socket is None and self.selection is not None:
            self.selection.give(token, None)
        self._tell(do="wants", token=token, number=self._number, kind=kind)

    @property
    def busy(self) -> bool:
        """Whether `tick` must be called in a while."""
        return self._due is not None or (self.selection is not None and self.selection.busy)

    def tick(self) -> None:
        """Do what is due, and give up what takes too long."""
        if self._due is not None and time.monotonic() >= self._due:
            self.changed(True)
        if self.selection is not None:
            self.selection.tick()

    def _lost(self) -> None:
        """Take back what the broker offered, and remember what it has not got."""
        self._dirty = self._dirty or self._state is not _State.IDLE
        self._state = _State.IDLE
        if self.selection is not None:
            self.selection.stop()
        self._own(0, [])

    def _met(self) -> None:
        """Tell a new broker of what was copied while there was none."""
        missed = self._dirty or self._state is _State.TOLD
        self._state, self._dirty = _State.IDLE, False
        if missed:
            self.changed(True)

    def _own(self, number: int, kinds: list[Kind]) -> None:
        self._number = number
        if self.selection is not None:
            self.selection.own(kinds)
        if kinds:
            self._state, self._due = _State.IDLE, None

    def _give(self, token: int, data: bytes | None) -> None:
        if self.selection is not None:
            self.selection.give(token, data)

    def _fetch(self) -> None:
        """Fetch all kinds of what was copied, one after the other."""
        if self._state is not _State.TOLD:
            return
        if self._dirty or self.selection is None:
            self._done()
            return
        self._state, self._found, self._large = _State.FETCHING, {}, []
        self.selection.targets(self._next)

    def _next(self, names: dict[Kind, str]) -> None:
        if not names or self.selection is None:
            sizes, data = messages.joined(self._found)
            self._tell(data, do="copied", sizes=sizes, too_large=self._large)
            self._calm = time.monotonic() + _CALM
            self._done()
            return
        kind, name = next(iter(names.items()))
        left = {other: names[other] for other in names if other is not kind}

        def come(data: bytes | None, problem: str) -> None:
            if problem == CHANGED:
                return
            if data:
                self._found[kind] = data
            elif problem == TOO_LARGE:
                self._large.append(kind.value)
            self._next(left)

        self.selection.fetch(name, come)

    def _done(self) -> None:
        """Go on with what was copied meanwhile."""
        self._state = _State.IDLE
        if self._dirty:
            self._dirty = False
            self.changed(True)
