# SPDX-License-Identifier: Apache-2.0
"""Wait until something can be read or written.

By poll(2): select(2) takes no descriptor above 1023, and a process may have more.
"""

from __future__ import annotations

import math
import select
from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasFileno(Protocol):
    """A stream, a socket."""

    def fileno(self) -> int:
        """Return its descriptor."""


Source = TypeVar("Source", bound=HasFileno | int)


def readable(sources: Sequence[Source], seconds: float | None = None) -> list[Source]:
    """Return those that can be read, or have ended, after at most `seconds`; without a limit, wait for one."""
    return _ready(sources, select.POLLIN, seconds)


def writable(sources: Sequence[Source], seconds: float | None = None) -> list[Source]:
    """Return those that can be written, or whose reader has gone, after at most `seconds`."""
    return _ready(sources, select.POLLOUT, seconds)


def _ready(sources: Sequence[Source], event: int, seconds: float | None) -> list[Source]:
    numbers = {one if isinstance(one, int) else one.fileno(): one for one in sources}
    poll = select.poll()
    for number in numbers:
        poll.register(number, event)
    return [numbers[number] for number, _ in poll.poll(None if seconds is None else math.ceil(seconds * 1000))]
