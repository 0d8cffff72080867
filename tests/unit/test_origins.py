# SPDX-License-Identifier: Apache-2.0
"""Where each package comes from, as manifests say it; the lab's packages are real ones, packed for the test."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from pipeline.apk.format.package import write_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.base.errors import FormatError
from pipeline.build.factory import Factory
from pipeline.cli import inputs
from pipeline.plan.nodes import Image
from pipeline.supply.lock import Lock
from tests.unit.small import CHANNEL, Driver, make_checkout, make_factory, put, write

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FOR_ALL = "tzdata-1.apk"
"""A package that the index lists as for all architectures, and that lies in the folder `noarch`."""
LAB = '[settings.mirror]\nsuite = "trixie"\n'


def packed(name: str, commit: str, arch: str = "x86_64", version: str = "1") -> bytes:
    """A package whose field `commit` is given."""
    out = io.BytesIO()
    info = PkgInfo(name=name, version=version, arch=arch, description="for tests", url="", license="", commit=commit)
    write_package(out, info, {}, [], epoch=1000)
    return out.getvalue()


@dataclass
class Packages(Driver):
    """A channel whose repository holds these files."""

    files: Mapping[str, bytes] = field(default_factory=dict)

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        for name, data in self.files.items():
            path = output / "main" / ("noarch" if name == FOR_ALL else arch) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def origins(
    root: Path, files: Mapping[str, bytes], *, settings: str = LAB, made: Mapping[str, str] | None = None, branch: str = "v3.23"
) -> dict[str, str]:
    """Name -> origin in the manifest of the PC's image, of a channel with `files`; its last stage packs `made` too."""
    paths = make_checkout(root)
    write(root, {"pipeline/channels/lab.toml": CHANNEL.replace('"edge"', f'"{branch}"') + settings})
    factory: Factory = make_factory(paths, Packages(files=files))
    for node in ("channel:repository:x86_64", "channel:keys"):
        factory.need_by_name(node)
    put(factory, "stage:root:pc", {"root.tar": "root"})
    listed = [
        {"name": name.removesuffix(".apk").partition("-1")[0], "version": f"1{name.removesuffix('.apk').partition('-1')[2]}"}
        for name in [*files, *(path.rpartition("/")[2] for path in made or {})]
    ]
    rows = [{**row, "arch": "x86_64", "checksum": "Q1"} for row in listed]
    put(factory, "stage:pack:pc", {"image.img.zst": "", "packages.json": json.dumps(rows), **(made or {})})
    return {row["name"]: row["origin"] for row in rows_of(factory)}


def rows_of(factory: Factory) -> list[dict[str, str]]:
    (image,) = (image for image in factory.plan.images if image.target == "pc")
    assert isinstance(image, Image)
    rows = json.loads(inputs.publish_image(factory, image).with_name(f"{image.output}.manifest.json").read_bytes())["packages"]
    assert isinstance(rows, list)
    return rows


def test_origins_of_lab_packages_are_alpine_debian_or_ours(tmp_path: Path) -> None:
    files = {
        "busybox-1-r30.apk": packed("busybox", COMMIT, version="1-r30"),
        "alpine-release-1.23.6-r0.apk": packed("alpine-release", COMMIT, version="1.23.6-r0"),
        "python3-1.apk": packed("python3", "3.13.5-2+deb13u1"),
        FOR_ALL: packed("tzdata", "20250101", arch="noarch"),
        "alpine-conf-1.apk": packed("alpine-conf", ""),
    }
    assert origins(tmp_path, files) == {
        "busybox": "alpine 1.23.6",
        "alpine-release": "alpine 1.23.6",
        "python3": "debian trixie",
        "tzdata": "debian trixie",
        "alpine-conf": "ours",
    }


@pytest.mark.parametrize(
    "commit",
    [
        *(COMMIT[:-1], f"{COMMIT}0", COMMIT.upper(), f"{COMMIT}-dirty", f"{COMMIT} {COMMIT}", "\N{FULLWIDTH DIGIT ONE}" * 40),
        *("ours", "alpine 9.9.9", "../../etc/passwd", '"}, {"origin": "ours', "1" * 5000),
    ],
)
def test_an_invalid_commit_is_read_as_a_version(tmp_path: Path, commit: str) -> None:
    assert origins(tmp_path, {"a-1.apk": packed("a", commit)}) == {"a": "debian trixie"}


@pytest.mark.parametrize(
    ("release", "alpine"),
    [
        ({"alpine-base-1.2-r1.apk": "", "alpine-release-1.3-r0.apk": ""}, "alpine 1.3"),
        ({"alpine-base-1.2-r1.apk": ""}, "alpine 1.2"),
        ({}, "alpine 3.23"),
    ],
)
def test_origins_of_mirror_packages_are_the_release_of_alpine(tmp_path: Path, release: dict[str, str], alpine: str) -> None:
    """All is Alpine's, but for what a stage made."""
    files = {name: name.encode() for name in ("busybox-1.apk", *release)}
    found = origins(tmp_path, files, settings="", made={"ours/x86_64/toweros-host-1.apk": "host"})
    assert found.pop("toweros-host") == "ours"
    assert set(found.values()) == {alpine}


def test_packages_passed_on_by_a_stage_keep_the_channels_origin(tmp_path: Path) -> None:
    """The medium's repository holds packages of the channel beside ours."""
    made = {"apks/x86_64/a-1.apk": "a", "apks/x86_64/b-1.apk": "b"}
    assert origins(tmp_path, {"a-1.apk": b"a"}, settings="", made=made) == {"a": "alpine 3.23", "b": "ours"}


def test_a_package_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"a-1\.apk"):
        origins(tmp_path, {"a-1.apk": b"text"})
