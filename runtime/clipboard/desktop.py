# SPDX-License-Identifier: Apache-2.0
"""The thin client's own clipboard: that of its Wayland desktop, or of an X server where there is none."""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from tower.base.ready import readable
from tower.clipboard import wayland
from tower.clipboard.content import Content, Kind
from tower.clipboard.selection import Selection
from tower.display.relay import OddError
from tower.display.x11 import open_server

_SECONDS: Final = 5.0


class Desktop(Protocol):
    """The clipboard of a desktop. Nothing of it waits for other programs."""

    def own(self, content: Content) -> None:
        """Own the clipboard with a content; without one, give it up."""

    def fetch(self, kind: Kind, done: Callable[[bytes | None, str], None]) -> None:
        """Ask the owner for a content; `done` gets it, or None and why there is none."""

    @property
    def busy(self) -> bool:
        """Whether `tick` must be called in a while."""

    def tick(self) -> None:
        """Give up what takes too long."""

    def close(self) -> None:
        """Give the clipboard up."""


def open_desktop(selector: selectors.BaseSelector, changed: Callable[[tuple[Kind, ...]], None]) -> Desktop:
    """Open the desktop's clipboard; `changed` is called with the kinds that another program has copied.

    Raises OSError, OddError if there is none for us.
    """
    if os.environ.get("WAYLAND_DISPLAY") and os.environ.get("GDK_BACKEND") != "x11":
        return wayland.Clipboard(selector, changed)
    return XDesktop(selector, changed)


class XDesktop:
    """The clipboard of an X server here."""

    def __init__(self, selector: selectors.BaseSelector, changed: Callable[[tuple[Kind, ...]], None]) -> None:
        """Connect to the server in DISPLAY. Raises OSError, OddError."""
        self._changed = changed
        self._content: Content = {}
        self._names: dict[Kind, str] = {}
        display = os.environ.get("DISPLAY", "")
        host, _, number = display.partition(":")
        number = number.partition(".")[0]
        if host not in ("", "unix") or not number.isascii() or not number.isdigit():
            raise OddError(f"there is no X server of this machine at {display[:40]!r}")
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(f"/tmp/.X11-unix/X{number}")  # noqa: S108  (it is where X servers have it)
            self._server = open_server(connection, _key(number))
            self._selection = Selection(self._server, self._owned, self._wanted)
            self._selection.begin()
        except BaseException:
            connection.close()
            raise
        selector.register(connection, selectors.EVENT_READ, self._readable)
        if self._selection.has_owner():
            self._owned(True)

    def own(self, content: Content) -> None:
        """Own the clipboard with a content; without one, give it up."""
        self._content = content
        self._selection.own(tuple(content))
        self._catch_up()

    def fetch(self, kind: Kind, done: Callable[[bytes | None, str], None]) -> None:
        """Ask the owner for a content; `done` gets it, or None and why there is none."""
        if kind in self._names:
            self._selection.fetch(self._names[kind], done)
            self._catch_up()
        else:
            done(None, "refused")

    @property
    def busy(self) -> bool:
        """Whether `tick` must be called in a while."""
        return self._selection.busy

    def tick(self) -> None:
        """Give up what takes too long."""
        self._selection.tick()
        self._catch_up()

    def close(self) -> None:
        """Give the clipboard up, with the connection."""
        self._server.socket.close()

    def _owned(self, somebody: bool) -> None:
        self._names = {}
        if somebody:
            self._selection.targets(self._named)
        else:
            self._changed(())

    def _named(self, names: dict[Kind, str]) -> None:
        self._names = names
        self._changed(tuple(names))

    def _wanted(self, token: int, kind: Kind) -> None:
        self._selection.give(token, self._content.get(kind))

    def _readable(self) -> None:
        # What another callback asked the server may have taken what was ready to be read.
        if readable([self._server.socket], 0):
            self._selection.event(self._server.read(time.monotonic() + _SECONDS))
        self._catch_up()

    def _catch_up(self) -> None:
        """Handle the events that came while an answer was waited for: the socket will not tell of them again."""
        while self._server.events:
            self._selection.event(self._server.events.popleft())


def _key(number: str) -> bytes:
    """Return the key of a display in the file that programs find it in; zeros if there is none."""
    path = Path(os.environ.get("XAUTHORITY") or Path.home() / ".Xauthority")
    try:
        data = path.read_bytes()[: 1 << 20]
    except OSError:
        return bytes(16)
    place = 2
    while place < len(data):
        fields = []
        for _ in range(4):
            if place + 2 > len(data):
                return bytes(16)
            (length,) = struct.unpack_from(">H", data, place)
            fields.append(data[place + 2 : place + 2 + length])
            place += 2 + length
        place += 2
        if fields[1] in (b"", number.encode()) and fields[2] == b"MIT-MAGIC-COOKIE-1":
            return fields[3]
    return bytes(16)
