# SPDX-License-Identifier: Apache-2.0
"""Which packages a world means: libsolv finds a valid set, these rules lead it to the one that apk would install.

Three things are apk's own. Whom it takes where several packages provide a name (`solver_links`); `install_if`: a
package comes in by itself once all that it names is there, which may bring in more such packages; and a package
that provides a name without version and without priority is not taken for that name alone.
"""

from __future__ import annotations

import re

import solv

from pipeline.apk import solver_links
from pipeline.apk import version as versions
from pipeline.apk.pkginfo import Dependency, parse_dependency
from pipeline.apk.record import dataclass
from pipeline.apk.solver_pool import CHECKSUM, INSTALL_IF, TRIGGER, IndexFile, Universe, term
from pipeline.errors import FactoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pipeline.apk.solver_cache import Cache

_NAME_END = re.compile("[=<>~]")
_ROUNDS = 50  # more than any chain of install_if is long


class UnsolvableError(FactoryError):
    """No set of packages fulfils the world: change the world, or the indexes."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One package of a solution; `index` is the number of the index it is in, `checksum` what this says of it."""

    name: str
    version: str
    index: int
    checksum: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True)
class Solution:
    """The packages that a world means, sorted by name, and the architecture they are for."""

    world: tuple[str, ...]
    arch: str
    packages: tuple[Chosen, ...]


