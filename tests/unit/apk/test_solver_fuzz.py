# SPDX-License-Identifier: Apache-2.0
"""Random small indexes: a solution is valid, and a set that is valid can be had by naming all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.apk.format import version as versions
from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.pkginfo import Dependency, parse_dependency
from pipeline.apk.format.signature import Signer
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import read_keys
from pipeline.apk.solver.solve import UnsolvableError, solve
from tests.unit.apk.worlds import index, package

NO_CACHE = FileCache("/dev/null/none")
NAMES = ("a", "b", "c", "d", "so:x", "v", "cmd:y")
NAME = st.sampled_from(NAMES)
NUMBER = st.sampled_from(("1", "1.2", "2", "2_rc1"))
PLAIN = st.builds(
    lambda sign, name, op, number: f"{sign}{name}{op}{number if op else ''}",
    st.sampled_from(("", "", "", "!")), NAME, st.sampled_from(("", "", "<", ">=", "=", "~")), NUMBER,
)  # fmt: skip
PACKAGE = st.builds(
    lambda name, number, depends, provides, install_if, priority: package(
        f"{name}-{number}-r0", depends=" ".join(depends), provides=" ".join(provides), install_if=install_if,
        provider_priority=priority,
    ),
    st.sampled_from(("a", "b", "c")), NUMBER, st.lists(PLAIN, max_size=2),
    st.lists(st.sampled_from(("so:x=1", "so:x=2", "v=1", "v=2", "d=3", "d", "v", "a=2", "b=1", "c", "cmd:y=1")), max_size=2),
    st.sampled_from(("", "", "", "a b", "c")), st.sampled_from((1, 5)),
)  # fmt: skip

PACKAGES = st.lists(PACKAGE, min_size=1, max_size=7, unique_by=lambda entry: (entry.name, entry.version))


def offered(entry: IndexEntry) -> list[tuple[str, str]]:
    provided = [parse_dependency(text) for text in entry.provides]
    return [(entry.name, entry.version), *((item.name, item.version) for item in provided)]


def fulfils(version: str, wanted: Dependency) -> bool:
    """As apk 3 has it, to which a missing version is older than any."""
    if not version:
        return wanted.op in ("", "<")
    return not wanted.op or versions.satisfies(version, wanted.op, wanted.version)


def is_valid(chosen: Iterable[IndexEntry], world: Iterable[str]) -> bool:
    """Whether all dependencies hold and no name is provided twice, unless without a version both times."""
    every = list(chosen)
    names: dict[str, list[tuple[IndexEntry, str]]] = {}
    for entry in every:
        for name, version in offered(entry):
            names.setdefault(name, []).append((entry, version))
    if any(len(found) > 1 and any(version for _, version in found) for found in names.values()):
        return False
    for owner, text in [(None, text) for text in world] + [(entry, text) for entry in every for text in entry.depends]:
        wanted = parse_dependency(text)
        found = [entry for entry, version in names.get(wanted.name, []) if fulfils(version, wanted)]
        if wanted.conflict and any(entry is not owner for entry in found):
            return False
        if not wanted.conflict and not found:
            return False
    return True


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    PACKAGES,
    st.lists(PLAIN, min_size=1, max_size=3),
)
def test_solutions_are_valid(signer: Signer, key_folder: Path, packages: list[IndexEntry], texts: list[str]) -> None:
    world = list({parse_dependency(text).name: text for text in texts}.values())
    by_name = {(entry.name, entry.version): entry for entry in packages}
    try:
        found = solve([index(signer, *packages)], world, "x86_64", keys=read_keys(str(key_folder)), cache=NO_CACHE)
    except UnsolvableError as error:
        assert error.message
        sets = itertools.chain.from_iterable(itertools.combinations(packages, size) for size in range(len(packages) + 1))
        chosen = next((chosen for chosen in sets if is_valid(chosen, world)), None)
        # What comes in by install_if can be in the way of a world whatever this names.
        if chosen is not None and not any(entry.install_if for entry in packages):
            # apk, which never goes back, does not find it; it does once it is led there.
            named = {entry.name: f"{entry.name}={entry.version}" for entry in chosen}
            rest = [text for text in world if parse_dependency(text).name not in named]
            keys = read_keys(str(key_folder))
            found = solve([index(signer, *packages)], [*named.values(), *rest], "x86_64", keys=keys, cache=NO_CACHE)
            assert set(named) <= {item.name for item in found.packages}
        return
    assert is_valid([by_name[item.name, item.version] for item in found.packages], world)
