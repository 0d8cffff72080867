# SPDX-License-Identifier: Apache-2.0
"""The walk by which apk finds all names that may matter for a world, and numbers them in the order in which it leaves them.

The higher its number, the earlier apk decides on a name. From a name, the walk goes to the dependencies of its packages,
to names that come in by install_if, and to the other names of its packages; then the name gets its number. apk 3
continues from there to the names that its packages need for their own install_if. Through names like `docs` it reaches
nearly all packages from any world, so this walk is laid out in advance.

A row of that layout holds the names that a name leads to (its number stands in the middle if more follow) and rows that
several names share: the dependencies of a package, which only the first visitor walks, and its names, where each
visitor continues where the last one stopped. Names that only their one package leads to are left out: nothing is decided
about them.
"""

from __future__ import annotations

from pipeline.apk.solver.tables import WORD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Protocol

    from pipeline.apk.solver.tables import Tables

    class WalkableGraph(Protocol):
        """The part of `pipeline.apk.solver.graph.Graph` that the walk reads: names and packages by number."""

        texts: list[str]
        offers: list[list[tuple[int, str]]]
        own: list[int]
        depends: list[list[int]]
        provides: list[list[int]]
        install_if: list[list[int]]
        waiting: list[dict[int, int]]
        hidden: list[bool]


_NUMBER = -1
_FEW = 2


def walk_rows(graph: WalkableGraph) -> tuple[list[list[int]], int]:
    """Return the layout of apk 3's walk, and the number of the first row of a package's names."""
    names = range(len(graph.texts))
    users: dict[int, list[int]] = {}
    for name in names:
        if not graph.hidden[name]:
            for package, _version in graph.offers[name]:
                users.setdefault(package, []).append(name)
    ends = {package: _end(graph, package) for package in users}
    parts = [package for package in users if len(users[package]) > 1 and graph.depends[package]]
    part_of = {package: len(graph.texts) + place for place, package in enumerate(parts)}
    shared = [package for package in users if len(users[package]) > 1 and len(ends[package]) >= _FEW]
    first_shared = len(graph.texts) + len(parts)
    shared_of = {package: first_shared + place for place, package in enumerate(shared)}
    rows: list[list[int]] = []
    for name in names:
        row: list[int] = []
        if graph.hidden[name]:
            rows.append(row)
            continue
        for package, _version in graph.offers[name]:
            row += [part_of[package]] if package in part_of else graph.depends[package]
        row += graph.waiting[name]
        for package, _version in graph.offers[name]:
            row += [shared_of[package]] if package in shared_of else ends[package]
        before = dict.fromkeys(item for item in row if item != name)
        after = dict.fromkeys(item for package, _version in graph.offers[name] for item in graph.install_if[package])
        later = [item for item in after if item not in before and item != name]
        rows.append([*before, _NUMBER, *later] if later else list(before))
    rows += [list(dict.fromkeys(graph.depends[package])) for package in parts]
    return rows + [ends[package] for package in shared], first_shared


def _end(graph: WalkableGraph, package: int) -> list[int]:
    """Return where each name of a package finally leads: to what waits for its own name, and to its other names."""
    own = graph.own[package]
    end = [*graph.waiting[own], *(name for name in graph.provides[package] if not graph.hidden[name])]
    return list(dict.fromkeys(end))


def _hidden_row(tables: Tables, name: int) -> Iterator[int]:
    """Yield where a name leads that has no row, because only a world leads to it."""
    for package in tables.offers[name][::2]:
        yield from (tables.condition_name[item] for item in tables.depends[package])
        yield from tables.waiting[tables.package_name[package]][::2]
        yield from tables.provides[package][::2]


class Walk:
    """The progress of apk 3's walk: the numbers of all names (0 if not visited), and how many have one."""

    def __init__(self, tables: Tables, numbers: Sequence[int] = (), seen: bytes = b"", length: int = 0) -> None:
        self._tables, self.length = tables, length
        self.numbers = numbers or [0] * len(tables.names)
        self._seen = bytearray(seen or len(tables.names)) + bytes(len(tables.walk) - len(tables.names))

    @classmethod
    def load(cls, tables: Tables, data: memoryview) -> Walk:
        """Load a walk that `dump` wrote."""
        end = len(tables.names) * WORD
        return cls(tables, data[:end].cast("i"), data[end:-WORD].tobytes(), data[-WORD:].cast("i")[0])

    def dump(self) -> bytes:
        """Return the walk as bytes; the names that follow from a name are then known completely or not at all."""
        from array import array

        numbers, seen = array("i", self.numbers), self._seen[: len(self.numbers)]
        return numbers.tobytes() + seen + array("i", [self.length]).tobytes()

    def go(self, root: int) -> None:
        """Continue the walk from a name."""
        if self._seen[root]:
            return
        numbers = self.numbers = list(self.numbers)
        seen, begins, values = self._seen, self._tables.walk.begins, self._tables.walk.values
        names, shared, number = len(numbers), self._tables.walk_shared[0], self.length
        under_way: dict[int, Iterator[int]] = {}
        seen[root] = 1
        above: list[tuple[int, Iterator[int]]] = []
        here, rest = root, iter(values[begins[root] : begins[root + 1]] or _hidden_row(self._tables, root))
        while True:
            for item in rest:
                if item < 0:
                    number += 1
                    numbers[here] = number
                    continue
                if seen[item]:
                    continue
                above.append((here, rest))
                here = item
                if item < shared:
                    seen[item] = 1
                    rest = iter(values[begins[item] : begins[item + 1]])
                else:
                    rest = under_way.get(item) or under_way.setdefault(item, iter(values[begins[item] : begins[item + 1]]))
                break
            else:
                if here < names and not numbers[here]:
                    number += 1
                    numbers[here] = number
                if not above:
                    break
                here, rest = above.pop()
        self.length = number


def walk2(tables: Tables, roots: Iterable[int]) -> list[int]:
    """Return the numbers that apk 2 gives to all names, from 1; 0 for names that the walk does not reach."""
    numbers = [0] * len(tables.names)
    seen: set[int] = set()
    packages: set[int] = set()
    number = 0

    def leads_to(name: int) -> Iterator[int]:
        offers = tables.offers[name][::2]
        for package in offers:
            if package not in packages:
                packages.add(package)
                yield from (tables.condition_name[item] for item in tables.depends[package])
        for package in offers:
            yield from tables.waiting[tables.package_name[package]][::2]
            for other in tables.provides[package][::2]:
                if other not in seen:
                    yield other
                    yield from tables.waiting[other][::2]

    for root in roots:
        if root in seen:
            continue
        seen.add(root)
        above: list[tuple[int, Iterator[int]]] = [(root, leads_to(root))]
        while above:
            here, rest = above[-1]
            for item in rest:
                if item not in seen:
                    seen.add(item)
                    above.append((item, leads_to(item)))
                    break
            else:
                above.pop()
                number += 1
                numbers[here] = number
    return numbers
