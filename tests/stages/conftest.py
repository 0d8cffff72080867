# SPDX-License-Identifier: Apache-2.0
"""The bench that stages are run on, and the material that several of them take; each made once for all tests."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.apk.format.signature import generate_key
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.build.factory import Factory
from pipeline.plan.nodes import Settings
from pipeline.plan.planner import load_plan
from tests.stages.bench import KEY, RENEW, Bench
from tests.stages.material import LOCKED_BASE, LOCKED_ROOT, write_own_packages, write_repository

PACKAGES = ("alpine-base", "toweros-tiny")
"""What the medium of tests has in its repository, with what they need."""
# What the tiny packages have of the builder's own files.
_PARTS = "bin/busybox lib/ld-musl-x86_64.so.1 usr/lib/grub usr/share/syslinux"


@pytest.fixture(scope="session")
def bench(checkout: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The builder of the channel `lab`, made if the engine does not have it."""
    paths = Paths(checkout)
    factory = Factory(load_plan(paths, Settings()), paths, Screen(quiet=True))
    factory.make_lock(again=False)
    factory.fetch()
    keys = tmp_path_factory.mktemp("keys")
    generate_key(keys, KEY.removesuffix(".rsa.pub"), 2048)
    try:
        yield Bench(
            checkout,
            factory.engine_for("x86_64"),
            factory.builder(),
            factory.driver.aports(),
            keys,
            request.config.getoption(RENEW),
        )
    finally:
        factory.stop()
        factory.store.close()


@pytest.fixture(scope="session")
def keys(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public keys, as stages get them."""
    folder = tmp_path_factory.mktemp("public")
    shutil.copy(bench.keys / KEY, folder)
    return folder


@pytest.fixture(scope="session")
def parts(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the builder's own packages: a shell, boot loaders."""
    folder = tmp_path_factory.mktemp("parts")
    bench.make(folder / "packed", "sh", "-c", f"cd / && tar -chf /out/parts.tar {_PARTS}")
    with tarfile.open(folder / "packed/parts.tar") as archive:
        archive.extractall(folder / "tree", filter="data")
    return folder / "tree"


@pytest.fixture(scope="session")
def repository(bench: Bench, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny repository of an architecture."""
    made: dict[str, Path] = {}

    def of(arch: str) -> Path:
        if arch not in made:
            made[arch] = write_repository(tmp_path_factory.mktemp(f"repository-{arch}"), parts, arch, bench.keys)
        return made[arch]

    return of


@pytest.fixture(scope="session")
def own_packages(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own repository, with one package."""
    return write_own_packages(tmp_path_factory.mktemp("own"), bench.keys)


@pytest.fixture(scope="session")
def host_root(
    bench: Bench, repository: Callable[[str], Path], keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """What the stage host-root makes of the tiny repository, for an architecture."""
    made: dict[str, Path] = {}

    def of(arch: str) -> Path:
        if arch not in made:
            folder = tmp_path_factory.mktemp(f"root-{arch}") / "out"
            bench.run(
                "host-root", folder, inputs={"repository": repository(arch), "keys": keys},
                options={"world": ("alpine-base", "mkinitfs"), "kernel": ("linux-tiny",)}, locked=LOCKED_ROOT, arch=arch,
            )  # fmt: skip
            made[arch] = folder
        return made[arch]

    return of


@pytest.fixture(scope="session")
def medium(
    bench: Bench, repository: Callable[[str], Path], own_packages: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What the stage medium-packages makes."""
    folder = tmp_path_factory.mktemp("medium") / "out"
    inputs = {"repository": repository("x86_64"), "keys": keys, "aports": bench.aports, "packages": own_packages}
    bench.run("medium-packages", folder, inputs=inputs, options={"packages": PACKAGES}, locked=LOCKED_BASE)
    return folder
