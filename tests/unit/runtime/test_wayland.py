# SPDX-License-Identifier: Apache-2.0
"""News of a Wayland desktop's clipboard that were sent before it had read what we asked for."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tower.clipboard.content import Kind
from tower.clipboard.wayland import Clipboard

DISPLAY, REGISTRY, CALLBACK, DEVICE = 1, 2, 3, 6
OFFER = 0xFF000000
"""The first object that is the desktop's."""


def text(word: str) -> bytes:
    data = word.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


@dataclass
class Desktop:
    """The desktop's end: it says what a test wants, when the test wants it."""

    line: socket.socket
    offers: int = 0
    held: bytearray = field(default_factory=bytearray)

    def say(self, number: int, code: int, body: bytes = b"") -> None:
        self.line.sendall(struct.pack("=II", number, 8 + len(body) << 16 | code) + body)

    def greet(self) -> None:
        for name, what in enumerate(("wl_seat", "ext_data_control_manager_v1")):
            self.say(REGISTRY, 0, struct.pack("=I", name) + text(what) + struct.pack("=I", 1))
        self.say(CALLBACK, 0, struct.pack("=I", 0))

    def selects(self, *names: str) -> None:
        """Tell that somebody has copied something of these kinds; without any, that the clipboard is empty."""
        number = OFFER + self.offers if names else 0
        if names:
            self.offers += 1
            self.say(DEVICE, 0, struct.pack("=I", number))
            for name in names:
                self.say(number, 0, text(name))
        self.say(DEVICE, 1, struct.pack("=I", number))

    def heard(self) -> list[tuple[int, int, bytes]]:
        """What was asked since the last time: object, request, content."""
        self.held += self.line.recv(1 << 16)
        found = []
        while len(self.held) >= 8:
            number, word = struct.unpack_from("=II", self.held)
            found.append((number, word & 0xFFFF, bytes(self.held[8 : word >> 16])))
            del self.held[: word >> 16]
        return found


@dataclass
class Both:
    desktop: Desktop
    clipboard: Clipboard
    changes: list[tuple[Kind, ...]]
    selector: selectors.BaseSelector

    def read(self) -> None:
        """Let the clipboard read all that the desktop has said."""
        while ready := self.selector.select(0.05):
            for key, _ in ready:
                key.data()

    def owned(self) -> tuple[list[str], int]:
        """Own a text; the names that the desktop gets for it, and the number that it answers to when it has done that."""
        self.clipboard.own({Kind.TEXT: b"of a host"})
        asked = self.desktop.heard()
        names = [body[4:].split(b"\0")[0].decode() for number, code, body in asked if number > DEVICE and code == 0 and body]
        (number,) = [struct.unpack("=I", body)[0] for to, code, body in asked if (to, code) == (DISPLAY, 0)]
        return names, number


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Both]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-9")
    changes: list[tuple[Kind, ...]] = []
    with socket.socket(socket.AF_UNIX) as door, selectors.DefaultSelector() as selector:
        door.bind(str(tmp_path / "wayland-9"))
        door.listen()
        found: list[Desktop] = []

        def accept() -> None:
            found.append(Desktop(door.accept()[0]))
            found[0].greet()

        thread = threading.Thread(target=accept)
        thread.start()
        clipboard = Clipboard(selector, changes.append)
        thread.join()
        found[0].heard()
        yield Both(found[0], clipboard, changes, selector)
        clipboard.close()
        found[0].line.close()


def test_news_from_before_a_host_copied_do_not_replace_what_it_copied(both: Both) -> None:
    names, number = both.owned()
    both.desktop.selects("text/html")
    both.desktop.selects()
    both.read()
    assert both.changes == []
    both.desktop.selects(*names)
    both.desktop.say(number, 0, struct.pack("=I", 0))
    both.read()
    assert both.changes == []
    both.desktop.selects("text/html")
    both.read()
    assert both.changes == [(Kind.HTML,)]


def test_what_was_copied_after_a_host_copied_counts(both: Both) -> None:
    names, number = both.owned()
    both.desktop.selects(*names)
    both.desktop.selects("image/png")
    both.desktop.say(number, 0, struct.pack("=I", 0))
    both.read()
    assert both.changes == [(Kind.PNG,)]


def test_an_emptied_clipboard_is_told_once_and_a_copy_at_once_stays(both: Both) -> None:
    names, first = both.owned()
    both.desktop.selects(*names)
    both.desktop.say(first, 0, struct.pack("=I", 0))
    both.read()
    both.clipboard.own({})
    (second,) = [struct.unpack("=I", body)[0] for to, code, body in both.desktop.heard() if (to, code) == (DISPLAY, 0)]
    names, third = both.owned()
    both.desktop.selects()
    both.desktop.say(second, 0, struct.pack("=I", 0))
    both.desktop.selects(*names)
    both.desktop.say(third, 0, struct.pack("=I", 0))
    both.read()
    assert both.changes == []
