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
from pipeline.apk.pkginfo import parse_dependency
from pipeline.apk.record import dataclass
from pipeline.apk.solver_errors import UnsolvableError as UnsolvableError  # noqa: PLC0414 (exported)
from pipeline.apk.solver_pool import CHECKSUM, INSTALL_IF, TRIGGER, Universe, term
from pipeline.apk.solver_search import Search

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from pipeline.apk.pkginfo import Dependency
    from pipeline.apk.solver_cache import Cache
    from pipeline.apk.solver_pool import IndexFile

_NAME_END = re.compile("[=<>~]")


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
        self._install_if: dict[int, tuple[Dependency, ...]] = {}
        self._install_if_key = self.pool.str2id(INSTALL_IF)
        self._waiting: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, files: Sequence[IndexFile], keys: Mapping[str, bytes], arch: str, cache: Cache | None = None) -> Solver:
        """A solver over verified indexes. Raises VerifyError if a signature does not hold."""
        return cls(Universe(files, keys, arch, cache))

    def solve(self, world: Iterable[str]) -> Solution:
        """The packages for `world`. Raises UnsolvableError with the reason, FormatError for what is no dependency."""
        texts = tuple(world)
        wanted = {item.name: item for item in map(parse_dependency, texts)}
        attempt = Search(self, tuple(wanted.values()))
        chosen = attempt.run()
        return Solution(
            texts, self.universe.arch, tuple(sorted(map(self._chosen, chosen), key=lambda item: (item.name, item.version)))
        )

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

    def install_if(self, number: int) -> tuple[Dependency, ...]:
        """What has to be there for a package to come in by itself."""
        if number not in self._install_if:
            texts = self.pool.id2solvable(number).lookup_str(self._install_if_key).split()
            self._install_if[number] = tuple(map(parse_dependency, texts))
        return self._install_if[number]

    def waiting_for(self, name: str) -> tuple[int, ...]:
        """The packages whose install_if is looked at once `name` is there."""
        if name not in self._waiting:
            trigger = self.pool.str2id(TRIGGER + name, False)
            self._waiting[name] = tuple(package.id for package in self.pool.whatprovides(trigger)) if trigger else ()
        return self._waiting[name]

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


def solve(
    indexes: Sequence[IndexFile], world: Iterable[str], arch: str, *, keys: Mapping[str, bytes], cache: Cache | None = None
) -> Solution:
    """The packages of one world; for several worlds over the same indexes make one `Solver`."""
    return Solver.load(indexes, keys, arch, cache).solve(world)
