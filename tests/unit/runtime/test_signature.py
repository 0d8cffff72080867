# SPDX-License-Identifier: Apache-2.0
"""What is found on a disk, held against what blkid and sfdisk say; whatever is on it is no error."""

from __future__ import annotations

import json
import os
import random
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tower.disk import marks
from tower.disk.marks import DiskSignature

from tests.unit.runtime.disks import MIB, tool


def read(path: Path) -> DiskSignature:
    handle = os.open(path, os.O_RDONLY)
    try:
        return marks.read(handle, path.stat().st_size)
    finally:
        os.close(handle)


def blkid(path: Path, offset: int = 0) -> dict[str, str]:
    said = tool("/usr/sbin/blkid", "-p", "-o", "export", "-O", str(offset), path)
    return dict(line.split("=", 1) for line in said.splitlines())


MAKERS: dict[str, Callable[[Path], object]] = {
    "ext4": lambda path: tool("mke2fs", "-q", "-F", "-t", "ext4", "-L", "tower-root", path),
    "FAT32": lambda path: tool("mkfs.vfat", "-F", "32", "-n", "TOWER-BOOT", path),
    "FAT16": lambda path: tool("mkfs.vfat", "-F", "16", "-n", "SMALL", path),
    "FAT without a name": lambda path: tool("mkfs.vfat", path),
    "swap": lambda path: tool("mkswap", "-L", "memory", path),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_file_systems(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 64 * MIB)
    MAKERS[kind](path)
    said, found = blkid(path), read(path)
    assert said["UUID"] in found.ids
    assert said.get("LABEL", "NO NAME") in found.labels
    assert found.part_of == ""


TABLES = {
    "dos": "label: dos\nlabel-id: 0x1234abcd\nstart=2048, size=4096, type=c\nstart=8192, size=4096, type=83\n"
    "start=16384, type=5\nstart=18432, size=4096, type=83\nstart=26624, size=4096, type=82\n",
    "gpt": "label: gpt\nstart=2048, size=4096, name=TOWER-BOOT\nstart=8192, size=4096, name=root\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_partitions(tmp_path: Path, table: str) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 64 * MIB)
    subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=TABLES[table].encode(), check=True, capture_output=True, timeout=30)
    rows = json.loads(tool("/usr/sbin/sfdisk", "--json", path))["partitiontable"]["partitions"]
    inner = tmp_path / "inner"
    for row in rows:
        if row.get("type") == "5":
            continue
        inner.write_bytes(bytes(row["size"] * 512))
        tool("mke2fs", "-q", "-F", "-L", f"at-{row['start']}", inner)
        with path.open("r+b") as stream:
            stream.seek(row["start"] * 512)
            stream.write(inner.read_bytes())
    found = read(path)
    for row in rows:
        if row.get("type") != "5":
            said = blkid(path, row["start"] * 512)
            assert (said["UUID"], said["LABEL"]) == (said["UUID"], f"at-{row['start']}")
            assert said["UUID"] in found.ids
            assert said["LABEL"] in found.labels
    if table == "gpt":
        assert {row["uuid"].lower() for row in rows} <= found.ids
        assert {"TOWER-BOOT", "root"} <= found.labels
    else:
        assert {f"1234abcd-{number:02x}" for number in (1, 2, 5, 6)} <= found.ids


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def lvm() -> bytes:
    """The label of a physical volume, in the second sector."""
    body = (number(32, 4) + b"LVM2 001" + b"u" * 32 + number(64 * MIB, 8)).ljust(492, b"\0")
    checksum = ~zlib.crc32(body, ~0xF597A6CF & 0xFFFFFFFF) & 0xFFFFFFFF
    return bytes(512) + b"LABELONE" + number(1, 8) + number(checksum, 4) + body


def raid(place: int) -> bytes:
    """The superblock of md 1.x at a place of the disk, of a RAID without others."""
    head = bytearray(256)
    for at, data in (
        (0, b"\xfc\x4e\x2b\xa9\x01"),
        (16, b"u" * 16),
        (72, number(1, 4)),
        (80, number(256, 8)),
        (128, number(2048, 8)),
        (144, number(place // 512, 8)),
    ):
        head[at : at + len(data)] = data
    total = sum(int.from_bytes(head[at : at + 4], "little") for at in range(0, 256, 4))
    head[216:220] = number((total & 0xFFFFFFFF) + (total >> 32), 4)
    return bytes(head)


MARKS = {
    "LVM": (0, lvm(), "an LVM", "LVM2_member"),
    "md 1.1": (0, raid(0), "a RAID (md)", "linux_raid_member"),
    "md 1.2": (4096, raid(4096), "a RAID (md)", "linux_raid_member"),
    "md 1.0": (64 * MIB - 8192, raid(64 * MIB - 8192), "a RAID (md)", "linux_raid_member"),
}


@pytest.mark.parametrize("kind", MARKS)
@pytest.mark.parametrize("start", [0, MIB])
def test_parts_of_something_larger(tmp_path: Path, kind: str, start: int) -> None:
    """On the disk, and on a partition of it."""
    place, data, what, said = MARKS[kind]
    path = tmp_path / "disk"
    with path.open("wb") as stream:
        stream.seek(place)
        stream.write(data)
        stream.truncate(64 * MIB)
    assert blkid(path)["TYPE"] == said
    if start:
        table = bytearray(512)
        table[450], table[454:462] = 0x83, number(start // 512, 4) + number(64 * MIB // 512, 4)
        table[510:] = b"\x55\xaa"
        path.write_bytes(bytes(table) + bytes(start - 512) + path.read_bytes())
    assert read(path).part_of == what
    handle = os.open(path, os.O_RDONLY)
    assert "is part of" in marks.obstacle(handle, path.stat().st_size, tmp_path)
    os.close(handle)


def test_a_disk_that_the_system_names(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 64 * MIB)
    tool("mkfs.vfat", "-F", "32", "-n", "TOWER-BOOT", path)
    handle = os.open(path, os.O_RDONLY)
    (tmp_path / "etc").mkdir()
    for text, ours in (
        (f"UUID={blkid(path)['UUID']} /boot vfat noauto 0 0\n", True),
        (f"UUID={blkid(path)['UUID'].lower()} /boot vfat noauto 0 0\n", True),
        ("LABEL=TOWER-BOOT /boot vfat noauto 0 0\n", True),
        ("UUID=1234-5678 /boot vfat TOWER-BOOT 0 0\n", False),
    ):
        (tmp_path / "etc/fstab").write_text(text)
        assert ("belongs to this system" in marks.obstacle(handle, 64 * MIB, tmp_path)) == ours
    os.close(handle)


@pytest.mark.parametrize("seed", range(40))
def test_any_disk_can_be_read(tmp_path: Path, seed: int) -> None:
    """Of any size, with tables and marks that lead anywhere."""
    chance = random.Random(seed)
    data = bytearray(chance.randbytes(chance.choice([0, 1, 511, 512, 1024, 70_000])))
    for place, mark in (
        (510, b"\x55\xaa"),
        (512, b"EFI PART"),
        (584, chance.randbytes(16)),
        (450, b"\x05"),
        (0, b"LUKS\xba\xbe"),
    ):
        if chance.random() < 0.7 and place + len(mark) <= len(data):
            data[place : place + len(mark)] = mark
    path = tmp_path / "disk"
    path.write_bytes(data)
    found = read(path)
    assert all(isinstance(text, str) and text for text in (*found.ids, *found.labels))
