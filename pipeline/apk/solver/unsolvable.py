# SPDX-License-Identifier: Apache-2.0
"""Explain to a person why a world has no solution: missing names, conflicts, and names that may have been meant.

The search continued after it had failed, so its result holds everything that the world leads to: each condition that
does not hold among these packages is a reason.
"""

from __future__ import annotations

from pipeline.apk.format.pkginfo import Dependency
from pipeline.apk.solver.state import NONE
from pipeline.apk.solver.tables import USABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.apk.solver.pool import Universe
    from pipeline.apk.solver.search import Search
    from pipeline.apk.solver.state import Condition, PackageState

_WORLD = "the world"
_SHOWN = 12


def _listed(texts: Iterable[str]) -> str:
    """Join up to a dozen of `texts`, sorted, and count the rest."""
    every = sorted(set(texts))
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _offers(universe: Universe, name: int) -> list[str]:
    """List the packages that provide a name, each with the version of the name if that is not the package's own."""
    tables = universe.tables
    found = []
    row = iter(tables.offers[name])
    for package, version in zip(row, row, strict=True):
        stem = _stem(universe, package)
        if tables.package_name[package] != name:
            text = tables.names.text(name)
            stem += f" (as {text}={tables.texts.text(version)})" if version >= 0 else f" (as {text}, without a version)"
        found.append(stem)
    return found


def _stem(universe: Universe, package: int) -> str:
    tables = universe.tables
    return f"{tables.names.text(tables.package_name[package])}-{tables.texts.text(tables.package_version[package])}"


def _similar(universe: Universe, name: str) -> list[str]:
    """Return names that are spelt almost like `name`, or that contain it."""
    import difflib

    tables = universe.tables
    names = {tables.names.text(number) for number in set(tables.package_name)}
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.75)
    if name.partition(":")[0] in ("so", "cmd", "pc"):
        close += {name.partition(":")[2]} & names
    return close or sorted((other for other in names if len(name) > 2 and name in other), key=lambda text: (len(text), text))[:4]


def missing(universe: Universe, wanted: Dependency, by: str) -> str:
    """Say that nothing fulfils a dependency, and what comes closest."""
    number = universe.tables.find(wanted.name)
    if number >= 0 and (offers := _offers(universe, number)):
        return f"{by} wants {wanted}, but there is only {_listed(offers)}"
    similar = _similar(universe, wanted.name)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
    where = " or ".join(universe.file_names)
    return f"{by} wants {wanted}: not found for {universe.arch} in {where}{meant}"


