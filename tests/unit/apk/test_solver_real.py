# SPDX-License-Identifier: Apache-2.0
"""Worlds over the whole indexes of Alpine 3.19: the real apks' answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main
from pipeline.apk.format.signature import KeyRing
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import IndexFile
from pipeline.apk.solver.solve import Solver, UnsolvableError

INDEXES = ("main/x86_64/APKINDEX.tar.gz", "community/x86_64/APKINDEX.tar.gz")
TABLE = Path(__file__).with_name("solve-cases-3.json")


@pytest.fixture(scope="module")
def alpine_keys(alpine_ring: KeyRing) -> dict[str, bytes]:
    return {name: alpine_ring.key(name) for name in alpine_ring.names}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def solvers(alpine: Path, alpine_keys: dict[str, bytes], cache: str) -> dict[int, Solver]:
    files = [IndexFile(name, (alpine / name).read_bytes()) for name in INDEXES]
    return {number: Solver.load(files, alpine_keys, "x86_64", FileCache(cache), generation=number) for number in (2, 3)}


def test_answers_of_apk_2(alpine: Path, solvers: dict[int, Solver]) -> None:
    """60 worlds that were recorded with apk 2.14."""
    for case in json.loads((alpine / "solve-cases.json").read_text()):
        assert sorted(map(str, solvers[2].solve(case["world"]).packages)) == sorted(case["install"]), case["world"]


def test_answers_of_apk_3(solvers: dict[int, Solver]) -> None:
    """300 worlds that `ci/bench/solve.py worlds --seed table` recorded with apk 3.0.8; some have no solution."""
    cases = json.loads(TABLE.read_text())
    assert len(cases) == 300
    for case in cases:
        try:
            found: list[str] | None = sorted(item.name for item in solvers[3].solve(case["world"]).packages)
        except UnsolvableError as error:
            assert error.message.count("\n") or "not found" in error.message
            found = None
        assert found == case["install"], case["world"]


@pytest.mark.usefixtures("solvers")
def test_command(
    alpine: Path, alpine_keys: dict[str, bytes], cache: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command answers as apk 3 unless it is told otherwise."""
    for name, data in alpine_keys.items():
        (tmp_path / name).write_bytes(data)
    options = ["--keys", str(tmp_path), "--arch", "x86_64", "--cache", cache]
    options += [part for name in INDEXES for part in ("--index", str(alpine / name))]
    case = json.loads((alpine / "solve-cases.json").read_text())[0]
    assert main(["solve", "--apk", "2", *options, *case["world"]]) == 0
    assert capsys.readouterr().out.split() == sorted(case["install"])
    counted = []
    for chosen in ([], ["--apk", "3"], ["--apk=2"]):
        assert main(["solve", *options, *chosen, "libcanberra-gtk3", "alsa-lib"]) == 0
        counted.append("libcanberra-alsa-0.30-r9" in capsys.readouterr().out.split())
    assert counted == [True, True, False]
    assert main(["solve", *options, "alpine-bas"]) == 1
    assert "did you mean alpine-base" in capsys.readouterr().err
    assert main(["solve", *options, "a>>"]) == 2
    for wrong in ([], ["--apk", "4", "a"], ["--apk", "2", "--apk"]):
        assert main(["solve", *options, *wrong]) == 2
