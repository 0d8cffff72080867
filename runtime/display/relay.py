# SPDX-License-Identifier: Apache-2.0
"""What stands between a host and a program here, and reads each message: bytes go on only as rules say.

The two directions of a connection are generators of rules: each `yield` asks for a number of bytes, or lets that many `Through`
as they come, so that nothing large is ever held here. `relay` moves the bytes until one side ends.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

_HELD: Final = 4 << 20
"""Bytes kept for a side that does not read; beyond that, the other side is not read either."""
CHUNK: Final = 256 << 10


class OddError(Exception):
    """A message that is not passed on; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Through:
    """Bytes that are passed on unread."""

    count: int


Rules = Generator["int | Through", bytes, None]


@dataclass(slots=True)
class Half:
    """One direction: `feed` takes incoming bytes; those that may go out are collected in `out`."""

    out: bytearray = field(default_factory=bytearray)
    _held: bytearray = field(default_factory=bytearray)
    _wanted: int | Through = 0
    _rules: Rules | None = None

    def follow(self, rules: Rules) -> None:
        """The rules for this direction."""
        self._rules, self._wanted = rules, next(rules)

    def feed(self, data: bytes) -> None:
        """Process incoming bytes. Raises OddError."""
        assert self._rules is not None  # noqa: S101  (`follow` comes first)
        self._held += data
        while True:
            wanted = self._wanted
            if isinstance(wanted, Through):
                part = self._held[: wanted.count]
                self.out += part
                del self._held[: len(part)]
                if len(part) < wanted.count:
                    self._wanted = Through(wanted.count - len(part))
                    return
                given = b""
            elif len(self._held) < wanted:
                return
            else:
                given = bytes(self._held[:wanted])
                del self._held[:wanted]
            self._wanted = self._rules.send(given)


def relay(
    server: socket.socket, client: socket.socket, from_server: Half, from_client: Half, more: Callable[[], bool]
) -> socket.socket | None:
    """Pass messages on until a side ends, and return that side, or until `more` returns false. Raises OddError."""
    ways = ((server, client, from_server), (client, server, from_client))
    for one in (server, client):
        one.setblocking(False)
    with selectors.DefaultSelector() as selector:
        for one in (server, client):
            selector.register(one, selectors.EVENT_READ)
        while more():
            for source, _, half in ways:
                back = from_client if half is from_server else from_server
                wanted = selectors.EVENT_READ if len(half.out) < _HELD else 0
                wanted |= selectors.EVENT_WRITE if back.out else 0
                _watch(selector, source, wanted)
            for key, events in selector.select(0.2):
                for source, target, half in ways:
                    if events & selectors.EVENT_READ and key.fileobj is source and not _read(source, half):
                        _write(target, half)
                        return source
                    if events & selectors.EVENT_WRITE and key.fileobj is target and not _write(target, half):
                        return target
    return None


def _watch(selector: selectors.BaseSelector, one: socket.socket, wanted: int) -> None:
    known = one in selector.get_map()
    if wanted and known:
        selector.modify(one, wanted)
    elif wanted:
        selector.register(one, wanted)
    elif known:
        selector.unregister(one)


def _read(source: socket.socket, half: Half) -> bool:
    """Read the available bytes; return whether the side is still there."""
    try:
        data = source.recv(CHUNK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    half.feed(data)
    return bool(data)


def _write(target: socket.socket, half: Half) -> bool:
    """Write the waiting bytes; return whether the side is still there."""
    with suppress(BlockingIOError):
        try:
            sent = target.send(half.out)
        except BlockingIOError:
            raise
        except OSError:
            return False
        del half.out[:sent]
    return True
