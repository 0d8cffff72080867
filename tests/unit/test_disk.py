# SPDX-License-Identifier: Apache-2.0
"""Roots of disk images, read and changed in their place."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import FormatError, ToolError
from pipeline.images.disk import check_root, put_root_file, root_file, root_stat

MIB = 1 << 20
START = 2048 * 512


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A disk with one partition, whose file system has a file."""
    disk, tree = tmp_path / "a disk.img", tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/name").write_text("old\n")
    with disk.open("wb") as stream:
        stream.truncate(8 * MIB)
    subprocess.run(["sfdisk", "-q", disk], input="label: dos\nstart=2048\n", text=True, check=True, timeout=60)
    made = ["mke2fs", "-q", "-F", "-t", "ext4", "-E", f"offset={START}", "-d", str(tree), str(disk), "7M"]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return disk


def test_a_file_of_the_root_is_replaced_in_its_place(image: Path, tmp_path: Path) -> None:
    before = image.read_bytes()[:START]
    assert root_file(image, "/etc/name") == b"old\n"
    put_root_file(image, "/etc/name", b"new and longer\n", tmp_path)
    assert root_file(image, "/etc/name") == b"new and longer\n"
    assert "Type: regular" in root_stat(image, "/etc/name")
    check_root(image)
    # What lies before the partition, its table included, stays as it is.
    assert image.read_bytes()[:START] == before
    with pytest.raises(ToolError, match="the root has no /etc/other"):
        root_file(image, "/etc/other")


def test_a_broken_root_is_not_whole(image: Path) -> None:
    with image.open("r+b") as stream:
        # The bitmaps and the table of inodes of the only group, behind superblock and descriptors.
        stream.seek(START + 8192)
        stream.write(b"\xff" * (MIB // 2))
    with pytest.raises(ToolError, match="e2fsck"):
        check_root(image)


def test_a_name_that_would_be_taken_for_options_is_refused(image: Path) -> None:
    odd = image.rename(image.with_name("a?b.img"))
    with pytest.raises(FormatError, match="a question mark in its name"):
        root_file(odd, "/etc/name")
