# SPDX-License-Identifier: Apache-2.0
"""The broker of the clipboard, one on the thin client: `python3 -m tower.clipboard.broker`.

The first window starts it, and it ends with the last one. Windows tell it when their application copies something, when it asks
for something, and when they have the keyboard; it alone uses the thin client's clipboard, decides by the policy, and writes the
log.

    window -> broker   window, focus, changed, copied, wants, answer
    broker -> window   fetch, ignore, offer, given, ask, say
    tower clipboard -> broker   send, clear, state;   and one answer
"""

from __future__ import annotations

import selectors
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tower.base.errors import StateError, TowerError
from tower.base.files import locked, make_folder
from tower.clipboard import messages, policy
from tower.clipboard.content import Kind
from tower.clipboard.desktop import Desktop, open_desktop
from tower.clipboard.exchange import Exchange
from tower.clipboard.messages import WireError
from tower.clipboard.peer import PasteRequest, Peer, give, tell
from tower.display.relay import OddError

_HELD: Final = 64 << 20
"""The most bytes that wait for a window that does not read."""
_FIRST: Final = 10.0
"""Seconds to wait for the first window."""
_TICK: Final = 0.5
_CHUNK: Final = 1 << 18


@dataclass(slots=True)
class _Peer:
    """A connection of a window, or of `tower clipboard`."""

    socket: socket.socket
    held: bytearray = field(default_factory=bytearray)
    out: bytearray = field(default_factory=bytearray)
    peer: Peer | None = None
    ends: bool = False
    """Whether it is closed when all is written."""


class Broker:
    """The sockets; `Exchange` has what is decided."""

    def __init__(self, folder: Path) -> None:
        """Listen. Raises OSError, OddError if there is no clipboard here."""
        self.folder = folder
        self.selector = selectors.DefaultSelector()
        self.lines: dict[socket.socket, _Peer] = {}
        self.exchange = Exchange(folder)
        self.desktop: Desktop = open_desktop(self.selector, self.exchange.copied_here)
        self.exchange.desktop = self.desktop
        self.door = messages.listener(folder)
        self.selector.register(self.door, selectors.EVENT_READ, self._enter)
        self.began = time.monotonic()
        self.alone = False
        """Whether the window that started us is gone."""
        with suppress(OSError):  # from a shell, it may be a file
            self.selector.register(0, selectors.EVENT_READ, self._alone)

    def run(self) -> None:
        """Serve until the last window is gone. Raises OddError, OSError if the desktop is gone."""
        had = False
        while True:
            had = had or bool(self.exchange.peers)
            if not self.exchange.peers and (had or self.alone or time.monotonic() - self.began > _FIRST):
                return
            for key, events in self.selector.select(_TICK):
                if key.fileobj in self.lines:
                    self._serve(self.lines[key.fileobj], events)
                elif key.fd in self.selector.get_map():
                    key.data()
            self.desktop.tick()
            self.exchange.tick()

    def _alone(self) -> None:
        self.alone = True
        self.selector.unregister(0)

    def _enter(self) -> None:
        connection, _ = self.door.accept()
        connection.setblocking(False)
        line = self.lines[connection] = _Peer(connection)
        self.selector.register(connection, selectors.EVENT_READ, line)

    def _serve(self, line: _Peer, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write(line)
            if events & selectors.EVENT_READ:
                data = line.socket.recv(_CHUNK)
                line.held += data
                for words, more in messages.unpacked(line.held):
                    self._message(line, words, more)
                if not data:
                    raise WireError("gone")  # noqa: TRY301  (there is one way out)
        except BlockingIOError:
            pass
        except (WireError, OSError, KeyError, TypeError, ValueError):
            self._leave(line)

    def _leave(self, line: _Peer) -> None:
        if self.lines.pop(line.socket, None) is not None:
            self.selector.unregister(line.socket)
            line.socket.close()
            if line.peer is not None:
                self.exchange.leave(line.peer)

    def _write(self, line: _Peer) -> None:
        with suppress(BlockingIOError):
            del line.out[: line.socket.send(line.out)]
        if line.ends and not line.out:
            raise WireError("done")
        self.selector.modify(line.socket, selectors.EVENT_READ | (selectors.EVENT_WRITE if line.out else 0), line)

    def _say(self, line: _Peer) -> Callable[[bytes], None]:
        def say(message: bytes) -> None:
            if line.socket in self.lines and len(line.out) < _HELD:
                line.out += message
                self.selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

        return say

    def _message(self, line: _Peer, words: dict[str, Any], data: bytes) -> None:
        what, peer = words["do"], line.peer
        if what == "window" and peer is None:
            line.peer = Peer(policy.parse_machine(words["host"]), bool(words["online"]), self._say(line))
            self.exchange.enter(line.peer)
        elif peer is not None:
            _heard(self.exchange, peer, words, data)
        elif what in ("send", "clear", "state"):
            line.ends = True
            self._say(line)(messages.packed(b"", **self._command(what, words)))
        else:
            raise WireError("an unknown message")

    def _command(self, what: str, words: dict[str, Any]) -> dict[str, object]:
        """Do what `tower clipboard` asks for; return the answer."""
        try:
            if what == "send":
                return self.exchange.send(policy.parse_machine(words["to"]), sure=bool(words["sure"]))
            if what == "clear":
                self.exchange.clear()
            return self.exchange.state()
        except TowerError as error:
            return {"error": error.message, "hint": error.hint, "status": error.exit_status}


def _heard(exchange: Exchange, peer: Peer, words: dict[str, Any], data: bytes) -> None:
    """Handle a message of a window. Raises KeyError, TypeError, ValueError, WireError if it is none."""
    what = words["do"]
    try:
        if what == "focus":
            exchange.focus(peer, on=bool(words["on"]))
        elif what == "changed":
            peer.offered = None
            peer.fetching = False
            peer.fetching = exchange.may_take(peer)
            peer.say(messages.packed(do="fetch" if peer.fetching else "ignore"))
        elif what == "copied" and peer.fetching:
            peer.fetching = False
            exchange.copied(peer, messages.parted(words["sizes"], data), list(words["too_large"]))
        elif what == "wants":
            exchange.wants(PasteRequest(peer, int(words["token"]), int(words["number"]), Kind(words["kind"])))
        elif what == "answer" and peer.answered is not None and words["number"] == peer.question:
            answered, peer.answered = peer.answered, None
            answered(bool(words["yes"]))
    except TowerError as error:
        if what == "wants":
            give(peer, words["token"], None)
        elif what == "changed":
            peer.say(messages.packed(do="ignore"))
        tell(peer, error.message)


def main() -> int:
    """Run the broker, unless there is one; return 0, or 1 if the clipboard cannot be used."""
    try:
        folder = policy.folder()
        make_folder(folder)
        with locked(folder / ".lock", busy="there is a broker"):
            broker = Broker(folder)
            try:
                broker.run()
            finally:
                (folder / "socket").unlink(missing_ok=True)
                broker.desktop.close()
    except StateError as error:
        return 0 if error.message == "there is a broker" else 1
    except (OddError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
