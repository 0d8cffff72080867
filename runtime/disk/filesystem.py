# SPDX-License-Identifier: Apache-2.0
"""Find the blocks that a file system uses, read from a partition in a file: FAT32 and ext4, as in the images of hosts.

A used block must be on the medium even if it holds zeros: free entries of a FAT, an empty bitmap, zeros inside a file.
Flashing skips zeros; this module tells which of them count.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base.errors import ImageProblemError
from tower.disk.partition import UNIT, data_units

_EXT4_BLOCK: Final = 4096
_PER_UNIT: Final = UNIT // _EXT4_BLOCK
_META_BG: Final = 0x10
_64BIT: Final = 0x80
_INODE_UNINIT: Final = 1
_BLOCK_UNINIT: Final = 2
_INODE_ZEROED: Final = 4


def fat_units(path: Path) -> set[int]:
    """Return the units that a FAT32 uses: everything before its first cluster, and the clusters that its table allocates."""
    fat = _fat(path)
    with path.open("rb") as stream:
        stream.seek(fat.table)
        table = stream.read(fat.table_size)
    start, cluster = fat.start, fat.cluster
    found = set(range(-(-start // UNIT)))
    for number, (entry,) in enumerate(struct.iter_unpack("<I", table)):
        if number >= 2 and entry & 0x0FFFFFFF:
            place = start + (number - 2) * cluster
            found.update(range(place // UNIT, (place + cluster - 1) // UNIT + 1))
    last = path.stat().st_size // UNIT
    return {unit for unit in found | data_units(path) if unit < last}


def fat_head(path: Path) -> int:
    """Return how many bytes of a FAT32 come before its first cluster; its first sector is enough to know."""
    return _fat(path).start


@dataclass(frozen=True, slots=True)
class _Fat:
    """The layout of a FAT32, in bytes."""

    table: int
    table_size: int
    start: int
    cluster: int


def _fat(path: Path) -> _Fat:
    with path.open("rb") as stream:
        head = stream.read(512).ljust(512, b"\0")
    sector, per_cluster, reserved, tables = struct.unpack_from("<HBHB", head, 11)
    (length,) = struct.unpack_from("<I", head, 36)
    start = (reserved + tables * length) * sector
    fits = sector in (512, 1024, 2048, 4096) and per_cluster and length and start < path.stat().st_size
    if head[510:512] != b"\x55\xaa" or not fits:
        raise ImageProblemError("the boot partition is not FAT32")
    return _Fat(reserved * sector, length * sector, start, per_cluster * sector)


def ext4_units(path: Path) -> set[int]:
    """Return the units that an ext4 uses: those in its bitmaps, and all of the file that is not a hole.

    Tables of inodes that the kernel zeroes by itself after the first mount (lazy initialisation) are left out.
    """
    found = data_units(path)
    lazy: list[tuple[int, int]] = []
    bitmaps: set[int] = set()
    with path.open("rb") as stream:
        handle = stream.fileno()
        for first, bitmap, table, flags in _groups(handle):
            if not flags & _BLOCK_UNINIT:
                bits = os.pread(handle, _EXT4_BLOCK, bitmap * _EXT4_BLOCK)
                for pair in range(0, len(bits), 2):
                    if bits[pair] or bits[pair + 1]:
                        bitmaps.add(first // _PER_UNIT + pair // 2)
            if flags & _INODE_UNINIT and not flags & _INODE_ZEROED:
                lazy.append(table)
    found |= bitmaps - _inside(lazy)
    last = -(-path.stat().st_size // UNIT)
    return {unit for unit in found if unit < last}


def _groups(handle: int) -> Iterator[tuple[int, int, tuple[int, int], int]]:
    """Yield first block, block of the bitmap, first and last block of the inode table, and flags of each group."""
    sb = os.pread(handle, 1024, 1024)
    if sb[56:58] != b"\x53\xef":
        raise ImageProblemError("the root of the image is not ext4")
    blocks, log = struct.unpack_from("<I", sb, 4)[0], struct.unpack_from("<I", sb, 24)[0]
    first_block, per_group, inodes = (struct.unpack_from("<I", sb, place)[0] for place in (20, 32, 40))
    inode_size = struct.unpack_from("<H", sb, 88)[0]
    incompat = struct.unpack_from("<I", sb, 96)[0]
    if 1024 << log != _EXT4_BLOCK or first_block or per_group != 8 * _EXT4_BLOCK or incompat & _META_BG:
        raise ImageProblemError("the root of the image is an ext4 with another layout", hint="blocks of 4096 bytes, no meta_bg")
    wide = bool(incompat & _64BIT)
    size = struct.unpack_from("<H", sb, 254)[0] if wide else 32
    if wide:
        blocks |= struct.unpack_from("<I", sb, 336)[0] << 32
    length = inodes * inode_size // _EXT4_BLOCK
    count = -(-blocks // per_group)
    rows = os.pread(handle, count * size, _EXT4_BLOCK)
    for group in range(count):
        row = rows[group * size : (group + 1) * size]
        bitmap, _, table = struct.unpack_from("<III", row)
        if wide and size >= 64:
            bitmap |= struct.unpack_from("<I", row, 32)[0] << 32
            table |= struct.unpack_from("<I", row, 40)[0] << 32
        yield group * per_group, bitmap, (table, table + length - 1), struct.unpack_from("<H", row, 18)[0]


def _inside(tables: list[tuple[int, int]]) -> set[int]:
    """Return the units that lie wholly inside tables; adjacent tables are joined."""
    found: set[int] = set()
    merged: list[tuple[int, int]] = []
    for first, last in sorted(tables):
        if merged and merged[-1][1] + 1 == first:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    for first, last in merged:
        found.update(range(-(-first // _PER_UNIT), (last + 1) // _PER_UNIT))
    return found
