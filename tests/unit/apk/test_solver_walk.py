# SPDX-License-Identifier: Apache-2.0
"""apk 3's walk: the layout gives the same order as going from name to name, and what the cache keeps of it is the same."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.signature import Signer
from pipeline.apk.solver import pool
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.graph import Graph, bucket, make_tables, read_members
from pipeline.apk.solver.pool import Universe, read_keys
from pipeline.apk.solver.solve import Solver, in_order
from pipeline.apk.solver.tables import Tables
from pipeline.apk.solver.walk import Walk
from tests.unit.apk.test_solver_fuzz import PACKAGES
from tests.unit.apk.worlds import index, package


def plain_walk(graph: Graph, roots: Iterable[int]) -> list[int]:
    """The names in the order in which they get their numbers."""
    order: list[int] = []
    names: set[int] = set()
    packages: set[int] = set()

    def visit(name: int) -> None:
        if name in names:
            return
        names.add(name)
        offers = [package for package, _version in graph.offers[name]]
        for package_number in offers:
            if package_number not in packages:
                packages.add(package_number)
                for other in graph.depends[package_number]:
                    visit(other)
        for other in graph.waiting[name]:
            visit(other)
        for package_number in offers:
            own = graph.numbers[graph.members[package_number].entry.name]
            for other in (*graph.waiting[own], *graph.provides[package_number]):
                visit(other)
        order.append(name)
        for package_number in offers:
            for other in graph.install_if[package_number]:
                visit(other)

    for root in roots:
        visit(root)
    return order


@settings(max_examples=300)
@given(PACKAGES, st.randoms(use_true_random=False))
def test_layout_gives_the_order_of_a_plain_walk(packages: list[IndexEntry], random) -> None:  # type: ignore[no-untyped-def]
    graph = Graph(read_members([packages], "x86_64", 3))
    roots = [number for number in range(len(graph.texts)) if not graph.hidden[number]]
    roots = random.sample(roots, min(2, len(roots)))
    walk = Walk(Tables(memoryview(make_tables([packages], "x86_64", 3))))
    for root in roots:
        walk.go(root)
    found = sorted((number, name) for name, number in enumerate(walk.numbers) if number)
    found_names = [name for _number, name in found if not graph.hidden[name]]
    assert found_names == [name for name in plain_walk(graph, roots) if not graph.hidden[name]]


def test_names_lie_in_apks_order() -> None:
    """Places that MurmurHash3 gives by other implementations (seed 5381)."""
    names = ("a", "ab", "abc", "abcd", "musl", "so:libc.musl-x86_64.so.1")
    assert [bucket(name) for name in names] == [12779, 19360, 19487, 4535, 2905, 5189]


def test_a_long_walk_is_kept(signer: Signer, key_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the cache, without it and with one that is damaged the answer is the same; only so many walks are kept."""
    monkeypatch.setattr(pool, "_LONG_WALK", 1)
    monkeypatch.setattr(pool, "_MOST_WALKS", 3)
    packages = [package(f"{name}-1-r0", depends=f"v {name}x") for name in "abcdef"]
    packages += [package(f"{name}x-1-r0", provides="v", provider_priority=number) for number, name in enumerate("abcdef", 1)]
    file, keys, cache = index(signer, *packages), read_keys(str(key_folder)), FileCache(str(tmp_path))
    worlds = [["a", "b"], ["b"], ["c", "f"], ["d"], ["e", "a"], ["a", "b"]]

    def ask() -> list[list[str]]:
        universe = Universe.load([file], keys, "x86_64", cache)
        return [[str(item) for item in in_order(universe, world)] for world in worlds]

    fresh = Universe.of([packages], "x86_64")
    wanted = [[str(item) for item in in_order(fresh, world)] for world in worlds]
    assert ask() == wanted
    kept = [path for path in tmp_path.iterdir() if "-" in path.name]
    assert len(kept) == 3
    assert ask() == wanted
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40] + os.urandom(40))
    assert ask() == wanted
    assert Solver(fresh).solve(["b", "a"]).packages
