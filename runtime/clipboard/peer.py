# SPDX-License-Identifier: Apache-2.0
"""The windows that the broker of the clipboard knows, the content that it holds, and what one asks of the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tower.clipboard import messages
from tower.clipboard.content import Kind

GRACE: Final = 1.0
"""Seconds after which a window that lost the keyboard is no longer heard: a copy, and then at once another window, counts."""


@dataclass(slots=True, eq=False)
class Peer:
    """A window."""

    host: str
    online: bool
    say: Callable[[bytes], None]
    focused: bool = False
    left: float = -GRACE
    """When it lost the keyboard."""
    fetching: bool = False
    """Whether it was told to fetch what its application copied."""
    seen: int = 0
    """The number of the content that it was offered, or that came from it."""
    offered: float | None = None
    """Since when it has an offer."""
    question: int = 0
    answered: Callable[[bool], None] | None = None
    waiting: list[PasteRequest] = field(default_factory=list)
    """Requests that wait for an answer of the user."""


@dataclass(slots=True, eq=False)
class Held:
    """The content."""

    number: int
    origin: str
    online: bool
    kinds: tuple[Kind, ...]
    content: dict[Kind, bytes]
    """As much of it as was fetched."""
    since: float
    sent: set[str] = field(default_factory=set)
    """Hosts that the user sent it to."""
    agreed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    told: set[tuple[str, Kind]] = field(default_factory=set)
    """What is in the log already."""


@dataclass(frozen=True, slots=True)
class PasteRequest:
    """A content that an application of a host asks for."""

    peer: Peer
    token: int
    number: int
    """That of the content that it was offered."""
    kind: Kind


def give(peer: Peer, token: int, data: bytes | None) -> None:
    """Give a window what it asked for; None: it gets nothing."""
    peer.say(messages.packed(data or b"", do="given", token=token, ok=data is not None))


def tell(peer: Peer, text: str) -> None:
    """Show the user a message in a window."""
    peer.say(messages.packed(do="say", text=text))
