# SPDX-License-Identifier: Apache-2.0
"""From the packages chosen to the steps to take: removals first, then each package after what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pipeline.apk import version as versions
from pipeline.apk.pkginfo import Dependency
from pipeline.lab.apktool.packages import Package, Universe, fits


class Change:
    """One step: `old` becomes `new`; the one of them that is None is not there before or after."""

    __slots__ = ("new", "old")

    def __init__(self, old: Package | None, new: Package | None) -> None:
        self.old = old
        self.new = new

    def describe(self) -> str:
        """The step in apk's words."""
        old, new = self.old, self.new
        if new is None:
            return f"Purging {old.name} ({old.version})" if old else ""
        if old is None:
            return f"Installing {new.name} ({new.version})"
        if old is new:
            return f"Reinstalling {new.name} ({new.version})"
        order = versions.compare(new.version, old.version)
        verb = ("Downgrading", "Replacing", "Upgrading")[order + 1]
        return f"{verb} {new.name} ({old.version} -> {new.version})"


def order(world: Iterable[Dependency], chosen: Mapping[str, Package], universe: Universe) -> list[Package]:
    """The chosen packages, each after those it depends on, as a walk from the world meets them.

    What comes in by install_if follows the last of the packages that call for it.
    """
    walk = _Walk(chosen, universe)
    walk.follow([dep for dep in world if not dep.conflict])
    for name in sorted(chosen):
        walk.visit(chosen[name])
    return walk.done


class _Walk:
    def __init__(self, chosen: Mapping[str, Package], universe: Universe) -> None:
        self._chosen = chosen
        self._universe = universe
        self._providers: dict[str, list[tuple[Package, str | None]]] = {}
        for package in chosen.values():
            for name, version in package.provided:
                self._providers.setdefault(name, []).append((package, version))
        self._seen: set[str] = set()
        self._finished: set[str] = set()
        self.done: list[Package] = []

    def follow(self, wanted: Sequence[Dependency]) -> None:
        """Visit the providers of dependencies, in their order."""
        stack = [iter(wanted)]
        owners: list[Package | None] = [None]
        # A stack of its own: dependency chains are deeper than Python's recursion would like.
        while stack:
            dep = next(stack[-1], None)
            if dep is None:
                stack.pop()
                package = owners.pop()
                if package is not None:
                    self._finish(package)
                    self._triggered(package)
                continue
            for package, version in self._providers.get(dep.name, ()):
                if not dep.conflict and package.name not in self._seen and fits(dep, package, version):
                    self._seen.add(package.name)
                    stack.append(iter(package.depends))
                    owners.append(package)
                    break

    def visit(self, package: Package) -> None:
        """Visit one package and what it needs."""
        if package.name not in self._seen:
            self._seen.add(package.name)
            self.follow(package.depends)
            self._finish(package)
            self._triggered(package)

    def _finish(self, package: Package) -> None:
        self._finished.add(package.name)
        self.done.append(package)

    def _triggered(self, package: Package) -> None:
        for name in dict.fromkeys(name for name, _ in package.provided):
            for other in self._universe.triggered_by(name):
                if self._chosen.get(other.name) is other and other.name not in self._seen and self._complete(other):
                    self.visit(other)

    def _complete(self, package: Package) -> bool:
        return all(
            any(
                other.name in self._finished and fits(dep, other, version) for other, version in self._providers.get(dep.name, ())
            )
            for dep in package.install_if
        )


def plan(
    world: Sequence[Dependency],
    installed: Mapping[str, Package],
    chosen: Mapping[str, Package],
    universe: Universe,
    again: frozenset[str] = frozenset(),
) -> list[Change]:
    """The steps from the installed packages to the chosen ones; those in `again` are installed once more."""
    gone = {name: package for name, package in installed.items() if name not in chosen}
    removals = [Change(package, None) for package in reversed(order((), installed, universe)) if package.name in gone]
    additions = []
    for package in order(world, chosen, universe):
        old = installed.get(package.name)
        if old is not package or package.name in again:
            additions.append(Change(old, package))
    return removals + additions
