# SPDX-License-Identifier: Apache-2.0
"""The clipboard of a Wayland desktop, by the protocol for clipboard managers, which needs no window and no keyboard.

Two versions of it are alike: wlroots' `zwlr_data_control_manager_v1` and the common `ext_data_control_manager_v1`. The desktop
is this machine's own, and trusted; its programs may be slow, so that nothing here waits for them.
"""

from __future__ import annotations

import array
import os
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.clipboard.content import MOST, Content, Kind
from tower.display.relay import OddError

_MANAGERS: Final = ("ext_data_control_manager_v1", "zwlr_data_control_manager_v1")
NAMES: Final = {
    Kind.TEXT: ("text/plain;charset=utf-8", "text/plain;charset=UTF-8", "UTF8_STRING", "text/plain"),
    Kind.HTML: ("text/html",),
    Kind.PNG: ("image/png",),
}
"""The names that programs have for the kinds, the best first."""
_DISPLAY, _REGISTRY, _CALLBACK, _SEAT, _MANAGER, _DEVICE = 1, 2, 3, 4, 5, 6
_SYNC, _GET_REGISTRY = 0, 1
_CREATE_SOURCE, _GET_DEVICE = 0, 1
_SECONDS: Final = 10.0
_IDLE: Final = 5.0
_CHUNK: Final = 1 << 16
_MOST_PIPES: Final = 64
_MOST_NAMES: Final = 1000


@dataclass(slots=True)
class _Pipe:
    """A content on its way from another program (`done` is called), or to one."""

    handle: int
    heard: float
    done: Callable[[bytes | None, str], None] | None = None
    data: bytearray = field(default_factory=bytearray)


