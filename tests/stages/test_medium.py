# SPDX-License-Identifier: Apache-2.0
"""The stages of the medium, by aports' own mkimage.sh, with a kernel and packages of a few bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.bench import Bench
from tests.stages.conftest import PACKAGES
from tests.stages.material import LOCKED_MEDIUM
from tests.stages.trees import write_tree

_MEDIUM: dict[str, str | tuple[str, ...]] = {"flavor": "tiny", "features": ("base",)}


@pytest.fixture(scope="module")
def modloop(bench: Bench, repository: Callable[[str], Path], keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage modloop makes."""
    folder = tmp_path_factory.mktemp("modloop") / "out"
    inputs = {"repository": repository("x86_64"), "keys": keys, "aports": bench.aports}
    bench.run("modloop", folder, inputs=inputs, options={**_MEDIUM, "packages": ("linux-tiny",)}, locked=LOCKED_MEDIUM)
    return folder


def test_modloop(bench: Bench, modloop: Path) -> None:
    bench.compare("modloop", modloop)


def test_medium_packages(bench: Bench, medium: Path) -> None:
    bench.compare("medium-packages", medium)


def test_iso(bench: Bench, modloop: Path, medium: Path, own_packages: Path, keys: Path, tmp_path: Path) -> None:
    inputs = {
        "medium": medium, "keys": keys, "aports": bench.aports, "packages": own_packages, "modloop": modloop,
        "apkovl": write_tree(tmp_path / "apkovl", {"thinclient.apkovl.tar.gz": "overlay\n"}),
        "wheels": write_tree(tmp_path / "wheels", {"requirements.txt": "# none\n"}),
        "docs": write_tree(tmp_path / "docs", {"docs/index.md": "# Manual\n"}),
        "host-rpi": write_tree(tmp_path / "host", {"image.img.zst": "image\n", "image.bmap": "map\n"}),
    }  # fmt: skip
    options = {**_MEDIUM, "packages": PACKAGES, "cmdline": "console=ttyS0", "releasable": "no"}
    bench.run("iso", tmp_path / "out", inputs=inputs, options=options)
    bench.compare("iso", tmp_path / "out")
