# SPDX-License-Identifier: Apache-2.0
"""The thin client's medium, read without starting it: host images that `tower provision` takes, programs that it starts."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from tower.image import source
from tower.image.verify import check_block_map, check_sum, parse_sums
from tower.installer.system import TOOLS

from pipeline.apk.format.index import IndexEntry, read_index
from tests.unit.runtime.programs import Source

HOSTS = ("pc", "rpi")
INSTEAD = {"sudo": "doas", **dict.fromkeys(("chroot", "modprobe", "mount", "sync", "umount"), "busybox")}
"""What `tower` starts on other systems only, or is a part of another program, and what that is here."""


@pytest.fixture(scope="module")
def medium(images: Path, large_files: Path) -> Path:
    """What of the medium is looked at, as files."""
    (iso,) = images.glob("toweros-thinclient-*-lab-x86_64.iso")
    rows = ("/toweros/images", "/apks/x86_64/APKINDEX.tar.gz", "/thinclient.apkovl.tar.gz")
    words = [word for row in rows for word in ("-extract", row, str(large_files / Path(row).name))]
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", str(iso), *words], check=True, capture_output=True, timeout=120)
    return large_files


@pytest.mark.parametrize("target", HOSTS)
def test_a_host_image_of_the_medium_is_one_that_tower_takes(medium: Path, target: str) -> None:
    path = source.find_image(medium / "images", target)
    found = source.read_source(path)
    check_sum(path, found.sha256)
    check_block_map(path, path.with_name(f"{path.name}.bmap"))
    assert (found.channel, found.releasable) == ("lab", False)
    assert found.version in path.name


def test_the_images_of_the_medium_are_the_finished_ones(medium: Path, images: Path) -> None:
    for target in HOSTS:
        path = source.find_image(medium / "images", target)
        published = json.loads((images / f"{path.name}.manifest.json").read_bytes())
        on_medium = json.loads(path.with_name(f"{path.name}.manifest.json").read_bytes())
        assert on_medium["files"] == published["files"]
        assert {name: published[name] for name in on_medium} == on_medium


def test_the_sums_of_the_medium_hold(medium: Path) -> None:
    folder = medium / "images"
    sums = parse_sums((folder / "SHA256SUMS").read_bytes(), "SHA256SUMS")
    assert set(sums) == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        check_sum(folder / name, digest)


def installed(entries: tuple[IndexEntry, ...], world: list[str]) -> set[str]:
    """The names of the packages that a world means; any provider will do."""
    by_name = {entry.name: entry for entry in entries}
    providers = {word.split("=")[0]: entry.name for entry in entries for word in entry.provides}
    found: set[str] = set()
    wanted = list(world)
    while wanted:
        name = wanted.pop()
        for char in "=<>~":
            name = name.split(char)[0]
        name = name if name in by_name else providers.get(name, "")
        if name and name not in found:
            found.add(name)
            wanted += [word for word in by_name[name].depends if not word.startswith("!")]
    return found


def test_the_live_system_has_every_program_that_tower_starts(medium: Path) -> None:
    with (medium / "APKINDEX.tar.gz").open("rb") as stream:
        entries = read_index(stream, None).entries
    with tarfile.open(fileobj=io.BytesIO((medium / "thinclient.apkovl.tar.gz").read_bytes())) as archive:
        member = archive.extractfile("etc/apk/world")
        assert member is not None
        # The installer adds its tools itself.
        names = installed(tuple(entries), [*member.read().decode().split(), *TOOLS])
    programs = {
        word.removeprefix("cmd:").split("=")[0]: entry.name
        for entry in entries
        if entry.name in names
        for word in entry.provides
        if word.startswith("cmd:")
    }
    started = {INSTEAD.get(name, name): places for name, places in Source().programs().items()}
    missing = {name: sorted(places) for name, places in started.items() if name not in programs}
    assert not missing, f"of {len(programs)} programs of {len(names)} packages"