class Solver:
    """Solves worlds over the packages of one Universe."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe
        self.pool = universe.pool
        self._names: dict[int, tuple[tuple[str, str], ...]] = {}
        self._needs: dict[int, tuple[str, ...]] = {}
        self._depths: dict[int, int] = {}

    @classmethod
    def load(cls, files: Sequence[IndexFile], keys: Mapping[str, bytes], arch: str, cache: Cache | None = None) -> Solver:
        """A solver over verified indexes. Raises VerifyError if a signature does not hold."""
        return cls(Universe(files, keys, arch, cache))

    def solve(self, world: Iterable[str]) -> Solution:
        """The packages for `world`. Raises UnsolvableError with the reason, FormatError for what is no dependency."""
        texts = tuple(world)
        wanted = {item.name: item for item in map(parse_dependency, texts)}
        attempt = _Attempt(self, tuple(wanted.values()))
        chosen = attempt.run()
        return Solution(texts, self.universe.arch, tuple(sorted(map(self._chosen, chosen), key=lambda item: (item.name, item.version))))

    def preferences(self, names: Iterable[str]) -> list[Any]:
        """Favours for the providers of `names`, most important name first; libsolv takes the one favoured last."""
        how = solv.Job.SOLVER_FAVOR | solv.Job.SOLVER_SOLVABLE
        job, choices = self.pool.Job, self.universe.links.choices
        return [job(how, number) for number in solver_links.worst_first(choices[name] for name in names)]

    def _chosen(self, number: int) -> Chosen:
        package = self.pool.id2solvable(number)
        name, _, version = package.name.partition("=")
        index = next(index for index, end in enumerate(self.universe.ends) if number < end)
        checksum = package.lookup_str(self.pool.str2id(CHECKSUM))
        return Chosen(name, version, index, checksum, package.lookup_num(solv.SOLVABLE_DOWNLOADSIZE))

    def name_of(self, number: int) -> str:
        """The name of a package."""
        return str(self.pool.id2str(self.pool.id2solvable(number).nameid)).partition("=")[0]

    def provided(self, number: int) -> tuple[tuple[str, str], ...]:
        """Names that a package provides with their versions ("" for none), its own first."""
        if number not in self._names:
            found: dict[str, str] = {}
            for dep in self.pool.id2solvable(number).lookup_deparray(solv.SOLVABLE_PROVIDES):
                name, equals, version = str(dep).partition("=")
                if not name.startswith(TRIGGER):
                    found[name] = version if equals else found.get(name, "")
            self._names[number] = tuple(found.items())
        return self._names[number]

    def requires(self, number: int) -> tuple[str, ...]:
        """The names that a package depends on."""
        if number not in self._needs:
            deps = self.pool.id2solvable(number).lookup_deparray(solv.SOLVABLE_REQUIRES)
            self._needs[number] = tuple(_NAME_END.split(str(dep), maxsplit=1)[0] for dep in deps)
        return self._needs[number]

    def depth(self, number: int) -> int:
        """How long the longest chain of dependencies below a package is; what leads back to itself does not count."""
        stack = [number]
        depths = self._depths
        while stack:
            top = stack[-1]
            below = [package.id for name in self.requires(top) for package in self.pool.whatprovides(self.pool.str2id(name))]
            if top not in depths:
                depths[top] = 0
                stack += [item for item in below if item not in depths]
            else:
                stack.pop()
                depths[top] = max((depths[item] + 1 for item in below if item != top), default=0)
        return depths[number]

    def providers(self, wanted: Dependency) -> list[int]:
        """The packages that fulfil a dependency (or that it excludes, if it is a conflict)."""
        pool = self.pool
        plain = wanted.op in ("", "=")
        name = pool.str2id(term(wanted) if plain else wanted.name, False)
        numbers = [package.id for package in pool.whatprovides(name)] if name else []
        return numbers if plain else [number for number in numbers if self._fulfils(number, wanted)]

    def _fulfils(self, number: int, wanted: Dependency) -> bool:
        package = self.pool.id2solvable(number)
        checksums = {package.name: package.lookup_str(self.pool.str2id(CHECKSUM))} if wanted.op == "><" else {}
        offered = [version for name, version in self.provided(number) if name == wanted.name]
        return bool(solver_links.fulfilling(term(wanted), offered, checksums))


def holds(wanted: Dependency, version: str | None) -> bool:
    """Whether a name provided as `version` ("": without one, None: not at all) fulfils a dependency."""
    if version is None:
        return wanted.conflict
    if not wanted.op:
        return not wanted.conflict
    return bool(version and versions.satisfies(version, wanted.op, wanted.version)) != wanted.conflict


class _Attempt:
    """The search for one world's packages."""

    def __init__(self, solver: Solver, world: tuple[Dependency, ...]) -> None:
        self.solver, self.pool, self.world = solver, solver.pool, world
        self.choices = solver.universe.links.choices
        self.triggered: dict[int, None] = {}
        self.preferred: dict[int, None] = {}
        self.refused: set[int] = set()
        self.order: list[str] = []

    def run(self) -> list[int]:
        """The numbers of the packages chosen. Raises UnsolvableError."""
        wanted = self._world_jobs()
        asked = [item.name for item in self.world if item.name in self.choices]
        asked += sorted(self.solver.universe.links.asked)
        jobs = [*self.solver.preferences(asked), *wanted]
        for _ in range(_ROUNDS):
            chosen = self._solve(jobs)
            picked = set(chosen)
            self.refused.update(number for number in (*self.triggered, *self.preferred) if number not in picked)
            present = self._present(chosen)
            if self._update_triggers(present, picked):
                continue
            used = self._used(chosen)
            if used != self.order and self._surprises(used, picked):
                self.order = used
                jobs = [*self.solver.preferences(dict.fromkeys((*used, *asked))), *wanted]
                continue
            better = self._better(used, chosen, picked)
            if not better:
                break
            self.preferred.update(dict.fromkeys(better))
        self._check_selectable(used, chosen, picked)
        return chosen

    def _update_triggers(self, present: Mapping[str, str], picked: set[int]) -> bool:
        """Note what comes in by install_if, and what no longer does; whether there was anything."""
        active = [number for number in self.triggered if number not in self.refused]
        stale = [number for number in active if not self._is_triggered(number, present)]
        self.refused.update(stale)
        new = self._new_triggers(present, picked)
        self.triggered.update(dict.fromkeys(new))
        return bool(new or stale)

    def _used(self, chosen: Iterable[int]) -> list[str]:
        """The names among whose providers there is a choice and which the world or a chosen package depends on."""
        names = dict.fromkeys(item.name for item in self.world if not item.conflict)
        for number in chosen:
            names.update(dict.fromkeys(self.solver.requires(number)))
        return [name for name in names if name in self.choices]

    def _surprises(self, used: Iterable[str], picked: set[int]) -> bool:
        return any(self.choices[name][0] not in picked for name in used)

    def _better(self, used: Iterable[str], chosen: Sequence[int], picked: set[int]) -> list[int]:
        """Providers that apk would have taken: libsolv drops one if a worse one that it brings along will do as well."""
        found = []
        for name in used:
            best = next((number for number in self.choices[name] if number > 0 and number not in self.refused), 0)
            if not best or best in picked:
                continue
            present = [abs(number) for number in self.choices[name] if abs(number) in picked]
            reasons = {reason for number in present for reason in self._other_reasons(number, name, chosen)}
            if not reasons or (reasons.isdisjoint(map(self.solver.name_of, present)) and self._is_deepest(name, present)):
                found.append(best)
        return found

    def _check_selectable(self, used: Iterable[str], chosen: Sequence[int], picked: set[int]) -> None:
        """Raise UnsolvableError for a name that only packages provide which apk does not take for it."""
        for name in used:
            present = [number for number in self.choices[name] if abs(number) in picked]
            if all(number < 0 and not self._other_reasons(-number, name, chosen) for number in present):
                from pipeline.apk import solver_explain

                raise UnsolvableError(solver_explain.unselected(self.solver, name, chosen))

    def _is_deepest(self, name: str, present: Sequence[int]) -> bool:
        """Whether apk decides on `name` before it comes to the packages that are there: longer chains come first."""
        depth = max(map(self.solver.depth, present))
        return any(self.solver.depth(abs(number)) > depth for number in self.choices[name])

    def _other_reasons(self, number: int, name: str, chosen: Iterable[int]) -> set[str]:
        """The names because of which a chosen package is there, other than `name`."""
        offers = {offered for offered, _ in self.solver.provided(number)} - {name}
        reasons = offers.intersection(item.name for item in self.world)
        if number in self.triggered:
            reasons.add(self.solver.name_of(number))
        for other in chosen:
            if other != number:
                reasons.update(offers.intersection(self.solver.requires(other)))
        return reasons

    def _world_jobs(self) -> list[Any]:
        from pipeline.apk import solver_explain

        pool, install, erase = self.pool, solv.Job.SOLVER_INSTALL, solv.Job.SOLVER_ERASE
        jobs = []
        for wanted in self.world:
            numbers = self.solver.providers(wanted)
            if numbers:
                how = (erase if wanted.conflict else install) | solv.Job.SOLVER_SOLVABLE_ONE_OF
                jobs.append(pool.Job(how, pool.towhatprovides(numbers)))
            elif not wanted.conflict:
                raise UnsolvableError(solver_explain.missing(self.solver, wanted, "the world"))
        return jobs

    def _solve(self, jobs: list[Any]) -> list[int]:
        pool = self.pool
        how = solv.Job.SOLVER_INSTALL | solv.Job.SOLVER_SOLVABLE | solv.Job.SOLVER_WEAK
        weak = [pool.Job(how, number) for number in (*self.preferred, *self.triggered) if number not in self.refused]
        engine = pool.Solver()
        engine.set_flag(engine.SOLVER_FLAG_IGNORE_RECOMMENDED, 1)
        problems = engine.solve([*jobs, *weak])
        if problems:
            from pipeline.apk import solver_explain

            raise UnsolvableError(solver_explain.explain(self.solver, self.world, problems))
        end = self.solver.universe.ends[-2]
        return [number for number in engine.raw_decisions(0) if 1 < number < end]

    def _present(self, chosen: Iterable[int]) -> dict[str, str]:
        """Names provided by the chosen packages, with the version if there is one."""
        present: dict[str, str] = {}
        for number in chosen:
            for name, version in self.solver.provided(number):
                present[name] = version or present.get(name, "")
        return present

    def _is_triggered(self, number: int, present: Mapping[str, str]) -> bool:
        texts = self.pool.id2solvable(number).lookup_str(self.pool.str2id(INSTALL_IF)).split()
        # A conflict in install_if never holds: apk 2.14 waits for the name to be decided on, which it then is not.
        return all(text[0] != "!" and holds(item := parse_dependency(text), present.get(item.name)) for text in texts)

    def _new_triggers(self, present: Mapping[str, str], chosen: set[int]) -> list[int]:
        pool, found = self.pool, []
        for name in present:
            trigger = pool.str2id(TRIGGER + name, False)
            for package in pool.whatprovides(trigger) if trigger else ():
                number = package.id
                if number in chosen or number in self.refused or number in self.triggered:
                    continue
                if self.solver.name_of(number) not in present and self._is_triggered(number, present):
                    found.append(number)
        return sorted(found)


def solve(
    indexes: Sequence[IndexFile], world: Iterable[str], arch: str, *, keys: Mapping[str, bytes], cache: Cache | None = None
) -> Solution:
    """The packages of one world; for several worlds over the same indexes make one `Solver`."""
    return Solver.load(indexes, keys, arch, cache).solve(world)
