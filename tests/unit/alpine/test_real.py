# SPDX-License-Identifier: Apache-2.0
"""The real thing: Alpine 3.19's signed indexes and packages, by the keys of this checkout."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pipeline.apk.solver.file_cache import FileCache
from pipeline.apk.solver.pool import IndexFile
from pipeline.apk.solver.solve import Solver
from pipeline.base.errors import VerifyError
from pipeline.base.paths import Paths
from pipeline.channels.alpine.aports import ref_of
from pipeline.channels.alpine.indexes import SignedIndex, day, read_signed
from pipeline.channels.alpine.packages import Wanted, lock_packages
from pipeline.channels.alpine.repository import lay_repository
from pipeline.channels.alpine.settings import read_settings
from pipeline.config.toml import Problems
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_channel, load_plan
from pipeline.supply.fetch import Mirrors
from pipeline.supply.trust import Trust, load_trust
from pipeline.supply.vault import Vault
from tests.unit.mirror import Quiet, serving

NEWEST = "v3.19.1-643-gec825d20535"


@pytest.fixture(scope="module")
def trust(checkout: Path) -> Trust:
    return load_trust(checkout / "keys" / "alpine")


@pytest.fixture(scope="module")
def indexes(shared_dir: Path, trust: Trust) -> tuple[SignedIndex, ...]:
    found = []
    for name in ("main", "community"):
        data = (shared_dir / f"alpine-v3.19/{name}/x86_64/APKINDEX.tar.gz").read_bytes()
        found.append(read_signed(data, trust.ring("x86_64"), "x86_64", name, f"v3.19/{name}/x86_64/APKINDEX.tar.gz"))
    return tuple(found)


def test_indexes_say_when_and_by_whom(indexes: tuple[SignedIndex, ...]) -> None:
    main, community = (index.file for index in indexes)
    assert main.version == NEWEST
    assert ref_of(main.version) == "ec825d20535"
    assert day(main.made) == "2024-06-18 15:36 UTC"
    assert day(community.made) == "2024-06-18 15:25 UTC"
    assert {main.signer, community.signer} == {"alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub"}


def test_the_right_key_for_another_architecture(shared_dir: Path, trust: Trust) -> None:
    data = (shared_dir / "alpine-v3.19/main/x86_64/APKINDEX.tar.gz").read_bytes()
    with pytest.raises(VerifyError, match="no valid signature by a trusted key"):
        read_signed(data, trust.ring("aarch64"), "aarch64", "main", "x")


OLDER = {"systemd-efistub": "gummiboot-efistub"}
"""Packages of the channels' branches, and what they are called in the older branch of these indexes."""


@pytest.mark.parametrize("channel", ["alpine-v3.24", "alpine-v3.23"])
def test_the_worlds_of_our_recipes(
    channel: str, checkout: Path, indexes: tuple[SignedIndex, ...], trust: Trust, tmp_path: Path
) -> None:
    """Every stage's world, and the builder's, can be had of real Alpine."""
    files = [IndexFile(index.file.name, index.data) for index in indexes]
    solver = Solver.load(files, trust.files(["x86_64"]), "x86_64", FileCache(str(tmp_path)))
    plan = load_plan(Paths(checkout), Settings(channel=channel))
    assert plan.channel.releasable
    for stage_world in plan.stage_worlds["x86_64"]:
        world = {OLDER.get(name, name) for name in stage_world}
        assert world & {chosen.name for chosen in solver.solve(sorted(world)).packages}
    settings = read_settings(load_channel(Paths(checkout), channel, Problems()))
    chosen = {item.name for item in solver.solve([*settings.builder, *settings.builder_only["x86_64"]]).packages}
    assert {"apk-tools", "python3", "xorriso", "mkinitfs"} <= chosen


def test_real_packages_are_locked_and_laid(
    shared_dir: Path, trust: Trust, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of an Alpine medium, and ten of its packages, from a mirror of this machine to a repository."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    ring, folder = trust.ring("x86_64"), shared_dir / "alpine-v3.19/packages"
    location = "v3.19/main/x86_64/APKINDEX.tar.gz"
    index = read_signed((folder / "APKINDEX.tar.gz").read_bytes(), ring, "x86_64", "main", location)
    vault = Vault(tmp_path / "vault")
    with serving() as mirror:
        paths = sorted(folder.glob("*.apk"))
        mirror.files = {f"/v3.19/main/x86_64/{path.name}": path.read_bytes() for path in paths}
        there = {path.name for path in paths}
        wanted = [
            Wanted(entry.name, entry.version, entry.checksum, index)
            for entry in index.entries.values()
            if entry.file_name in there
        ]
        source = Mirrors((mirror.address,))
        found = lock_packages(wanted, (), vault=vault, ring=ring, source=source, progress=Quiet())
    assert len(found) == 10
    lay_repository(found, {"main": index}, tmp_path / "out", vault=vault, ring=ring, log=io.BytesIO())
    for path in paths:
        assert (tmp_path / "out/main/x86_64" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "out/main/x86_64/APKINDEX.tar.gz").read_bytes() == (folder / "APKINDEX.tar.gz").read_bytes()
