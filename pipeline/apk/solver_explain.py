# SPDX-License-Identifier: Apache-2.0
"""Why a world has no solution, in the words of a person: who wants what, who is in whose way, what was meant perhaps."""

from __future__ import annotations

import difflib

import solv

from pipeline.apk.pkginfo import parse_dependency
from pipeline.apk.solver_pool import TWICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pipeline.apk.pkginfo import Dependency
    from pipeline.apk.solver import Solver

_WORLD = "the world"
_SHOWN = 12


def _listed(texts: Iterable[str]) -> str:
    """Up to a dozen of `texts`, sorted, and how many more there are."""
    every = sorted(set(texts))
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def _stem(name: str) -> str:
    """`name=version` as people write it."""
    return "-".join(name.split("=", 1))


def _providers(solver: Solver, name: str) -> list[int]:
    return [package.id for package in solver.pool.whatprovides(solver.pool.str2id(name))]


def _offers(solver: Solver, name: str) -> list[str]:
    """What there is of a name: the packages that provide it, and as which version if this is not their own."""
    found = []
    for number in _providers(solver, name):
        stem = _stem(solver.pool.id2solvable(number).name)
        if solver.name_of(number) != name:
            version = dict(solver.provided(number)).get(name, "")
            stem += f" (as {name}={version})" if version else f" (as {name}, without a version)"
        found.append(stem)
    return found


def _similar(solver: Solver, name: str) -> list[str]:
    """Names that are spelt almost like `name`, or that contain it."""
    names = {package.name.partition("=")[0] for package in solver.pool.solvables if package.id < solver.universe.ends[-2]}
    close = difflib.get_close_matches(name, names, n=4, cutoff=0.75)
    if name.partition(":")[0] in ("so", "cmd", "pc"):
        close += {name.partition(":")[2]} & names
    return close or sorted((other for other in names if len(name) > 2 and name in other), key=len)[:4]


def missing(solver: Solver, wanted: Dependency, by: str = _WORLD) -> str:
    """That nothing fulfils a dependency, and what there is instead."""
    if offers := _offers(solver, wanted.name):
        return f"{by} wants {wanted}, but there is only {_listed(offers)}"
    similar = _similar(solver, wanted.name)
    meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
    where = " or ".join(solver.universe.file_names)
    return f"{by} wants {wanted}: not found for {solver.universe.arch} in {where}{meant}"


def unselected(solver: Solver, name: str, chosen: Sequence[int], world: Sequence[Dependency]) -> str:
    """That a name has to be chosen for by a person."""
    asking = [_WORLD] if any(item.name == name for item in world) else []
    asking += [_stem(solver.pool.id2solvable(number).name) for number in chosen if name in solver.requires(number)]
    offers = _listed(_stem(solver.pool.id2solvable(number).name) for number in _providers(solver, name))
    return f"{_listed(asking)} wants {name}, which no package provides by itself: add one of {offers} to the world"


def _is_condition(solver: Solver, package: Any) -> bool:
    """Whether a package of the pool is one of ours that stands for a condition on a version."""
    return package is not None and package.id >= solver.universe.ends[-2]


def _obstacle(solver: Solver, first: Any, dep: str) -> str:
    """Why a package cannot be installed together with another."""
    name = dep.partition("=")[0]
    if name == dep and dict(solver.provided(first.id)).get(name):
        return f"both provide {name}"
    return f"{_stem(first.name)} excludes {name}{dep[len(name) :]}"


class _Problem:
    """What the rules of one problem say, gathered."""

    def __init__(self, solver: Solver) -> None:
        self.solver = solver
        self.wants: set[str] = set()
        self.obstacles: dict[tuple[str, str], set[str]] = {}
        self.involved: set[int] = set()

    def add(self, info: Any) -> None:
        """Take in what one rule says."""
        first, second, engine = info.solvable, info.othersolvable, solv.Solver
        dep = str(info.dep) if info.dep_id else ""
        self.involved.update(package.id for package in (first, second) if package is not None)
        if dep.startswith(TWICE):
            self.wants.add(f"{_stem(first.name)} is never installed: it provides {dep.removeprefix(TWICE)} twice")
        elif info.type == engine.SOLVER_RULE_PKG_NOTHING_PROVIDES_DEP:
            self.wants.add(missing(self.solver, parse_dependency(dep), _stem(first.name)))
        elif info.type == engine.SOLVER_RULE_PKG_REQUIRES and not _is_condition(self.solver, first):
            providers = _providers(self.solver, dep)
            self.involved.update(providers)
            offers = _listed(_stem(self.solver.pool.id2solvable(number).name) for number in providers)
            plain = parse_dependency(dep.removeprefix("!")).op in ("", "=") and offers not in ("", _stem(dep), dep)
            self.wants.add(f"{_stem(first.name)} wants {dep}{f', which is {offers}' if plain else ''}")
        elif info.type == engine.SOLVER_RULE_PKG_CONFLICTS:
            pair = sorted((_stem(first.name), _stem(second.name)))
            self.obstacles.setdefault((pair[0], pair[1]), set()).add(_obstacle(self.solver, first, dep))

    def lines(self, world: Sequence[Dependency]) -> list[str]:
        """All of it, the world's part first."""
        asked = [item for item in world if not self.involved.isdisjoint(self.solver.providers(item))]
        lines = [f"{_WORLD} {f'excludes {str(item)[1:]}' if item.conflict else f'wants {item}'}" for item in asked]
        lines += sorted(self.wants)
        for (first, second), reasons in sorted(self.obstacles.items()):
            lines.append(f"{first} and {second} cannot be installed together: {_listed(reasons)}")
        return lines


def explain(solver: Solver, world: Sequence[Dependency], problems: Sequence[Any]) -> str:
    """The reasons behind libsolv's problems: what is wanted, then what is in the way."""
    blocks = []
    for problem in problems:
        found = _Problem(solver)
        for rule in problem.findallproblemrules():
            for info in rule.allinfos():
                found.add(info)
        blocks.append("\n".join(f"  {line}" for line in found.lines(world)))
    return "no packages fulfil the world:\n" + "\n".join(dict.fromkeys(blocks))
