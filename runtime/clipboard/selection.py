# SPDX-License-Identifier: Apache-2.0
"""The clipboard of an X server: what its programs copy, and what they are given to paste.

It speaks ICCCM's selections, so that texts are UTF-8 and pictures stay pictures. RFB's cut texts would be Latin-1; the extension
of them that is not needs both a server and a viewer's library that know it, and gtk-vnc (1.3) does not. The host's X server is
reached anyway, for its windows, and nothing has to run on the host.

Nothing here waits for another program: what is asked for is handed on when it comes, or None when it does not.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from tower.clipboard.content import MOST, Kind
from tower.display import x11
from tower.display.x11 import Packet, Server

_REQUEST, _NOTIFY, _PROPERTY = 30, 31, 28
_CREATE_WINDOW, _DELETE_PROPERTY, _SET_OWNER, _GET_OWNER, _CONVERT = 1, 19, 22, 23, 24
NAMES: Final = {
    Kind.TEXT: ("UTF8_STRING", "text/plain;charset=utf-8", "text/plain;charset=UTF-8"),
    Kind.HTML: ("text/html",),
    Kind.PNG: ("image/png",),
}
"""The names that X programs have for the kinds, the best first."""
_LATIN: Final = "STRING"
_PIECE: Final = 200_000
"""Bytes that fit into one request of X."""
_READ: Final = 1 << 20
_PLACES: Final = 1024
"""Properties for answers, in turn: a late answer to one of the last questions is not taken for that to the present one."""
_IDLE: Final = 5.0
"""Seconds until the next part of a content must have come."""
_LONGEST: Final = 30.0
"""Seconds for a whole one."""
_MOST_ASKED: Final = 64
_MOST_TARGETS: Final = 1000
TOO_LARGE: Final = "too large"
CHANGED: Final = "changed"


@dataclass(slots=True)
class _Job:
    """A content that was asked for."""

    target: str
    done: Callable[[bytes | None, str], None]
    place: int = 0
    begun: float = 0.0
    heard: float = 0.0
    parts: bytearray | None = None


@dataclass(slots=True)
class _Sending:
    """A content that is given to a program in parts."""

    kind: int
    data: bytes
    sent: int
    heard: float


@dataclass(slots=True)
class Selection:
    """The clipboard of one X server. One thread uses it."""

    server: Server
    changed: Callable[[bool], None]
    """Called when another program owns the clipboard, or (with False) nobody does."""
    wanted: Callable[[int, Kind], None]
    """Called when a program asks for what we own; answer with `give`."""
    _window: int = 0
    _event: int = 0
    _kinds: tuple[Kind, ...] = ()
    _since: int | None = None
    """Since when we own the clipboard, in the server's time; None if we do not, or the server has not said so yet."""
    _jobs: deque[_Job] = field(default_factory=deque)
    _count: int = 0
    _asked: dict[int, tuple[int, int, int, int, int]] = field(default_factory=dict)
    _sending: dict[tuple[int, int], _Sending] = field(default_factory=dict)

    def begin(self) -> None:
        """Watch who owns the clipboard. Without the X extension for that, there is no clipboard."""
        server = self.server
        found = server.extension(b"XFIXES")
        if found is None:
            return
        fixes, self._event = found
        server.ask(fixes, 0, "II", 5, 0)
        self._window = server.base + 1
        values = (self._window, server.root, 0, 0, 1, 1, 0, 2, 0, 1 << 11, 1 << 22)
        server.send(_CREATE_WINDOW, 0, "IIhhHHHHIII", *values)
        server.send(fixes, 2, "III", self._window, server.atom("CLIPBOARD"), 1)

    def has_owner(self) -> bool:
        """Return whether a program owns the clipboard now."""
        found = self.server.ask(_GET_OWNER, 0, "I", self.server.atom("CLIPBOARD"))
        return found is not None and found.numbers("I", 8)[0] != 0

    # What we own.

    def own(self, kinds: Collection[Kind]) -> None:
        """Own the clipboard, with these kinds; none: give it up."""
        if not self._window:
            return
        self._kinds = tuple(kinds)
        if kinds:
            self._since = None
            self.stop()
            self.server.send(_SET_OWNER, 0, "III", self._window, self.server.atom("CLIPBOARD"), 0)
        elif self._since is not None:
            # If a program has become the owner later than we, the server ignores this.
            self.server.send(_SET_OWNER, 0, "III", 0, self.server.atom("CLIPBOARD"), self._since)
            self._since = None

    def give(self, token: int, data: bytes | None) -> None:
        """Answer a program that asked; None: it gets nothing."""
        found = self._asked.pop(token, None)
        if found is None:
            return
        at, asker, selection, target, place = found
        if data is None:
            self._answer(at, asker, selection, target, 0)
            return
        if len(data) <= _PIECE:
            self._put(asker, place, target, data)
        else:
            # We want to hear when it has read a part; the manager wants to hear of other things about its windows.
            self.server.send(x11.CHANGE_ATTRIBUTES, 0, "III", asker, 1 << 11, 1 << 4 | 1 << 22)
            head = (asker, place, self.server.atom("INCR"), 32, 0, 0, 0, 1)
            self.server.send(x11.CHANGE_PROPERTY, 0, "IIIBBBBII", *head, len(data))
            self._sending[asker, place] = _Sending(target, data, 0, time.monotonic())
        self._answer(at, asker, selection, target, place)

    def _put(self, asker: int, place: int, target: int, data: bytes) -> None:
        head = (asker, place, target, 8, 0, 0, 0, len(data))
        self.server.send(x11.CHANGE_PROPERTY, 0, "IIIBBBBI", *head, data=data)

    def _answer(self, *numbers: int) -> None:
        """Tell a program where its answer is: time, its window, selection, target and property (0: nowhere)."""
        event = struct.pack("<BxHIIIII8x", _NOTIFY, 0, *numbers)
        self.server.send(x11.SEND_EVENT, 0, "II", numbers[1], 0, data=event)

    def _serve(self, packet: Packet) -> None:
        server = self.server
        at, _, asker, selection, target, place = packet.numbers("6I", 4)
        place = place or target
        if self._kinds and selection == server.atom("CLIPBOARD"):
            if target == server.atom("TARGETS"):
                atoms = [server.atom(name) for kind in self._kinds for name in NAMES[kind]]
                head = (asker, place, server.atom("ATOM"), 32, 0, 0, 0, 1 + len(atoms))
                server.send(x11.CHANGE_PROPERTY, 0, f"IIIBBBBI{1 + len(atoms)}I", *head, target, *atoms)
                self._answer(at, asker, selection, target, place)
                return
            kind = next((kind for kind in self._kinds if target in [server.atom(name) for name in NAMES[kind]]), None)
            if kind is not None and len(self._asked) + len(self._sending) < _MOST_ASKED:
                self._count += 1
                self._asked[self._count] = (at, asker, selection, target, place)
                self.wanted(self._count, kind)
                return
        self._answer(at, asker, selection, target, 0)

    def _continue(self, asker: int, place: int, one: _Sending) -> None:
        """Send the next part; an empty one is the end."""
        part = one.data[one.sent : one.sent + _PIECE]
        one.sent, one.heard = one.sent + len(part), time.monotonic()
        self._put(asker, place, one.kind, part)
        if not part:
            del self._sending[asker, place]

    # What others own.

    def targets(self, done: Callable[[dict[Kind, str]], None]) -> None:
        """Ask the owner which kinds it has, and under which names. If another program becomes the owner, nothing is answered."""

        def read(data: bytes | None, problem: str) -> None:
            if problem == CHANGED:
                return
            atoms = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])[:_MOST_TARGETS] if data else ()
            found = {kind: name for kind, names in NAMES.items() for name in reversed(names) if self.server.atom(name) in atoms}
            if Kind.TEXT not in found and self.server.atom(_LATIN) in atoms:
                found[Kind.TEXT] = _LATIN
            done(found)

        self.fetch("TARGETS", read)

    def fetch(self, target: str, done: Callable[[bytes | None, str], None]) -> None:
        """Ask the owner for a content by one of its names; `done` gets it, or None and why there is none."""
        job = _Job(target, done)
        self._jobs.append(job)
        if self._jobs[0] is job:
            self._start()

    def stop(self) -> None:
        """Want nothing of what was asked for any more."""
        self._jobs.clear()

    def _start(self) -> None:
        if not self._jobs:
            return
        job, server = self._jobs[0], self.server
        self._count += 1
        # A late answer to an earlier question comes to another place.
        job.place = server.atom(f"TOWER_CLIPBOARD_{self._count % _PLACES}")
        job.begun = job.heard = time.monotonic()
        server.send(_CONVERT, 0, "IIIII", self._window, server.atom("CLIPBOARD"), server.atom(job.target), job.place, 0)

    def _finish(self, data: bytes | None, problem: str = "") -> None:
        job = self._jobs.popleft()
        if data is not None and job.target == _LATIN:
            data = data.decode("latin-1").encode()
        self._start()
        job.done(data, problem)

    def _come(self, place: int, target: int | None = None) -> None:
        """Read what came to a place, as an answer to a question for `target`; None: as a part of a long one."""
        job = self._jobs[0] if self._jobs else None
        if job is not None and target not in (None, self.server.atom(job.target)):
            return  # a late answer
        if job is None or place != job.place:
            if place:
                self.server.send(_DELETE_PROPERTY, 0, "II", self._window, place)
            elif job is not None:
                self._finish(None, "refused")
            return
        found = self._read(place, MOST - len(job.parts or b""))
        if found is None:
            self._finish(None, TOO_LARGE)
            return
        kind, data = found
        job.heard = time.monotonic()
        if kind == self.server.atom("INCR") and job.parts is None:
            job.parts = bytearray()
        elif job.parts is None:
            self._finish(data)
        elif data:
            job.parts += data
        else:
            self._finish(bytes(job.parts))

    def _read(self, place: int, most: int) -> tuple[int, bytes] | None:
        """Return type and bytes of a property, and delete it; None if it has more than `most`."""
        server, data = self.server, bytearray()
        while True:
            found = server.ask(x11.GET_PROPERTY, 1, "IIIII", self._window, place, 0, len(data) // 4, _READ // 4)
            if found is None:
                return 0, b""
            kind, after, count = found.numbers("III", 8)
            part = found.data[32:][: count * found.data[1] // 8]
            data += part
            if not after or not part:
                return (kind, bytes(data)) if len(data) <= most else None
            if len(data) + after > most:
                server.send(_DELETE_PROPERTY, 0, "II", self._window, place)
                return None

    # Events.

    def event(self, packet: Packet) -> None:
        """Handle an event if it is about the clipboard."""
        if not self._window:
            return
        if packet.kind == self._event:
            owner = packet.numbers("I", 8)[0]
            self._since = packet.numbers("I", 20)[0] if owner == self._window else None
            if owner == self._window:
                if not self._kinds:
                    self.own(())
            else:
                jobs, self._jobs = self._jobs, deque()
                for job in jobs:
                    job.done(None, CHANGED)
                self.changed(owner != 0)
        elif packet.kind == _NOTIFY and packet.numbers("I", 8)[0] == self._window:
            self._come(packet.numbers("I", 20)[0], packet.numbers("I", 16)[0])
        elif packet.kind == _PROPERTY:
            window, place = packet.numbers("II", 4)
            gone = packet.data[16] == 1
            if window == self._window and not gone and self._jobs and self._jobs[0].parts is not None:
                # The next part of a long content; other places are read when their answer comes.
                if place == self._jobs[0].place:
                    self._come(place)
            elif gone and (one := self._sending.get((window, place))) is not None:
                self._continue(window, place, one)
        elif packet.kind == _REQUEST:
            self._serve(packet)

    @property
    def busy(self) -> bool:
        """Whether `tick` must be called in a while."""
        return bool(self._jobs or self._sending)

    def tick(self) -> None:
        """Give up what takes too long."""
        now = time.monotonic()
        if self._jobs and (now - self._jobs[0].heard > _IDLE or now - self._jobs[0].begun > _LONGEST):
            self._finish(None, "silent")
        for key in [key for key, one in self._sending.items() if now - one.heard > _IDLE]:
            del self._sending[key]
