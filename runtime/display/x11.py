# SPDX-License-Identifier: Apache-2.0
"""As much of the X protocol as a window manager needs, on a socket that leads to a host's X server.

The server is the host's, and not trusted: lengths are limited, and a missing or malformed answer ends the connection with an
OddError. Numbers are sent and received with the small end first.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from tower.base.ready import readable
from tower.display.relay import OddError

_MOST: Final = 4 << 20
"""The most bytes that an answer may have."""
_SECONDS: Final = 20.0
"""Seconds to wait for an answer."""
_HEAD: Final = 32
_QUERY_EXTENSION: Final = 98
MOST_VALUE: Final = 1 << 20
"""The most bytes of a property that are requested."""

CHANGE_ATTRIBUTES, GET_ATTRIBUTES, MAP, CONFIGURE, GET_GEOMETRY, QUERY_TREE, INTERN_ATOM = 2, 3, 8, 12, 14, 15, 16
CHANGE_PROPERTY, GET_PROPERTY, SEND_EVENT, SET_FOCUS, KILL_CLIENT = 18, 20, 25, 42, 113
ENTER, UNMAP, DESTROYED, MAP_REQUEST, CONFIGURED, CONFIGURE_REQUEST, PROPERTY, MESSAGE = 7, 18, 17, 20, 22, 23, 28, 33


@dataclass(frozen=True, slots=True)
class Packet:
    """An event, an error (`kind` 0) or an answer (`kind` 1): 32 bytes, and of an answer what follows them."""

    kind: int
    data: bytes

    def numbers(self, form: str, place: int) -> tuple[int, ...]:
        """Unpack numbers with a format of `struct`. Raises OddError if the packet is too short."""
        try:
            return struct.unpack_from(f"<{form}", self.data, place)
        except struct.error:
            raise OddError("X: an answer that is too short") from None


@dataclass(slots=True)
class Server:
    """A connection to an X server; `open_server` makes it."""

    socket: socket.socket
    root: int
    width: int
    height: int
    base: int
    """The first number for windows of our own."""
    events: deque[Packet] = field(default_factory=deque)
    """Events that came while we waited for an answer."""
    _atoms: dict[str, int] = field(default_factory=dict)
    _asked: int = 0

    def send(self, code: int, small: int, form: str, *values: int, data: bytes = b"") -> None:
        """Send a request: its code, its second byte, numbers with a format of `struct`, and data."""
        body = struct.pack(f"<{form}", *values) + data
        body += bytes(-len(body) % 4)
        self.socket.sendall(struct.pack("<BBH", code, small, 1 + len(body) // 4) + body)
        self._asked = self._asked + 1 & 0xFFFF

    def ask(self, code: int, small: int, form: str, *values: int, data: bytes = b"") -> Packet | None:
        """Send a request and return the answer; None if the server refuses it, as for a window that is gone. Raises OddError."""
        self.send(code, small, form, *values, data=data)
        return self._answer(self._asked)

    def _answer(self, asked: int) -> Packet | None:
        """Return the answer to the request of a number; None if the server refused it. Raises OddError."""
        ends = time.monotonic() + _SECONDS
        while True:
            packet = self.read(ends)
            if packet.kind in (0, 1) and packet.numbers("H", 2)[0] == asked:
                return packet if packet.kind == 1 else None
            if packet.kind > 1:
                if len(self.events) > 10_000:
                    raise OddError("X: a flood of events")
                self.events.append(packet)

    def extension(self, name: bytes) -> tuple[int, int] | None:
        """Return an extension's code for requests and the number of its first event; None without it. Raises OddError."""
        found = self.ask(_QUERY_EXTENSION, 0, "HH", len(name), 0, data=name)
        return (found.data[9], found.data[10]) if found is not None and found.data[8] else None

    def read(self, ends: float) -> Packet:
        """Return the next packet. Raises OddError if the server is gone, or silent until a deadline."""
        head = self._exactly(_HEAD, ends)
        kind = head[0] & 0x7F
        more = struct.unpack_from("<I", head, 4)[0] * 4 if kind in (1, 35) else 0
        if more > _MOST:
            raise OddError(f"X: an answer of {more} bytes")
        return Packet(kind, head + self._exactly(more, ends))

    def _exactly(self, count: int, ends: float) -> bytes:
        return _exactly(self.socket, count, ends)

    def atom(self, name: str) -> int:
        """Return the atom of a name."""
        if name not in self._atoms:
            self.know(name)
        return self._atoms[name]

    def know(self, *names: str) -> None:
        """Ask for the atoms of all these names at once, so that `atom` need not ask for one after the other. Raises OddError."""
        asked = []
        for name in names:
            self.send(INTERN_ATOM, 0, "HH", len(name), 0, data=name.encode())
            asked.append(self._asked)
        for name, number in zip(names, asked, strict=True):
            found = self._answer(number)
            self._atoms[name] = found.numbers("I", 8)[0] if found is not None else 0

    def value(self, window: int, name: str) -> bytes:
        """Return the bytes of a window's property; empty if it does not have it."""
        found = self.ask(GET_PROPERTY, 0, "IIIII", window, self.atom(name), 0, 0, MOST_VALUE // 4)
        if found is None:
            return b""
        form, (length,) = found.data[1], found.numbers("I", 16)
        return found.data[_HEAD:][: length * form // 8]

    def words(self, window: int, name: str) -> tuple[int, ...]:
        """Return the 32-bit numbers of a window's property."""
        data = self.value(window, name)
        return struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])

    def set_words(self, window: int, name: str, kind: str, *values: int) -> None:
        """Set a property of a window to 32-bit numbers."""
        count = len(values)
        numbers = (window, self.atom(name), self.atom(kind), 32, 0, 0, 0, count, *values)
        self.send(CHANGE_PROPERTY, 0, f"IIIBBBBI{count}I", *numbers)

    def tell(self, window: int, kind: str, *values: int, mask: int = 0) -> None:
        """Send a window a message."""
        words = (*values, *[0] * (5 - len(values)))
        event = struct.pack("<BBHII5I", MESSAGE, 32, 0, window, self.atom(kind), *words)
        self.send(SEND_EVENT, 0, "II", window, mask, data=event)

    def configure(self, window: int, x: int, y: int, width: int, height: int) -> None:
        """Set place and size of a window, without a border."""
        self.send(CONFIGURE, 0, "IHHiiIII", window, 0b11111, 0, x, y, width, height, 0)

    def raise_window(self, window: int) -> None:
        """Raise a window above all others."""
        self.send(CONFIGURE, 0, "IHHI", window, 1 << 6, 0, 0)


