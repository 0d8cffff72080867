# SPDX-License-Identifier: Apache-2.0
"""The state of a search: the names, packages and conditions that it has met, and what was chosen."""

from __future__ import annotations

from pipeline.apk.solver.tables import CONFLICT, OPS, USABLE
from pipeline.apk.solver.versions import Versions2, Versions3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.apk.solver.tables import Tables

    Offer = tuple["PackageState", str | None]
    """A package that provides a name, and the version in which it provides it."""
    Taken = tuple["PackageState | None", str | None]
    """What a name was assigned to; no package if it turned out that the name stays empty."""

NONE: Taken = (None, None)


class Condition:
    """A dependency with its name as a number."""

    __slots__ = ("conflict", "name", "op", "version")

    def __init__(self, name: int, op: str, version: str, *, conflict: bool) -> None:
        self.name, self.op, self.version, self.conflict = name, op, version, conflict


class PackageState:
    """A package and its state so far."""

    __slots__ = (
        "considered", "depends", "fails_install_if", "has_bare", "index", "install_if", "name", "name_set", "names", "number",
        "priority", "provided", "triggered", "usable", "version", "watched",
    )  # fmt: skip

    def __init__(self, number: int, state: State) -> None:
        tables = state.tables
        self.number = number
        self.name: int = tables.package_name[number]
        self.version = tables.texts.text(tables.package_version[number])
        self.priority: int = tables.package_priority[number]
        self.index: int = tables.package_index[number]
        self.depends = [state.condition(item) for item in tables.depends[number]]
        self.install_if = [state.condition(item) for item in tables.install_if[number]]
        pairs = iter(tables.provides[number])
        self.provided = [(name, tables.texts.text(text) if text >= 0 else None) for name, text in zip(pairs, pairs, strict=True)]
        self.has_bare = any(version is None for _name, version in self.provided)
        self.names = (self.name, *(name for name, _version in self.provided))
        self.name_set = frozenset(self.names)
        waiting = tables.waiting.begins
        self.watched = [name for name in self.names if waiting[name] != waiting[name + 1]]
        self.usable = bool(tables.package_flags[number] & USABLE)
        self.considered = self.triggered = False
        self.fails_install_if = not self.install_if

    def gives_bare(self, name: int) -> bool:
        """Tell whether it provides a name, other than its own, without a version."""
        return next(version for other, version in self.provided if other == name) is None


class Name:
    """A name and its state so far."""

    __slots__ = (
        "asking", "candidates", "check_depends", "check_install_if", "comes_by_itself", "dirty", "has_options", "is_last",
        "never_by_itself", "number", "offers", "place", "rank", "registered", "selectable", "undecided", "wanted",
    )  # fmt: skip

    def __init__(self, number: int, offers: list[Offer], asking: list[int], rank: int) -> None:
        self.number, self.offers, self.asking, self.rank = number, offers, asking, rank
        self.candidates: list[Offer] = []
        self.place = 0
        self.wanted = self.dirty = self.registered = self.check_depends = self.check_install_if = False
        self.has_options = self.selectable = self.comes_by_itself = self.undecided = self.is_last = False
        self.never_by_itself = all(package.fails_install_if for package, _version in offers)

    def __lt__(self, other: Name) -> bool:
        return self.number < other.number

    @property
    def is_ready(self) -> bool:
        """Tell whether there is nothing left to decide and nothing to wait for."""
        return self.is_last and self.wanted and self.selectable and not self.has_options


class State:
    """The names and packages of one search, created when it meets them."""

    def __init__(self, tables: Tables, generation: int) -> None:
        self.tables, self.generation = tables, generation
        self.versions = Versions3 if generation > 2 else Versions2
        self.names: dict[int, Name] = {}
        self.chosen: dict[int, Taken] = {}
        self._packages: dict[int, PackageState] = {}
        self._conditions: dict[int, Condition] = {}
        self._answers: dict[tuple[str, str, str], bool] = {}

    def condition(self, number: int) -> Condition:
        """Return a condition by its number."""
        found = self._conditions.get(number)
        if found is None:
            tables = self.tables
            op, text = tables.condition_op[number], tables.condition_version[number]
            version = tables.texts.text(text) if text >= 0 else ""
            found = Condition(tables.condition_name[number], OPS[op % CONFLICT], version, conflict=op >= CONFLICT)
            self._conditions[number] = found
        return found

    def package(self, number: int) -> PackageState:
        """Return a package by its number."""
        found = self._packages.get(number)
        if found is None:
            found = self._packages[number] = PackageState(number, self)
        return found

    def offers(self, name: int) -> list[Offer]:
        """Return the packages that provide a name, in the order of the indexes."""
        pairs = iter(self.tables.offers[name])
        text = self.tables.texts.text
        return [
            (self.package(number), text(version) if version >= 0 else None) for number, version in zip(pairs, pairs, strict=True)
        ]

    def rivals(self, name: int) -> Sequence[Offer]:
        """Return the packages that provide a name, if there are several."""
        begins = self.tables.offers.begins
        return self.offers(name) if begins[name + 1] - begins[name] > 2 else ()

    def is_selectable(self, offer: Offer) -> bool:
        """Tell whether apk chooses a package for a name by itself; not if it provides it without version and priority."""
        package, version = offer
        if version is not None or package.priority:
            return True
        own = self.names.get(package.name)
        return own is not None and own.wanted

    def fulfils(self, owner: PackageState | None, item: Condition, taken: Taken) -> bool:
        """Tell whether a condition of `owner` (None: of the world) holds if its name is assigned to `taken`."""
        package, version = taken
        if package is None:
            return item.conflict
        newer = self.generation > 2
        if item.conflict and newer and owner is package:
            return True
        if not item.op:
            return not item.conflict
        if item.op == "><" and not (newer and item.conflict):
            return item.version == self.tables.checksum(package.number)
        if version is None and not newer:
            return item.conflict
        return self._matches(version or "", item.op, item.version) != item.conflict

    def _matches(self, version: str, op: str, wanted: str) -> bool:
        if version == wanted:
            return "=" in op or "~" in op
        key = (version, op, wanted)
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self.versions.fulfils(version, op, wanted)
        return found

    def compare(self, a: str | None, b: str | None) -> int:
        """Compare two versions; apk 3 takes a missing one for older than any, apk 2 does not compare it."""
        if a == b or (self.generation < 3 and (a is None or b is None)):
            return 0
        return self.versions.compare(a or "", b or "")