class _Reasons:
    """The conditions that do not hold among the packages of a failed search."""

    def __init__(self, universe: Universe, search: Search, found: Sequence[PackageState]) -> None:
        self.universe, self.search, self.found = universe, search, found
        self.wants: dict[str, None] = {}
        self.obstacles: dict[tuple[str, str], set[str]] = {}
        self.involved: dict[PackageState | None, None] = {}
        for item in search.world:
            self._look_at(None, item)
        for package in found:
            self._look_at_names(package)
            for item in package.depends:
                self._look_at(package, item)

    def stem(self, package: PackageState | None) -> str:
        """Return `name-version`, or the word for the world."""
        return _WORLD if package is None else _stem(self.universe, package.number)

    def text(self, item: Condition) -> Dependency:
        """Return a condition as people write it."""
        return Dependency(self.universe.tables.names.text(item.name), item.op, item.version, item.conflict)

    def _block(self, package: PackageState, other: PackageState, reason: str) -> None:
        pair = sorted((self.stem(package), self.stem(other)))
        self.obstacles.setdefault((pair[0], pair[1]), set()).add(reason)
        self.involved |= {package: None, other: None}

    def _look_at_names(self, package: PackageState) -> None:
        """Note names of a package that another package has as well, or that it provides twice."""
        tables, chosen = self.universe.tables, self.search.chosen
        offered: dict[int, str | None] = {}
        for number, version in ((package.name, package.version), *package.provided):
            name = tables.names.text(number)
            if number in offered and (version, offered[number]) != (None, None):
                self.wants[f"{self.stem(package)} is never installed: it provides {name} twice"] = None
                self.involved[package] = None
            offered[number] = version
            other, other_version = chosen.get(number, NONE)
            if other is not None and other is not package and (version, other_version) != (None, None):
                self._block(package, other, f"both provide {name}")
        if not tables.package_flags[package.number] & USABLE:
            reason = f"it is not for {self.universe.arch}, or for a newer apk, or one of its dependencies is broken"
            self.wants[f"{self.stem(package)} is never installed: {reason}"] = None
            self.involved[package] = None

    def _look_at(self, owner: PackageState | None, item: Condition) -> None:
        """Note a condition that does not hold."""
        taken = self.search.chosen.get(item.name, NONE)
        if self.search.fulfils(owner, item, taken):
            return
        other, text = taken[0], self.text(item)
        self.involved[owner] = None
        if item.conflict and other is not None:
            self.involved[other] = None
            if owner is not None:
                self._block(owner, other, f"{self.stem(owner)} excludes {str(text)[1:]}")
            return
        offers = self.search.offers(item.name)
        fitting = [offer for offer in offers if self.search.fulfils(owner, item, offer)]
        if not fitting:
            self.wants[missing(self.universe, text, self.stem(owner))] = None
        elif other is None and not any(map(self.search.is_selectable, fitting)):
            choice = _listed(self.stem(package) for package, _version in offers)
            wants = f"{self.stem(owner)} wants {text}, which no package provides by itself"
            self.wants[f"{wants}: add one of {choice} to the world"] = None
        else:
            if owner is not None:
                self.wants[self._want(owner, item)] = None
            self._look_at_rivals([package for package, _version in fitting], other)

    def _look_at_rivals(self, packages: Sequence[PackageState], taken: PackageState | None) -> None:
        """Note why none of the packages that would fulfil a condition was chosen."""
        name = self.universe.tables.names.text
        for package in packages:
            clashes = [
                (number, self.search.chosen.get(number, NONE)[0])
                for number, version in ((package.name, package.version), *package.provided)
                if version is not None
            ]
            for number, other in clashes:
                if other is not None and other is not package:
                    self._block(package, other, f"both provide {name(number)}")
            for item in package.depends:
                given = self.search.chosen.get(item.name, NONE)[0]
                if item.conflict and given is not None and not self.search.fulfils(package, item, (given, given.version)):
                    self._block(package, given, f"{self.stem(package)} excludes {str(self.text(item))[1:]}")
                elif not item.conflict and not any(self.search.fulfils(package, item, o) for o in self.search.offers(item.name)):
                    self.wants[missing(self.universe, self.text(item), self.stem(package))] = None
        if taken is not None:
            self.involved[taken] = None

    def _want(self, owner: PackageState | None, item: Condition) -> str:
        text = str(self.text(item))
        if owner is None:
            return f"{_WORLD} {f'excludes {text[1:]}' if item.conflict else f'wants {text}'}"
        offers = _listed(self.stem(package) for package, _version in self.search.offers(item.name))
        plain = item.op in ("", "=") and offers not in ("", "-".join(text.split("=", 1)), text)
        return f"{self.stem(owner)} wants {text}{f', which is {offers}' if plain else ''}"

    def lines(self) -> list[str]:
        """Return all reasons: first those about the world, then how the world leads to the packages involved."""
        asked: dict[str, None] = {}
        came_by: dict[PackageState, tuple[PackageState | None, Condition]] = {}
        rows: list[tuple[PackageState | None, Sequence[Condition]]] = [(None, self.search.world)]
        for owner, items in rows:
            for item in items:
                package = None if item.conflict else self.search.chosen.get(item.name, NONE)[0]
                if package is not None and package not in came_by:
                    came_by[package] = (owner, item)
                    rows.append((package, package.depends))
        for item in self.search.world:
            taken = self.search.chosen.get(item.name, NONE)[0]
            if (item.conflict and taken in self.involved and taken is not None) or (not item.conflict and taken in self.involved):
                asked[self._want(None, item)] = None
        chains: dict[str, None] = {}
        for package in self.involved:
            at: PackageState | None = package
            while at is not None and at in came_by:
                owner, item = came_by[at]
                (asked if owner is None else chains)[self._want(owner, item)] = None
                at = owner
        lines = [*asked, *sorted(self.wants | chains)]
        for (first, second), reasons in sorted(self.obstacles.items()):
            lines.append(f"{first} and {second} cannot be installed together: {_listed(reasons)}")
        return lines


def explain(universe: Universe, search: Search, found: Sequence[PackageState]) -> str:
    """Return the reasons why a search failed: first what is wanted, then the conflicts."""
    lines = _Reasons(universe, search, found).lines()
    return "no packages fulfil the world:\n" + "\n".join(f"  {line}" for line in lines)
