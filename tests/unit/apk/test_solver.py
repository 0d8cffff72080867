# SPDX-License-Identifier: Apache-2.0
"""Worlds over small indexes: what apk would install, and why there is no way."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.signature import Signer
from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import read_keys
from pipeline.apk.solver.solve import Solver, UnsolvableError, solve
from pipeline.base.errors import VerifyError
from tests.unit.apk.worlds import index, package

P = package


@pytest.fixture
def keys(key_folder: Path) -> dict[str, bytes]:
    return read_keys(str(key_folder))


@pytest.fixture
def answer(signer: Signer, keys: dict[str, bytes], tmp_path: Path):  # type: ignore[no-untyped-def]
    """Solves a world over packages, and checks that the cache answers the same."""

    def ask(packages: list[IndexEntry], world: str, arch: str = "x86_64") -> str:
        cache = FileCache(str(tmp_path / "cache"))
        files = [index(signer, *packages)]
        cold, warm = (solve(files, world.split(), arch, keys=keys, cache=cache) for _ in range(2))
        assert cold == warm
        return " ".join(item.name if item.version == "1-r0" else str(item) for item in cold.packages)

    return ask


LADDER = [
    P("a-1-r0", depends="v"),
    P("p1-1-r0", provides="v", provider_priority=5),
    P("p2-1-r0", provides="v", provider_priority=9),
]
TWO = [P("x-1-r0", provides="so:x=1"), P("y-1-r0", provides="so:x=2")]
CASES = {
    "chain": ([P("a-1-r0", depends="b"), P("b-1-r0", depends="c"), P("c-1-r0")], "a", "a b c"),
    "newest": ([P("a-1-r0"), P("a-2-r0"), P("a-2_rc1-r0")], "a", "a-2-r0"),
    "pinned": ([P("a-1-r0"), P("a-2-r0")], "a=1-r0", "a"),
    "leading zeros": ([P("a-1.05-r0"), P("a-1.1-r0")], "a", "a-1.1-r0"),
    "less": ([P("a-1-r0"), P("a-2-r0")], "a<2", "a"),
    "revision is more": ([P("b-1-r0", depends="a>1"), P("a-1-r0")], "b", "a b"),
    "tilde": ([P("b-1-r0", depends="a~1.2"), P("a-1.2.3-r0"), P("a-1.20-r0")], "b", "a-1.2.3-r0 b"),
    "conflict with versions": ([P("b-1-r0", depends="a !a>1.5"), P("a-1-r0"), P("a-2-r0")], "b", "a b"),
    "so": ([P("b-1-r0", depends="so:libx.so.1"), P("x-1-r0", provides="so:libx.so.1=1.2")], "b", "b x"),
    "so with version": ([P("b-1-r0", depends="so:x>=2"), *TWO], "b", "b y"),
    "newest provider": ([P("b-1-r0", depends="so:x"), *TWO], "b", "b y"),
    "priority": (LADDER, "a", "a p2"),
    "named": (LADDER, "a p1", "a p1"),
    "excluded": (LADDER, "a !p2", "a p1"),
    "real before virtual": ([*LADDER, P("q-1-r0", depends="p1")], "a q", "a p1 q"),
    "install_if": ([P("a-1-r0"), P("rc-1-r0"), P("a-rc-1-r0", install_if="a=1-r0 rc")], "a rc", "a a-rc rc"),
    "install_if of another version": ([P("a-1-r0"), P("d-1-r0"), P("ad-1-r0", install_if="a=2-r0 d")], "a d", "a d"),
    "install_if with dependencies": (
        [P("a-1-r0"), P("b-1-r0"), P("c-1-r0", install_if="a b", depends="d"), P("d-1-r0"), P("e-1-r0", install_if="d a")],
        "a b", "a b c d e",
    ),
    "install_if by a virtual": (
        [P("a-1-r0", depends="v"), P("p-1-r0", provides="v=1"), P("b-1-r0", install_if="v a")], "a", "a b p",
    ),
    "install_if that brings install_if": (
        [P("a-1-r0"), P("b-1-r0", install_if="a"), P("c-1-r0", install_if="b a"), P("d-1-r0", install_if="c b")], "a", "a b c d",
    ),
    "install_if that cannot be": ([P("a-1-r0"), P("b-1-r0", install_if="a", depends="!a")], "a", "a"),
    "install_if excluded": ([P("a-1-r0"), P("b-1-r0", install_if="a")], "a !b", "a"),
    "best brings the others": (
        [P("a-1-r0", depends="v"), P("all-1-r0", provides="v", provider_priority=9, depends="one"),
         P("one-1-r0", provides="v", provider_priority=1)], "a", "a all one",
    ),
    "foreign architecture": ([P("a-1-r0"), P("a-2-r0", arch="aarch64"), P("n-1-r0", arch="noarch")], "a n", "a n"),
    "unversioned twice is once": ([P("a-1-r0", provides="v v"), P("b-1-r0", depends="v a")], "b", "a b"),
    "another version instead": ([P("a-1-r0", provides="a=3"), P("a-0-r0")], "a=0-r0", "a-0-r0"),
    "last of a name counts": ([P("a-1-r0"), P("a-2-r0")], "a=2-r0 a=1-r0", "a"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_worlds(case: str, answer) -> None:  # type: ignore[no-untyped-def]
    packages, world, wanted = CASES[case]
    assert answer(packages, world) == wanted


REASONS = {
    "not found": ([P("openssh-1-r0")], "opensh", ("the world wants opensh: not found", "did you mean openssh?")),
    "no such version": ([P("a-1-r0")], "a>2", ("the world wants a>2, but there is only a-1-r0",)),
    "of a package": ([P("a-1-r0", depends="so:y"), P("b-1-r0")], "a", ("a-1-r0 wants so:y: not found",)),
    "version of a package": ([P("a-1-r0", depends="b>1.5"), P("b-1-r0")], "a", ("a-1-r0 wants b>1.5, but there is only b-1-r0",)),
    "conflict": ([P("a-1-r0", depends="!b"), P("b-1-r0")], "a b", ("the world wants a", "a-1-r0 excludes b")),
    "same name": (
        [P("a-1-r0", provides="v=1"), P("b-1-r0", provides="v=2")],
        "a b",
        ("cannot be installed together", "both provide v"),
    ),
    "excluded": ([P("a-1-r0", depends="b"), P("b-1-r0")], "a !b", ("the world excludes b", "a-1-r0 wants b")),
    "its own name again": ([P("a-1-r0", provides="a=2")], "a", ("the world wants a", "never installed: it provides a twice")),
    "its own name again, unversioned": ([P("a-1-r0", provides="a"), P("b-1-r0", depends="a")], "b", ("it provides a twice",)),
    "a name in two versions": ([P("a-1-r0", provides="v=1 v=2"), P("b-1-r0", depends="v=1")], "b", ("it provides v twice",)),
    "a name with and without version": ([P("a-1-r0", provides="v v=2")], "a", ("it provides v twice",)),
    "not by itself": ([P("a-1-r0", provides="v"), P("b-1-r0", depends="v")], "b", ("b-1-r0 wants v", "add one of a-1-r0")),
}


@pytest.mark.parametrize("case", REASONS)
def test_reasons(case: str, answer) -> None:  # type: ignore[no-untyped-def]
    packages, world, parts = REASONS[case]
    with pytest.raises(UnsolvableError) as caught:
        answer(packages, world)
    for part in parts:
        assert part in str(caught.value)


def test_several_indexes_and_worlds(signer: Signer, keys: dict[str, bytes], tmp_path: Path) -> None:
    """The highest version of all indexes wins; a solver answers for many worlds, each as if it were the first."""
    files = [index(signer, P("a-1-r0", depends="b"), name="main"), index(signer, P("a-2-r0"), P("b-1-r0"), name="community")]
    solver = Solver.load(files, keys, "x86_64", FileCache(str(tmp_path)))
    (newest,) = solver.solve(["a"]).packages
    assert (str(newest), newest.index, newest.size) == ("a-2-r0", 1, 7)
    assert [str(item) for item in solver.solve(["a<2"]).packages] == ["a-1-r0", "b-1-r0"]
    with pytest.raises(UnsolvableError):
        solver.solve(["c"])
    assert solver.solve(["a"]).packages == (newest,)


def test_equal_versions_come_from_the_first_index(signer: Signer, keys: dict[str, bytes], tmp_path: Path) -> None:
    files = [index(signer, P("a-1-r0", depends="b"), P("b-1-r0")), index(signer, P("a-1-r0"))]
    found = solve(files, ["a"], "x86_64", keys=keys, cache=FileCache(str(tmp_path))).packages
    assert [(item.name, item.index) for item in found] == [("a", 0), ("b", 0)]


def test_damaged_cache_is_made_again(signer: Signer, keys: dict[str, bytes], tmp_path: Path) -> None:
    files = [index(signer, P("a-1-r0"))]

    def names() -> list[str]:
        return [str(item) for item in solve(files, ["a"], "x86_64", keys=keys, cache=FileCache(str(tmp_path))).packages]

    assert names() == ["a-1-r0"]
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(whole) == 1
    for path, data in whole.items():
        for damaged in (b"", data[:-1], data[: len(data) // 2], bytes([data[0] ^ 1]) + data[1:], bytes(len(data))):
            path.write_bytes(damaged)
            assert names() == ["a-1-r0"]
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole
        path.unlink()
        os.mkfifo(path)
        assert names() == ["a-1-r0"]
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_cache_does_not_outlive_trust(signer: Signer, keys: dict[str, bytes], tmp_path: Path) -> None:
    """What was verified with one set of keys is verified again for another, cached or not."""
    file = index(signer, P("a-1-r0"))
    cache = FileCache(str(tmp_path))
    solve([file], ["a"], "x86_64", keys=keys, cache=cache)
    with pytest.raises(VerifyError):
        solve([file], ["a"], "x86_64", keys={"other.rsa.pub": next(iter(keys.values()))}, cache=cache)
    changed = dataclasses.replace(file, data=file.data[:-30] + bytes([file.data[-30] ^ 1]) + file.data[-29:])
    with pytest.raises(VerifyError):
        solve([changed], ["a"], "x86_64", keys=keys, cache=cache)


def test_cache_that_cannot_be_written(signer: Signer, keys: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = solve([index(signer, P("a-1-r0"))], ["a"], "x86_64", keys=keys, cache=FileCache(str(tmp_path / "file")))
    assert [item.name for item in found.packages] == ["a"]
