# SPDX-License-Identifier: Apache-2.0
"""A host's disk on media that were used before: file systems whole, root grown, files in place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tower.base.errors import DeviceError, ImageProblemError
from tower.base.view import View
from tower.disk.make import HostDisk, make_disk
from tower.disk.medium import opened
from tower.disk.partition import partitions
from tower.image.source import read_source

from tests.unit.runtime.disks import BOOT, MIB, ROOT, check_disk, garbage, tool


@pytest.fixture
def job(small_image: Path, tmp_path: Path) -> HostDisk:
    settings = tmp_path / "tower.env"
    settings.write_bytes(b"HOSTNAME='web'\n")
    work = tmp_path / "work"
    work.mkdir()
    return HostDisk(read_source(small_image), {"tower.env": settings}, work)


@pytest.mark.parametrize("size", [ROOT[0] + ROOT[1], 200 * MIB + 12288])
def test_a_used_medium_becomes_a_clean_disk(job: HostDisk, tmp_path: Path, size: int) -> None:
    target = tmp_path / "medium"
    target.write_bytes(garbage(size))
    with opened(target) as medium:
        make_disk(job, medium, resume=False, view=View())
    found = check_disk(target, tmp_path)
    assert found["size"] == (size - ROOT[0]) // MIB * MIB
    assert tool("mtype", "-i", f"{target}@@{BOOT[0]}", "::tower.env") == "HOSTNAME='web'\n"
    zeros = b"begin" + bytes(300_000) + b"end"
    copied = subprocess.run(
        ["mcopy", "-i", f"{target}@@{BOOT[0]}", "::vmlinuz", "-"], capture_output=True, check=True, timeout=30
    )
    assert copied.stdout == zeros
    tool("debugfs", "-R", f"dump /file {tmp_path / 'out'}", tmp_path / "p2")
    assert (tmp_path / "out").read_bytes() == zeros
    tool("debugfs", "-R", f"dump /random {tmp_path / 'out'}", tmp_path / "p2")
    assert (tmp_path / "out").read_bytes() == garbage(2 * MIB + 17)
    assert list(job.scratch.iterdir()) == []


def test_done_again_it_is_the_same_disk(job: HostDisk, tmp_path: Path) -> None:
    target = tmp_path / "medium"
    target.write_bytes(garbage(200 * MIB))
    for resume in (False, True):
        with opened(target) as medium:
            make_disk(job, medium, resume=resume, view=View())
    assert check_disk(target, tmp_path)["size"] == 200 * MIB - ROOT[0]


def test_the_grown_space_can_be_used(job: HostDisk, tmp_path: Path) -> None:
    target = tmp_path / "medium"
    target.write_bytes(garbage(200 * MIB))
    with opened(target) as medium:
        make_disk(job, medium, resume=False, view=View())
    check_disk(target, tmp_path)
    (tmp_path / "large").write_bytes(garbage(100 * MIB))
    tool("debugfs", "-w", "-R", f"write {tmp_path / 'large'} large", tmp_path / "p2")
    tool("e2fsck", "-f", "-n", tmp_path / "p2")


def test_files_that_do_not_fit(job: HostDisk, tmp_path: Path) -> None:
    (tmp_path / "tower.env").write_bytes(bytes(60 * MIB))
    with opened(tmp_path / "medium", size=200 * MIB) as medium, pytest.raises(DeviceError, match="boot partition"):
        make_disk(job, medium, resume=False, view=View())


@pytest.mark.parametrize("first", [b"", bytes(512), b"\x55\xaa" * 255, bytes(510) + b"\xaa\x55"])
def test_an_invalid_partition_table_is_refused(first: bytes) -> None:
    with pytest.raises(ImageProblemError, match="partition table"):
        partitions(first, "x")
