# SPDX-License-Identifier: Apache-2.0
"""Identify a disk: IDs and names by which this system's files may refer to it, and marks of LVM, RAID and the like.

They are read from the open disk itself: lsblk gets them from udev, which Alpine does not have, or from the disk, which
only root may read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.disk.ownnames import OURS, names

_SECTOR: Final = 512
_MOST_LOGICAL: Final = 64
_MOST_ENTRIES: Final = 128
_MD: Final = b"\xfc\x4e\x2b\xa9"
_MARKS: Final = (
    *((place + 24, b"LVM2 001", "an LVM") for place in range(0, 4 * _SECTOR, _SECTOR)),
    (0, _MD, "a RAID (md)"),
    (4096, _MD, "a RAID (md)"),
    (4096 + 24, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"), "a bcache"),
)
"""Where in a disk or partition which bytes show what it is a part of."""
_TEXTS: Final = (
    (1080, b"\x53\xef", 1024 + 104, 1024 + 120, 16),
    (0, b"XFSB", 32, 108, 12),
    (65536 + 64, b"_BHRfS_M", 65536 + 32, 65536 + 299, 256),
    (4096 - 10, b"SWAPSPACE2", 1024 + 12, 1024 + 28, 16),
)
"""File systems: the place and value of their magic bytes, the places of UUID and label, and the label's length."""
_READ: Final = 68 << 10


@dataclass(frozen=True, slots=True)
class DiskSignature:
    """The findings on a disk and its partitions."""

    ids: frozenset[str]
    """UUIDs of file systems and partitions, as in /etc/fstab."""
    labels: frozenset[str]
    part_of: str
    """What it is, or was, a part of: an LVM, a RAID; empty if no mark is found."""


def read(handle: int, size: int) -> DiskSignature:
    """Return the findings on an open disk of `size` bytes. Raises OSError; unknown content is no error."""
    ids, labels, parts = set[str](), set[str](), list[str]()
    for start, length, own, name in ((0, size, "", ""), *_partitions(handle, os.pread(handle, 2 * _SECTOR, 0))):
        ids.add(own)
        labels.add(name)
        data = os.pread(handle, min(_READ, length), start)
        parts.extend(_marks(handle, data, start, length))
        for uuid, label in _file_systems(data):
            ids.add(uuid)
            labels.add(label)
    return DiskSignature(frozenset(ids - {""}), frozenset(labels - {""}), next(iter(parts), ""))


def obstacle(handle: int, size: int, root: Path = Path("/")) -> str:
    """Return why an open disk of `size` bytes may not be written, judging by its content; "" if it may. Raises OSError.

    The files of the system below `root` tell which disks are its own.
    """
    found = read(handle, size)
    if found.part_of:
        return f"is part of {found.part_of}; if that is no longer needed, remove the mark from it or its partition: wipefs --all"
    return OURS if names(root).have(found.ids, found.labels) else ""


def _marks(handle: int, data: bytes, start: int, length: int) -> Iterator[str]:
    yield from (what for place, mark, what in _MARKS if data[place : place + len(mark)] == mark)
    # Older marks of md are at the end.
    for place in ((length & ~0xFFFF) - 0x10000, ((length // _SECTOR - 16) & ~7) * _SECTOR):
        if place > 0 and os.pread(handle, 4, start + place) in (_MD, _MD[::-1]):
            yield "a RAID (md)"


def _file_systems(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield UUID and label of the file system at the beginning of a disk or partition."""
    for place, mark, uuid, label, length in _TEXTS:
        if data[place : place + len(mark)] == mark:
            yield _uuid(data[uuid : uuid + 16]), _text(data[label : label + length])
    for place, kind in ((82, b"FAT32"), (54, b"FAT1")):
        if data[place : place + len(kind)] == kind and data[510:512] == b"\x55\xaa":
            serial = data[place - 15 : place - 11]
            yield _serial(serial), _text(data[place - 11 : place])
    if data[3:11] == b"EXFAT   ":
        yield _serial(data[100:104]), ""
    if data[:6] == b"LUKS\xba\xbe":
        yield _text(data[168:208]), _text(data[24:72]) if data[6:8] == b"\0\2" else ""
    if data[32769:32774] == b"CD001":
        yield "", _text(data[32808:32840])


def _partitions(handle: int, first: bytes) -> Iterator[tuple[int, int, str, str]]:
    """Yield begin and length in bytes, PARTUUID and name of each partition in the table at the disk's beginning."""
    if first[510:512] != b"\x55\xaa":
        return
    if first[512:520] == b"EFI PART":
        yield from _gpt(handle, first)
        return
    disk = int.from_bytes(first[440:444], "little")
    for number, (kind, start, count) in enumerate(_rows(first), start=1):
        if kind and count:
            yield start * _SECTOR, count * _SECTOR, _part_id(disk, number), ""
        if kind in (0x05, 0x0F, 0x85):
            yield from _logical(handle, disk, start)


def _rows(sector: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield type, first sector and number of sectors of the four rows of an MBR."""
    for place in range(446, 510, 16):
        if len(row := sector[place : place + 16]) == 16:
            start, count = struct.unpack_from("<II", row, 8)
            yield row[4], start, count


def _logical(handle: int, disk: int, base: int) -> Iterator[tuple[int, int, str, str]]:
    """Yield the partitions inside an extended one, which form a chain."""
    place = base
    for number in range(5, 5 + _MOST_LOGICAL):
        sector = os.pread(handle, _SECTOR, place * _SECTOR)
        rows = list(_rows(sector))
        if sector[510:512] != b"\x55\xaa" or len(rows) < 2:
            return
        kind, start, count = rows[0]
        if kind and count:
            yield (place + start) * _SECTOR, count * _SECTOR, _part_id(disk, number), ""
        if not rows[1][0] or not rows[1][2]:
            return
        place = base + rows[1][1]


def _gpt(handle: int, first: bytes) -> Iterator[tuple[int, int, str, str]]:
    table, count, size = struct.unpack_from("<QII", first, 512 + 72)
    if not 128 <= size <= 4096 or table > 1 << 40:
        return
    data = os.pread(handle, min(count, _MOST_ENTRIES) * size, table * _SECTOR)
    for place in range(0, len(data) - 127, size):
        kind, own = data[place : place + 16], data[place + 16 : place + 32]
        start, end = struct.unpack_from("<QQ", data, place + 32)
        if kind != bytes(16) and start <= end < 1 << 50:
            name = data[place + 56 : place + 128].decode("utf-16-le", errors="replace").split("\0")[0]
            mixed = own[3::-1] + own[5:3:-1] + own[7:5:-1] + own[8:]
            yield start * _SECTOR, (end - start + 1) * _SECTOR, _uuid(mixed), name


def _part_id(disk: int, number: int) -> str:
    return f"{disk:08x}-{number:02x}" if disk else ""


def _uuid(data: bytes) -> str:
    text = data.hex()
    whole = len(data) == 16 and any(data)
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:])) if whole else ""


def _serial(data: bytes) -> str:
    """Return the serial number of a FAT as it is written."""
    text = data[::-1].hex().upper()
    return f"{text[:4]}-{text[4:]}" if len(text) == 8 else ""


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode(errors="replace").strip()
