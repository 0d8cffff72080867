# SPDX-License-Identifier: Apache-2.0
"""What crosses by the clipboard between three hosts and the thin client, and what a hostile X server says to it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import StateError, ValueRefusedError
from tower.clipboard import journal, messages, policy
from tower.clipboard.content import Content, Kind
from tower.clipboard.exchange import Exchange
from tower.clipboard.messages import Message
from tower.clipboard.peer import PasteRequest, Peer
from tower.clipboard.policy import Policy, Rule
from tower.clipboard.selection import Selection
from tower.display.relay import OddError
from tower.display.x11 import Packet, Server

_EVENT = st.tuples(st.sampled_from([28, 30, 31, 87]), st.binary(min_size=31, max_size=31))


class Clipboard:
    """A desktop's clipboard whose content a test gives."""

    def __init__(self) -> None:
        self.owned: list[Content] = []
        self.has: dict[Kind, bytes] = {}
        self.busy = False

    def own(self, content: Content) -> None:
        self.owned.append(content)

    def fetch(self, kind: Kind, done: Callable[[bytes | None, str], None]) -> None:
        done(self.has.get(kind), "")

    def tick(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Shelf:
    """An exchange, with a window of each of three hosts."""

    exchange: Exchange
    said: dict[str, list[Message]]
    peers: dict[str, Peer]

    def last(self, host: str, what: str) -> Message | None:
        return next((one for one in reversed(self.said[host]) if one[0]["do"] == what), None)

    def copy(self, host: str, text: bytes) -> None:
        self.exchange.focus(self.peers[host], on=True)
        self.exchange.copied(self.peers[host], {Kind.TEXT: text}, [])
        self.exchange.focus(self.peers[host], on=False)

    def paste(self, host: str) -> bytes | None:
        """What its application gets now, by the last offer."""
        offer = self.last(host, "offer")
        number = offer[0]["number"] if offer else 1
        self.exchange.wants(PasteRequest(self.peers[host], 7, number, Kind.TEXT))
        given = self.last(host, "given")
        return given[1] if given and given[0]["ok"] else None


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(Exchange(tmp_path), {}, {})
    made.exchange.desktop = Clipboard()
    for host, online in (("vault", False), ("safe", False), ("web", True)):
        said: list[Message] = []

        def say(message: bytes, said: list[Message] = said) -> None:
            said.extend(messages.unpacked(bytearray(message)))

        made.said[host] = said
        made.peers[host] = Peer(host, online, say)
        made.exchange.enter(made.peers[host])
    return made


def test_from_an_offline_host_to_an_online_one_the_user_is_asked(shelf: Shelf, tmp_path: Path) -> None:
    shelf.copy("vault", b"a secret")
    assert shelf.exchange.send("safe", sure=False) == {"from": "vault", "to": "safe", "kinds": (Kind.TEXT,)}
    assert shelf.paste("safe") == b"a secret"
    assert "ask" in shelf.exchange.send("web", sure=False)
    assert shelf.last("web", "offer") is None
    assert shelf.paste("web") is None
    assert "ask" not in shelf.exchange.send("web", sure=True)
    assert shelf.paste("web") == b"a secret"
    assert [(one.target, one.how) for one in journal.read(tmp_path)] == [
        ("thinclient", "window"), ("safe", "sent"), ("web", "asked"),
    ]  # fmt: skip
    shelf.copy("vault", b"another secret")
    assert shelf.paste("web") is None
    assert shelf.paste("safe") is None


def test_a_rule_that_forbids_goes_before_what_is_sent(shelf: Shelf, tmp_path: Path) -> None:
    policy.write(tmp_path, Policy(pairs={("vault", "safe"): Rule.OFF}))
    shelf.copy("vault", b"a secret")
    with pytest.raises(ValueRefusedError, match="forbids transfers from vault to safe"):
        shelf.exchange.send("safe", sure=True)
    assert shelf.paste("safe") is None


def test_nothing_crosses_that_cannot_be_logged(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(StateError):
        shelf.copy("vault", b"a secret")
    assert shelf.exchange.held is None


@given(
    st.lists(_EVENT, max_size=8),
    st.binary(max_size=400),
)
def test_whatever_a_server_says_to_the_clipboard_ends_in_our_words(events: list[tuple[int, bytes]], said: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(said)
        theirs.shutdown(socket.SHUT_WR)
        server = Server(ours, 1, 100, 100, 1 << 20)
        server._atoms |= {name: number for number, name in enumerate(("CLIPBOARD", "TARGETS", "INCR", "ATOM", "UTF8_STRING"), 50)}
        selection = Selection(server, lambda _: selection.targets(lambda _: None), lambda token, _: selection.give(token, b"x"))
        selection._window, selection._event = 5, 87
        with suppress(OddError, OSError):
            selection.own((Kind.TEXT,))
            selection.fetch("UTF8_STRING", lambda *_: None)
            for kind, rest in events:
                selection.event(Packet(kind, bytes([kind]) + rest))
            selection.tick()
