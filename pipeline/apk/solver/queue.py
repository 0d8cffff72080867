# SPDX-License-Identifier: Apache-2.0
"""The order in which apk decides on names.

It first decides on names that leave no choice and on which nothing undecided depends, then on names for which it may
choose a package by itself, then on the others. Among these, the world's own names come first, and then those that the
walk numbered last. apk 3 prefers names of packages to names that packages only provide.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.solver.state import Name

_ASKED, _REAL = 1 << 30, 1 << 29
_READY, _SELECTABLE, _OTHER = 1, 2, 3


class Queue3:
    """apk 3's queue: a name gets its rank when it is added, and another rank only when something about it has changed."""

    def __init__(self) -> None:
        self._ready: deque[Name] = deque()
        self._heaps: dict[int, list[tuple[int, Name]]] = {_SELECTABLE: [], _OTHER: []}

    @staticmethod
    def rank(number: int, *, asked: bool, real: bool) -> int:
        """Return the rank of a name with this number of the walk; the highest goes first."""
        return number + _ASKED * asked + _REAL * real

    def put(self, name: Name, *, again: bool = False) -> None:
        """Add a name; if it is there already it keeps its rank, unless it is ready now or `again` is set."""
        if name.place:
            if name.place == _READY or not (name.is_ready or again):
                return
        elif not (name.wanted or name.comes_by_itself or name.undecided):
            return
        if name.is_ready:
            name.place = _READY
            self._ready.append(name)
        else:
            name.place = _SELECTABLE if name.selectable else _OTHER
            heappush(self._heaps[name.place], (-name.rank, name))

    @staticmethod
    def remove(name: Name) -> None:
        """Remove a name."""
        name.place = 0  # `pop` skips it where it is

    def pop(self) -> Name | None:
        """Remove and return the first name; None if there is none."""
        while self._ready:
            name = self._ready.popleft()
            if name.place == _READY:
                name.place = 0
                return name
        for place, heap in self._heaps.items():
            while heap:
                _rank, name = heappop(heap)
                if name.place == place:
                    name.place = 0
                    return name
        return None


class Queue2:
    """apk 2's queue: it searches for the first name each time."""

    def __init__(self) -> None:
        self._names: dict[Name, None] = {}

    @staticmethod
    def rank(number: int, *, asked: bool, real: bool) -> int:  # noqa: ARG004
        """Return the rank of a name with this number of the walk; the highest goes first."""
        return number + _ASKED * asked

    def put(self, name: Name, *, again: bool = False) -> None:  # noqa: ARG002
        """Add a name, or remove it if nothing needs it any more."""
        if name.wanted or name.comes_by_itself:
            self._names.setdefault(name)
        else:
            self.remove(name)

    def remove(self, name: Name) -> None:
        """Remove a name."""
        self._names.pop(name, None)

    def pop(self) -> Name | None:
        """Remove and return the first name; None if there is none."""
        if not self._names:
            return None
        # The name that was added last is examined first.
        ready = next((name for name in reversed(self._names) if name.is_ready), None)
        first = ready or max(self._names, key=lambda name: (name.selectable, name.rank))
        self.remove(first)
        return first
