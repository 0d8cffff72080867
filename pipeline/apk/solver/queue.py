# SPDX-License-Identifier: Apache-2.0
"""On which name apk decides next.

First on names that leave no choice and on which nothing that is undecided depends; then on names for which it may
take a package by itself; then on the others. Among these the world's own come first, and what the walk numbered later.
apk 3 lets names of packages go before names that packages only provide.
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
    """apk 3's queue: a name gets its place when it comes, and another only if something about it has changed."""

    def __init__(self) -> None:
        self._ready: deque[Name] = deque()
        self._heaps: dict[int, list[tuple[int, Name]]] = {_SELECTABLE: [], _OTHER: []}

    @staticmethod
    def rank(number: int, *, asked: bool, real: bool) -> int:
        """The rank of a name with this number of the walk; the highest goes first."""
        return number + _ASKED * asked + _REAL * real

    def put(self, name: Name, *, again: bool = False) -> None:
        """Give a name its place; one that has one already keeps it, unless it is ready now or `again` is set."""
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
        """Take a name out."""
        name.place = 0  # where it lies it is passed over

    def pop(self) -> Name | None:
        """Take out the first name; None if there is none."""
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
    """apk 2's queue: which name is first is found anew each time."""

    def __init__(self) -> None:
        self._names: dict[Name, None] = {}

    @staticmethod
    def rank(number: int, *, asked: bool, real: bool) -> int:  # noqa: ARG004
        """The rank of a name with this number of the walk; the highest goes first."""
        return number + _ASKED * asked

    def put(self, name: Name, *, again: bool = False) -> None:  # noqa: ARG002
        """Take a name in, or out if nobody wants it any more."""
        if name.wanted or name.comes_by_itself:
            self._names.setdefault(name)
        else:
            self.remove(name)

    def remove(self, name: Name) -> None:
        """Take a name out."""
        self._names.pop(name, None)

    def pop(self) -> Name | None:
        """Take out the first name; None if there is none."""
        if not self._names:
            return None
        # What came last is looked at first.
        ready = next((name for name in reversed(self._names) if name.is_ready), None)
        first = ready or max(self._names, key=lambda name: (name.selectable, name.rank))
        self.remove(first)
        return first
