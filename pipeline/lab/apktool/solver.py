# SPDX-License-Identifier: Apache-2.0
"""Which packages a world needs: choose a provider for every name, go back where a choice leads nowhere.

Names with one possible provider are settled first, because they often settle the others. Of several providers the best
is taken by the order apk has: installed (unless upgrading), newest, highest provider priority, first repository. Every choice
is kept with the state before it, so that the next best is tried when a later name cannot be provided. The answer depends on
nothing but the packages and the world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cmp_to_key

from pipeline.apk import version as versions
from pipeline.apk.pkginfo import Dependency
from pipeline.lab.apktool.packages import Package, Universe, fits

Provider = tuple[Package, str | None]
Need = tuple[Dependency, Package | None]  # who needs it; None is the world
_TRIES = 5000


class Policy:
    """What is preferred: which packages may be chosen, and which of the installed ones are to be upgraded."""

    def __init__(
        self,
        *,
        selectable: Callable[[Package], bool] = lambda _: True,
        upgrade: bool | frozenset[str] = False,
        available: bool = False,
        latest: bool = False,
    ) -> None:
        self.selectable = selectable
        self.upgrade = upgrade
        self.available = available
        self.latest = latest

    def upgrades(self, name: str) -> bool:
        """Whether a newer version of the name is preferred to the installed one."""
        return self.upgrade if isinstance(self.upgrade, bool) else name in self.upgrade


class Unsolvable(Exception):  # noqa: N818  # it is an answer, not a fault
    """No choice satisfies the world; `state` holds the best attempt for the explanation."""

    def __init__(self, state: State) -> None:
        super().__init__("unable to select packages")
        self.state = state


class _DeadEndError(Exception):
    """The choices so far leave a name without provider."""


class State:
    """The choices made so far, and what they ask for."""

    def __init__(self, universe: Universe, policy: Policy, *, lenient: bool = False) -> None:
        self.universe = universe
        self.policy = policy
        self.lenient = lenient
        self.chosen: dict[str, Package] = {}
        self.holders: dict[str, tuple[Provider, ...]] = {}
        self.needs: dict[str, tuple[Need, ...]] = {}
        self.bans: dict[str, tuple[Need, ...]] = {}
        self.fresh: list[str] = []
        self.open: list[str] = []
        self.waiting = 0  # names in a row that could not be settled yet

    def copy(self) -> State:
        """The same choices, free to go on differently."""
        twin = State(self.universe, self.policy, lenient=self.lenient)
        twin.chosen, twin.holders = self.chosen.copy(), self.holders.copy()
        twin.needs, twin.bans = self.needs.copy(), self.bans.copy()
        twin.fresh, twin.open, twin.waiting = self.fresh.copy(), self.open.copy(), self.waiting
        return twin

    def require(self, wanted: Sequence[Dependency], by: Package | None) -> None:
        """Note what the world or a package asks for, and check it against the choices made."""
        for dep in wanted:
            table = self.bans if dep.conflict else self.needs
            table[dep.name] = (*table.get(dep.name, ()), (dep, by))
            holders = self.holders.get(dep.name, ())
            if dep.conflict:
                self._check(not any(fits(dep, package, version) for package, version in holders if package is not by))
            elif holders:
                self._check(any(fits(dep, package, version) for package, version in holders))
            elif dep.name not in self.fresh:
                self.fresh.append(dep.name)

    def choose(self, package: Package) -> None:
        """Take a package, with all that it asks for."""
        if self.chosen.get(package.name) is package:
            return
        self.chosen[package.name] = package
        for name, version in package.provided:
            self.holders[name] = (*self.holders.get(name, ()), (package, version))
        self.require(package.depends, package)

    def _check(self, holds: bool) -> None:
        if not holds and not self.lenient:
            raise _DeadEndError

    def candidates(self, name: str) -> list[Package]:
        """The packages that may still provide a name, best first."""
        found: list[Provider] = []
        for provider in self.universe.providers(name):
            package, version = provider
            if version is None and not package.priority and not self._asked_for(package):
                continue
            if self._acceptable(name, package, version) and all(package is not other for other, _ in found):
                found.append(provider)
        if not found and self.lenient:
            found = [
                (package, version)
                for package, version in self.universe.providers(name)
                if self.policy.selectable(package) and package.name not in self.chosen and (version or package.priority)
            ]
        found.sort(key=cmp_to_key(self._compare), reverse=True)
        return [package for package, _ in found]

    def _asked_for(self, package: Package) -> bool:
        """Whether a package that provides a bare name may be taken: only if it is there or wanted by its own name."""
        return package.installed or package.name in self.needs or package.name in self.chosen

    def _acceptable(self, name: str, package: Package, version: str | None) -> bool:
        if not self.policy.selectable(package) or self.chosen.get(package.name, package) is not package:
            return False
        if any(not fits(dep, package, version) for dep, _ in self.needs.get(name, ())):
            return False
        return self._compatible(package)

    def _compatible(self, package: Package) -> bool:
        for name, version in package.provided:
            # Two packages may share a name only if neither gives it a version.
            holders = self.holders.get(name, ())
            if any(other is not package and (version or theirs) for other, theirs in holders):
                return False
            if any(by is not package and fits(dep, package, version) for dep, by in self.bans.get(name, ())):
                return False
            needs = self.needs.get(name, ())
            if needs and not holders and version and any(not fits(dep, package, version) for dep, _ in needs):
                return False
        for dep in package.depends:
            if not dep.conflict:
                if not any(fits(dep, other, version) for other, version in self.universe.providers(dep.name)):
                    return False
            elif any(other is not package and fits(dep, other, version) for other, version in self.holders.get(dep.name, ())):
                return False
        return True

    def _compare(self, a: Provider, b: Provider) -> int:
        """Positive when `a` is the better provider."""
        (left, left_version), (right, right_version) = a, b
        upgrade = self.policy.latest or self.policy.upgrades(left.name) or self.policy.upgrades(right.name)
        if self.policy.available and bool(left.repositories) != bool(right.repositories):
            return 1 if left.repositories else -1
        if not upgrade and left.installed != right.installed:
            return 1 if left.installed else -1
        if left_version is None or right_version is None:
            order = (left_version is not None) - (right_version is not None)
        else:
            order = versions.compare(left_version, right_version)
        if order:
            return order
        if left.name == right.name:
            order = versions.compare(left.version, right.version)
            if order:
                return order
        if left.installed != right.installed:
            return 1 if left.installed else -1
        if left.priority != right.priority:
            return 1 if left.priority > right.priority else -1
        first = min(right.repositories, default=99) - min(left.repositories, default=99)
        return first or (left.name < right.name) - (left.name > right.name)

    def triggered(self) -> list[Package]:
        """Packages that come in by themselves, because all they name in install_if is there.

        A rule that wants something absent never holds, as in apk 2.14.
        """
        found: list[Package] = []
        seen: set[int] = set()
        for name in self.holders:
            for package in self.universe.triggered_by(name):
                if id(package) in seen or package.name in self.chosen or not self.policy.selectable(package):
                    continue
                seen.add(id(package))
                if all(not dep.conflict and self.provided(dep) for dep in package.install_if) and self._compatible(package):
                    found.append(package)
        found.sort(key=cmp_to_key(lambda a, b: self._compare((a, a.version), (b, b.version))), reverse=True)
        return sorted(found, key=lambda package: package.name)

    def provided(self, dep: Dependency) -> bool:
        """Whether a chosen package stands for the dependency."""
        return any(fits(dep, package, version) for package, version in self.holders.get(dep.name, ()))


def solve(universe: Universe, world: Sequence[Dependency], policy: Policy) -> Mapping[str, Package]:
    """The packages to be installed, by name; raises Unsolvable."""
    state = State(universe, policy)
    trail: list[tuple[State, list[Package]]] = []
    tries = 0
    started = False
    while True:
        try:
            if not started:
                started = True
                state.require(world, None)
            done = _advance(state, trail)
        except _DeadEndError:
            tries += 1
            while trail and not trail[-1][1]:
                trail.pop()
            if not trail or tries > _TRIES:
                raise Unsolvable(_explain(universe, world, policy)) from None
            before, rest = trail[-1]
            state = before.copy()
            try:
                state.choose(rest.pop(0))
            except _DeadEndError:
                state.fresh = [_IMPOSSIBLE]
            continue
        if done:
            return state.chosen


_IMPOSSIBLE = "!"  # a name nobody can provide: forces the next dead end


def _advance(state: State, trail: list[tuple[State, list[Package]]]) -> bool:
    """Settle one more name; True when nothing is left to settle."""
    if state.fresh:
        name = state.fresh.pop(0)
        if name in state.holders:
            return False
        found = state.candidates(name)
        if len(found) == 1:
            state.choose(found[0])
        elif found or state.universe.providers(name):
            state.open.append(name)
        elif not state.lenient:
            raise _DeadEndError
        return False
    if state.open:
        name = state.open.pop(0)
        if name in state.holders:
            return False
        found = state.candidates(name)
        if not found:
            # A bare name may still be provided by a package that another name brings in.
            state.waiting += 1
            if state.waiting <= len(state.open):
                state.open.append(name)
            elif not state.lenient:
                raise _DeadEndError
            return False
        state.waiting = 0
        best, rest = found[0], found[1:]
        if rest and not state.lenient:
            trail.append((state.copy(), rest))
        state.choose(best)
        return False
    return not _take_triggered(state)


def _take_triggered(state: State) -> bool:
    """Take one package in that comes by itself; one that cannot be completed is left out again."""
    for package in state.triggered():
        attempt = state.copy()
        try:
            attempt.choose(package)
            while attempt.fresh or attempt.open:
                _advance(attempt, [])
        except _DeadEndError:
            continue
        state.chosen, state.holders, state.needs, state.bans = attempt.chosen, attempt.holders, attempt.needs, attempt.bans
        return True
    return False


def _explain(universe: Universe, world: Sequence[Dependency], policy: Policy) -> State:
    """Choose as well as possible although not all can be had, to be able to say what is missing."""
    state = State(universe, policy, lenient=True)
    state.require(world, None)
    while state.fresh or state.open:
        _advance(state, [])
    return state
