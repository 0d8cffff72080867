# SPDX-License-Identifier: Apache-2.0
"""The search for one world's packages: libsolv solves, what apk would do otherwise is found in its answer, and so on.

Each round adds what is missing to libsolv's jobs: packages that `install_if` brings in, and providers that apk
prefers; the order of preference is made anew of the names that matter once these are known.
"""

from __future__ import annotations

import solv

from pipeline.apk import version as versions
from pipeline.apk.solver_errors import UnsolvableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pipeline.apk.pkginfo import Dependency
    from pipeline.apk.solver import Solver

_ROUNDS = 50  # more than any chain of install_if is long


def holds(wanted: Dependency, version: str | None) -> bool:
    """Whether a name provided as `version` ("": without one, None: not at all) fulfils a dependency."""
    if version is None:
        return wanted.conflict
    if not wanted.op:
        return not wanted.conflict
    return bool(version and versions.satisfies(version, wanted.op, wanted.version)) != wanted.conflict


class Search:
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

                raise UnsolvableError(solver_explain.unselected(self.solver, name, chosen, self.world))

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
        pool, install, erase = self.pool, solv.Job.SOLVER_INSTALL, solv.Job.SOLVER_ERASE
        jobs = []
        for wanted in self.world:
            numbers = self.solver.providers(wanted)
            if numbers:
                how = (erase if wanted.conflict else install) | solv.Job.SOLVER_SOLVABLE_ONE_OF
                jobs.append(pool.Job(how, pool.towhatprovides(numbers)))
            elif not wanted.conflict:
                from pipeline.apk import solver_explain

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
        # A conflict in install_if never holds: apk 2.14 waits for the name to be decided on, which it then is not.
        return all(not item.conflict and holds(item, present.get(item.name)) for item in self.solver.install_if(number))

    def _new_triggers(self, present: Mapping[str, str], picked: set[int]) -> list[int]:
        found = []
        for name in present:
            for number in self.solver.waiting_for(name):
                if number in picked or number in self.refused or number in self.triggered:
                    continue
                if self._is_triggered(number, present) and self.solver.name_of(number) not in present:
                    found.append(number)
        return sorted(found)