class Clipboard:
    """The clipboard of the desktop. One thread uses it, whose selector it gets."""

    def __init__(self, selector: selectors.BaseSelector, changed: Callable[[tuple[Kind, ...]], None]) -> None:
        """Open the desktop's socket. Raises OSError, OddError if it has no clipboard for us."""
        self._selector, self._changed = selector, changed
        self._socket = socket.socket(socket.AF_UNIX)
        self._held, self._handles = bytearray(), list[int]()
        self._globals: dict[bytes, int] = {}
        self._offers: dict[int, list[str]] = {}
        self._current, self._source = 0, 0
        self._last = _DEVICE
        self._synced = False
        self._unanswered = set[int]()
        """What the desktop answers when it has done what `own` asked for; until then, its news may be older than that."""
        self._content: Content = {}
        self._mark = f"application/x-tower-{secrets.token_hex(8)}"
        self._pipes: dict[int, _Pipe] = {}
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.connect(os.fspath(_path()))
            self._begin()
        except BaseException:
            self._socket.close()
            raise
        selector.register(self._socket, selectors.EVENT_READ, self._receive)

    def _begin(self) -> None:
        self._send(_DISPLAY, _GET_REGISTRY, struct.pack("=I", _REGISTRY))
        self._send(_DISPLAY, _SYNC, struct.pack("=I", _CALLBACK))
        while not self._synced:
            self._receive()
        manager = next((name for name in _MANAGERS if name.encode() in self._globals), "")
        if not manager or b"wl_seat" not in self._globals:
            raise OddError("this desktop has no protocol for clipboard managers")
        for name, number in (("wl_seat", _SEAT), (manager, _MANAGER)):
            body = struct.pack("=I", self._globals[name.encode()]) + _text(name) + struct.pack("=II", 1, number)
            self._send(_REGISTRY, 0, body)
        self._send(_MANAGER, _GET_DEVICE, struct.pack("=II", _DEVICE, _SEAT))

    # What the broker does.

    def own(self, content: Content) -> None:
        """Own the clipboard with a content; without one, give it up."""
        old, self._source = self._source, 0
        self._content = content
        if content:
            self._last += 1
            self._source = self._last
            self._send(_MANAGER, _CREATE_SOURCE, struct.pack("=I", self._source))
            more = ("text/plain", "TEXT", "STRING") if Kind.TEXT in content else ()
            for name in (*(name for kind in content for name in NAMES[kind]), *more, self._mark):
                self._send(self._source, 0, _text(name))
        # Without a content, only what is ours is given up.
        if content or self._mark in self._offers.get(self._current, []):
            self._send(_DEVICE, 0, struct.pack("=I", self._source))
            self._last += 1
            self._unanswered.add(self._last)
            self._send(_DISPLAY, _SYNC, struct.pack("=I", self._last))
        if old:
            self._send(old, 1, b"")

    def fetch(self, kind: Kind, done: Callable[[bytes | None, str], None]) -> None:
        """Ask the owner for a content; `done` gets it, or None and why there is none."""
        names = self._offers.get(self._current, [])
        name = next((name for name in NAMES[kind] if name in names), "")
        if not name or len(self._pipes) >= _MOST_PIPES:
            done(None, "refused")
            return
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(writing, True)
            self._send(self._current, 0, _text(name), writing)
        finally:
            os.close(writing)
        self._watch(_Pipe(reading, time.monotonic(), done), selectors.EVENT_READ)

    @property
    def busy(self) -> bool:
        """Whether `tick` must be called in a while."""
        return bool(self._pipes)

    def tick(self) -> None:
        """Give up what takes too long."""
        for one in [one for one in self._pipes.values() if time.monotonic() - one.heard > _IDLE]:
            self._end(one, None, "silent")

    # Contents.

    def _watch(self, one: _Pipe, what: int) -> None:
        self._pipes[one.handle] = one
        self._selector.register(one.handle, what, lambda: self._move(one))

    def _move(self, one: _Pipe) -> None:
        one.heard = time.monotonic()
        try:
            if one.done is None:
                del one.data[: os.write(one.handle, one.data[:_CHUNK])]
                if not one.data:
                    self._end(one, b"")
                return
            data = os.read(one.handle, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._end(one, None, "refused")
            return
        one.data += data
        if len(one.data) > MOST:
            self._end(one, None, "too large")
        elif not data:
            self._end(one, bytes(one.data))

    def _end(self, one: _Pipe, data: bytes | None, problem: str = "") -> None:
        del self._pipes[one.handle]
        self._selector.unregister(one.handle)
        os.close(one.handle)
        if one.done is not None:
            one.done(data, problem)

    # Messages.

    def _send(self, number: int, code: int, body: bytes, handle: int | None = None) -> None:
        more = [] if handle is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [handle]))]
        data = struct.pack("=II", number, 8 + len(body) << 16 | code) + body
        sent = self._socket.sendmsg([data], more)
        self._socket.sendall(data[sent:])

    def _receive(self) -> None:
        """Read what is there. Raises OddError, OSError if the desktop is gone."""
        data, handles, _, _ = socket.recv_fds(self._socket, _CHUNK, 28)
        self._handles += handles
        if not data:
            raise OddError("the desktop is gone")
        self._held += data
        while len(self._held) >= 8:
            number, word = struct.unpack_from("=II", self._held)
            size, code = word >> 16, word & 0xFFFF
            if size < 8:
                raise OddError("the desktop sends an invalid message")
            if len(self._held) < size:
                return
            body = bytes(self._held[8:size])
            del self._held[:size]
            self._message(number, code, body)

    def _message(self, number: int, code: int, body: bytes) -> None:
        if number == _DISPLAY and code == 0:
            raise OddError("the desktop refuses what we ask for")
        if number == _REGISTRY and code == 0:
            self._globals.setdefault(_text_in(body, 4), struct.unpack_from("=I", body)[0])
        elif number == _CALLBACK:
            self._synced = True
        elif number == _DEVICE and code == 0:
            self._offers[struct.unpack("=I", body)[0]] = []
        elif number == _DEVICE and code == 1:
            self._selected(struct.unpack("=I", body)[0])
        elif number == _DEVICE and code == 3:
            self._drop(struct.unpack("=I", body)[0])  # what is selected by the mouse alone
        elif number == _DEVICE and code == 2:
            raise OddError("the desktop ends the clipboard")
        elif number in self._offers and code == 0:
            if len(self._offers[number]) < _MOST_NAMES:
                self._offers[number].append(_text_in(body, 0).decode(errors="replace"))
        elif number in self._unanswered:
            self._unanswered.discard(number)
            self._tell()
        elif _DEVICE < number <= self._last and code == 0:
            self._give(number, _text_in(body, 0).decode(errors="replace"))
        elif number == self._source and code == 1:
            # Another program owns it. News of another owner alone may be older than what we asked for.
            self._send(number, 1, b"")
            self._source, self._content = 0, {}

    def _selected(self, number: int) -> None:
        for old in [one for one in self._offers if one != number]:
            self._drop(old)
        self._current = number
        self._tell()

    def _tell(self) -> None:
        """Tell of what another program has copied, if that is what the clipboard has now."""
        names = self._offers.get(self._current, [])
        if not self._unanswered and self._mark not in names:
            self._changed(tuple(kind for kind, known in NAMES.items() if any(name in names for name in known)))

    def _drop(self, offer: int) -> None:
        if self._offers.pop(offer, None) is not None:
            self._send(offer, 1, b"")

    def _give(self, number: int, name: str) -> None:
        """Give a program what it asked for, through the pipe that came with its question."""
        if not self._handles:
            return
        handle = self._handles.pop(0)
        kind = next((kind for kind, names in NAMES.items() if name in names), Kind.TEXT)
        data = self._content.get(kind, b"") if number == self._source else b""
        if not data or len(self._pipes) >= _MOST_PIPES:
            os.close(handle)
            return
        os.set_blocking(handle, False)
        self._watch(_Pipe(handle, time.monotonic(), data=bytearray(data)), selectors.EVENT_WRITE)

    def close(self) -> None:
        """Give the clipboard up."""
        with suppress(OSError):
            self.own({})
        for handle in [*self._pipes, *self._handles]:
            with suppress(KeyError):
                self._selector.unregister(handle)
            os.close(handle)
        self._socket.close()


def _path() -> Path:
    """Return the path of the desktop's socket. Raises OddError if there is none."""
    name, folder = os.environ.get("WAYLAND_DISPLAY", ""), os.environ.get("XDG_RUNTIME_DIR", "")
    if not name or not (folder or name.startswith("/")):
        raise OddError("there is no Wayland desktop")
    return Path(folder) / name


def _text(text: str) -> bytes:
    """Return a text as messages have it: its length, itself with a NUL, and padding."""
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


def _text_in(body: bytes, place: int) -> bytes:
    """Return the text at a place of a message. Raises OddError."""
    try:
        (length,) = struct.unpack_from("=I", body, place)
    except struct.error:
        raise OddError("the desktop sends an invalid message") from None
    return body[place + 4 : place + 4 + length].rstrip(b"\0")
