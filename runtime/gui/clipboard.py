# SPDX-License-Identifier: Apache-2.0
"""The clipboard of an application's display: texts, to and from the thin client, as long as its window has the keyboard.

The host is told that there is a text, and gets it when its application asks for it. A text of the host is fetched when an
application there copies one. Both have limits, and the viewer says by `open` whether anything may pass.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tower.gui import x11
from tower.gui.x11 import Packet, Server

MOST_OUT: Final = 200_000
"""The largest text for the host, in bytes: it fits into one X request."""
MOST_IN: Final = 1_000_000
_REQUEST, _NOTIFY, _PROPERTY = 30, 31, 28
_CREATE_WINDOW, _SET_OWNER, _CONVERT, _QUERY_EXTENSION = 1, 22, 24, 98
_PLACE: Final = "TOWER_CLIPBOARD"
_TEXTS: Final = ("UTF8_STRING", "text/plain;charset=utf-8")


@dataclass(slots=True)
class Clipboard:
    """One end of the clipboard. Only the manager's thread uses it, apart from `open`."""

    server: Server
    take: Callable[[str], None]
    """Called with each text that the host's applications copy."""
    open: bool = False
    """Whether texts may pass now."""
    _window: int = 0
    _event: int = 0
    _offered: bytes = b""
    _parts: bytearray | None = None

    def begin(self) -> None:
        """Watch who owns the clipboard. Without the X extension for that, there is no clipboard."""
        server = self.server
        name = b"XFIXES"
        found = server.ask(_QUERY_EXTENSION, 0, "HH", len(name), 0, data=name)
        if found is None or not found.data[8]:
            return
        fixes, self._event = found.data[9], found.data[10]
        server.ask(fixes, 0, "II", 5, 0)
        self._window = server.base + 1
        values = (self._window, server.root, 0, 0, 1, 1, 0, 2, 0, 1 << 11, 1 << 22)
        server.send(_CREATE_WINDOW, 0, "IIhhHHHHIII", *values)
        server.send(fixes, 2, "III", self._window, server.atom("CLIPBOARD"), 1)

    def offer(self, text: str) -> None:
        """Offer a text of the thin client to the host's applications, unless it is too long."""
        data = text.encode(errors="replace")
        if self._window and 0 < len(data) <= MOST_OUT:
            self._offered = data
            self.server.send(_SET_OWNER, 0, "III", self._window, self.server.atom("CLIPBOARD"), 0)

    def event(self, packet: Packet) -> None:
        """Handle an event if it is about the clipboard."""
        if not self._window:
            return
        if packet.kind == self._event:
            owner = packet.numbers("I", 8)[0]
            if owner not in (0, self._window) and self.open:
                self._parts = None
                atoms = (self.server.atom("CLIPBOARD"), self.server.atom(_TEXTS[0]), self.server.atom(_PLACE))
                self.server.send(_CONVERT, 0, "IIIII", self._window, *atoms, 0)
        elif packet.kind == _NOTIFY and packet.numbers("I", 8)[0] == self._window:
            self._fetch()
        elif packet.kind == _PROPERTY and packet.numbers("I", 4)[0] == self._window:
            # New values of it are the parts of a long text; state 1 is that it was deleted.
            if packet.data[16] == 0 and packet.numbers("I", 8)[0] == self.server.atom(_PLACE) and self._parts is not None:
                self._fetch()
        elif packet.kind == _REQUEST:
            self._serve(packet)

    def _fetch(self) -> None:
        """Read a text or a part of one, and delete the property, which asks for the next part."""
        server = self.server
        numbers = (self._window, server.atom(_PLACE), 0, 0, MOST_IN // 4)
        found = server.ask(x11.GET_PROPERTY, 1, "IIIII", *numbers)
        if found is None or found.numbers("I", 12)[0]:
            self._parts = None  # it is too long: there is more than what was asked for
            return
        if found.numbers("I", 8)[0] == server.atom("INCR"):
            self._parts = bytearray()
            return
        data = found.data[32:][: found.numbers("I", 16)[0]] if found.data[1] == 8 else b""
        if self._parts is not None:
            self._parts += data
            if data and len(self._parts) <= MOST_IN:
                return
            data, self._parts = bytes(self._parts), None
        if self.open and 0 < len(data) <= MOST_IN:
            self.take(data.decode(errors="replace").replace("\0", ""))

    def _serve(self, packet: Packet) -> None:
        """Send an application the offered text, or a refusal."""
        server = self.server
        at, _, asker, selection, target, place = packet.numbers("6I", 4)
        texts = [server.atom(name) for name in _TEXTS]
        if target == server.atom("TARGETS"):
            head = (asker, place or target, server.atom("ATOM"), 32, 0, 0, 0, 1 + len(texts))
            server.send(x11.CHANGE_PROPERTY, 0, f"IIIBBBBI{1 + len(texts)}I", *head, target, *texts)
        elif target in texts and self.open:
            head = (asker, place or target, target, 8, 0, 0, 0, len(self._offered))
            server.send(x11.CHANGE_PROPERTY, 0, "IIIBBBBI", *head, data=self._offered)
        else:
            server.send(x11.SEND_EVENT, 0, "II", asker, 0, data=_answer(at, asker, selection, target, 0))
            return
        event = _answer(at, asker, selection, target, place or target)
        server.send(x11.SEND_EVENT, 0, "II", asker, 0, data=event)


def _answer(*numbers: int) -> bytes:
    """Return an event with time, requesting window, selection, target and property (0: none)."""
    return struct.pack("<BxHIIIII8x", _NOTIFY, 0, *numbers)
