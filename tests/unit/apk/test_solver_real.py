# SPDX-License-Identifier: Apache-2.0
"""Worlds over the whole indexes of Alpine 3.19: the real apk's answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main
from pipeline.apk.signature import KeyRing
from pipeline.apk.solver import Solver
from pipeline.apk.solver_cache import Cache
from pipeline.apk.solver_pool import IndexFile

INDEXES = ("main/x86_64/APKINDEX.tar.gz", "community/x86_64/APKINDEX.tar.gz")


@pytest.fixture(scope="module")
def alpine_keys(alpine_ring: KeyRing) -> dict[str, bytes]:
    return {name: alpine_ring.key(name) for name in alpine_ring.names}


@pytest.mark.shared
def test_answers_of_apk(alpine: Path, alpine_keys: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 worlds with one solver, then one through the command over the cache."""
    cache = tmp_path / "cache"
    solver = Solver.load(
        [IndexFile(name, (alpine / name).read_bytes()) for name in INDEXES], alpine_keys, "x86_64", Cache(str(cache))
    )
    cases = json.loads((alpine / "solve-cases.json").read_text())
    for case in cases:
        assert sorted(map(str, solver.solve(case["world"]).packages)) == sorted(case["install"]), case["world"]
    keys = tmp_path / "keys"
    keys.mkdir()
    for name, data in alpine_keys.items():
        (keys / name).write_bytes(data)
    options = ["--keys", str(keys), "--arch", "x86_64", "--cache", str(cache)]
    options += [part for name in INDEXES for part in ("--index", str(alpine / name))]
    assert main(["solve", *options, *cases[0]["world"]]) == 0
    assert capsys.readouterr().out.split() == sorted(cases[0]["install"])
    assert main(["solve", *options, "alpine-bas"]) == 1
    assert "did you mean alpine-base" in capsys.readouterr().err
    assert main(["solve", *options, "a>>"]) == 2
    assert main(["solve", *options]) == 2