def open_server(made: socket.socket, key: bytes) -> Server:
    """Greet an X server on a connection to it. Raises OSError, OddError."""
    name = b"MIT-MAGIC-COOKIE-1"
    made.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(key)) + name + bytes(2) + key)
    return Server(made, *_greeting(made))


def _greeting(made: socket.socket) -> tuple[int, int, int, int]:
    """Return the root window's number, width and height, and the first number for windows of our own."""
    ends = time.monotonic() + _SECONDS
    head = _exactly(made, 8, ends)
    body = _exactly(made, struct.unpack_from("<H", head, 6)[0] * 4, ends)
    if head[0] != 1:
        raise OddError("X: the server does not let us in")
    try:
        (base,) = struct.unpack_from("<I", body, 4)
        vendor, formats = struct.unpack_from("<H", body, 16)[0], body[21]
        root, width, height = struct.unpack_from("<I16xHH", body, 32 + vendor + -vendor % 4 + 8 * formats)
    except (struct.error, IndexError):
        raise OddError("X: a greeting that is too short") from None
    return root, width, height, base


def _exactly(source: socket.socket, count: int, ends: float) -> bytes:
    found = bytearray()
    while len(found) < count:
        left = ends - time.monotonic()
        if left <= 0 or not readable([source], left):
            raise OddError("X: the server says nothing")
        data = source.recv(count - len(found))
        if not data:
            raise OddError("X: the server has gone")
        found += data
    return bytes(found)


def new_key() -> tuple[bytes, bytes]:
    """Return a new key for a display, and the content of the file with which programs find it."""
    name, key = b"MIT-MAGIC-COOKIE-1", os.urandom(16)
    # For any machine and any display: a family, then each text behind its length, with the large end first.
    return key, b"\xff\xff" + b"".join(struct.pack(">H", len(one)) + one for one in (b"", b"", name, key))


def key_in(text: bytes) -> bytes:
    """Return the key in such a file. Raises OddError if there is none."""
    if len(text) != len(new_key()[1]):
        raise OddError("X: there is no key for the display")
    return text[-16:]
