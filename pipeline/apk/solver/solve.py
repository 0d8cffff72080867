# SPDX-License-Identifier: Apache-2.0
"""Choose the packages for a world: those that apk would install.

apk decides step by step and never goes back; so it has one answer where several sets would do, and sometimes none
where there is one. This solver gives apk's answer: `search` follows its rules, of apk 3 or of apk 2, over the packages of
a `Universe` (`pool`), in the order of apk's walk (`walk`).
"""

from __future__ import annotations

from pipeline.apk.format.pkginfo import parse_dependency
from pipeline.apk.solver.errors import UnsolvableError as UnsolvableError  # noqa: PLC0414 (exported)
from pipeline.apk.solver.pool import Universe
from pipeline.apk.solver.search import Search
from pipeline.apk.solver.state import Condition
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.apk.format.pkginfo import Dependency
    from pipeline.apk.solver.file_cache import FileCache
    from pipeline.apk.solver.pool import IndexFile
    from pipeline.apk.solver.state import PackageState
    from pipeline.apk.solver.tables import Tables


@dataclass(frozen=True, slots=True)
class Chosen:
    """One package of a solution; `index` is the number of its index, `checksum` the one that the index states."""

    name: str
    version: str
    index: int
    checksum: str
    size: int

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"


@dataclass(frozen=True, slots=True)
class Solution:
    """The packages of a world, sorted by name, and their architecture."""

    world: tuple[str, ...]
    arch: str
    packages: tuple[Chosen, ...]


def generation_of(branch: str) -> int:
    """Return the generation of apk in a branch of Alpine: 3 from v3.23 on, and for a branch without a number (edge)."""
    major, _, minor = branch.removeprefix("v").partition(".")
    return 2 if major.isdigit() and minor.isdigit() and (int(major), int(minor)) < (3, 23) else 3


class Solver:
    """Solves worlds over the packages of one Universe."""

    def __init__(self, universe: Universe) -> None:
        self.universe = universe

    @classmethod
    def load(
        cls,
        files: Sequence[IndexFile],
        keys: Mapping[str, bytes],
        arch: str,
        cache: FileCache | None = None,
        *,
        generation: int = 3,
    ) -> Solver:
        """Load a solver over signed indexes for apk of a `generation` (2 or 3). Raises VerifyError for a bad signature."""
        return cls(Universe.load(files, keys, arch, cache, generation=generation))

    def solve(self, world: Iterable[str]) -> Solution:
        """Return the packages for `world`. Raises UnsolvableError with the reason, FormatError for a bad dependency."""
        texts = tuple(world)
        chosen = in_order(self.universe, texts)
        return Solution(texts, self.universe.arch, tuple(sorted(chosen, key=lambda item: (item.name, item.version))))


def in_order(universe: Universe, world: Iterable[str]) -> list[Chosen]:
    """Return the packages for `world` in apk's order of installation. Raises UnsolvableError, FormatError."""
    # The last word for a name counts, and apk sorts by name, ignoring case.
    wanted = {item.name: item for item in map(parse_dependency, world)}
    items = [wanted[name] for name in sorted(wanted, key=lambda name: (name.lower(), name))]
    conditions = _conditions(universe, items)
    numbers = universe.numbers([item.name for item in conditions])
    search = Search(universe.tables, universe.generation, conditions, numbers)
    found = search.run()
    if search.failures:
        from pipeline.apk.solver import unsolvable

        raise UnsolvableError(unsolvable.explain(universe, search, found))
    return [_chosen(universe.tables, package) for package in found]


def _conditions(universe: Universe, items: Iterable[Dependency]) -> list[Condition]:
    """Return the world with its names as numbers; a conflict with a name that does not exist is dropped."""
    conditions = []
    for item in items:
        number = universe.tables.find(item.name)
        if number >= 0:
            conditions.append(Condition(number, item.op, item.version, conflict=item.conflict))
        elif not item.conflict:
            from pipeline.apk.solver import unsolvable

            raise UnsolvableError(unsolvable.missing(universe, item, "the world"))
    return conditions


def _chosen(tables: Tables, package: PackageState) -> Chosen:
    name = tables.names.text(package.name)
    return Chosen(name, package.version, package.index, tables.checksum(package.number), tables.package_size[package.number])


def solve(
    indexes: Sequence[IndexFile],
    world: Iterable[str],
    arch: str,
    *,
    keys: Mapping[str, bytes],
    cache: FileCache | None = None,
    generation: int = 3,
) -> Solution:
    """Solve one world; for several worlds over the same indexes make one `Solver`."""
    return Solver.load(indexes, keys, arch, cache, generation=generation).solve(world)
