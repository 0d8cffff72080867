# SPDX-License-Identifier: Apache-2.0
"""`python -m pipeline.apk solve`: print the packages for a world, one `name-version` a line."""

from __future__ import annotations

import gc
import sys

from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_OPTIONS = ("--keys", "--index", "--arch", "--cache", "--apk")
_USAGE = 2


@dataclass(frozen=True, slots=True)
class SolveRequest:
    """The options of the command line; `cache` is "" for the default folder, `generation` that of apk."""

    keys: str
    indexes: tuple[str, ...]
    arch: str
    world: tuple[str, ...]
    cache: str = ""
    generation: int = 3


def plain_request(arguments: Sequence[str]) -> SolveRequest | None:
    """Return the request of a command line with plain `--option value` pairs and packages; None if it needs a real parser."""
    given: dict[str, list[str]] = {name: [] for name in _OPTIONS}
    world = []
    rest = iter(arguments)
    for argument in rest:
        if argument in given:
            value = next(rest, "-")
            if value.startswith("-"):
                return None
            given[argument].append(value)
        elif argument.startswith("-"):
            return None
        else:
            world.append(argument)
    keys, arch, cache, generation = (given[name] for name in ("--keys", "--arch", "--cache", "--apk"))
    if not (world and given["--index"] and len(keys) == len(arch) == 1 and len(cache) < 2):
        return None
    if generation not in ([], ["2"], ["3"]):
        return None
    return SolveRequest(keys[0], tuple(given["--index"]), arch[0], tuple(world), "".join(cache), int("".join(generation) or 3))


def run(request: SolveRequest) -> int:
    """Solve, and print the packages; return the exit status. Raises FactoryError (UnsolvableError too) and OSError."""
    from pipeline.apk.format.pkginfo import parse_dependency
    from pipeline.apk.solver.file_cache import FileCache

    gc.disable()  # the run is short, and garbage collection would visit its many small objects again and again
    try:
        for text in request.world:
            parse_dependency(text)
    except FormatError as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE
    from pipeline.apk.solver.pool import IndexFile, read_keys
    from pipeline.apk.solver.solve import Solver

    files = []
    for path in request.indexes:
        with open(path, "rb") as stream:  # noqa: PTH123 (pathlib is slow to import)
            files.append(IndexFile(path, stream.read()))
    keys, cache = read_keys(request.keys), FileCache(request.cache)
    solver = Solver.load(files, keys, request.arch, cache, generation=request.generation)
    solution = solver.solve(request.world)
    sys.stdout.write("".join(f"{line}\n" for line in sorted(map(str, solution.packages))))
    return 0
