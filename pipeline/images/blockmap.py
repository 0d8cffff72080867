# SPDX-License-Identifier: Apache-2.0
"""Block maps (bmap 2.0): which blocks of a disk image hold anything, with their checksums.

A writer that reads the map skips the empty blocks and checks the others; the format is bmaptool's. Imports
the standard library only, because stages run this file by itself: `python3 blockmap.py IMAGE MAP`.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

BLOCK = 4096
_ZERO = bytes(BLOCK)
_CHUNK = 1024 * BLOCK


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Consecutive blocks with data: first and last number, SHA-256 of their bytes."""

    first: int
    last: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The map of one image."""

    size: int
    ranges: tuple[BlockRange, ...]

    @property
    def blocks(self) -> int:
        """Number of blocks, the last of which may be short."""
        return -(-self.size // BLOCK)

    @property
    def mapped(self) -> int:
        """Number of blocks with data."""
        return sum(row.last - row.first + 1 for row in self.ranges)


def read_image(path: Path) -> BlockMap:
    """Return the block map of an image; a block of zeros counts as empty, whether it is a hole or not.

    So the map depends on the image's bytes alone, and not on how a file system happens to store them.
    """
    ranges: list[BlockRange] = []
    first = last = -1
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for number, data in _filled(stream):
            if first >= 0 and number != last + 1:
                ranges.append(BlockRange(first, last, digest.hexdigest()))
                first = -1
            if first < 0:
                first, digest = number, hashlib.sha256()
            last = number + -(-len(data) // BLOCK) - 1
            digest.update(data)
    if first >= 0:
        ranges.append(BlockRange(first, last, digest.hexdigest()))
    return BlockMap(path.stat().st_size, tuple(ranges))


def _filled(stream: BinaryIO) -> Iterator[tuple[int, memoryview]]:
    """Yield consecutive blocks that are not all zeros: the first one's number, and the bytes; a run ends with its chunk."""
    number = 0
    while chunk := stream.read(_CHUNK):
        view, begin = memoryview(chunk), -1
        for at in range(0, len(chunk), BLOCK):
            # `startswith` compares in place; the last block of an image may be short.
            if not chunk.startswith(_ZERO[: len(chunk) - at], at):
                begin = at if begin < 0 else begin
            elif begin >= 0:
                yield number + begin // BLOCK, view[begin:at]
                begin = -1
        if begin >= 0:
            yield number + begin // BLOCK, view[begin:]
        number += -(-len(chunk) // BLOCK)


def dump(found: BlockMap) -> bytes:
    """Return the map as XML, with its own checksum filled in."""
    lines = [
        '<?xml version="1.0" ?>',
        '<bmap version="2.0">',
        f"    <ImageSize> {found.size} </ImageSize>",
        f"    <BlockSize> {BLOCK} </BlockSize>",
        f"    <BlocksCount> {found.blocks} </BlocksCount>",
        f"    <MappedBlocksCount> {found.mapped} </MappedBlocksCount>",
        "    <ChecksumType> sha256 </ChecksumType>",
        # The checksum is that of this file with zeros in this place.
        f"    <BmapFileChecksum> {'0' * 64} </BmapFileChecksum>",
        "    <BlockMap>",
        *(f'        <Range chksum="{row.sha256}"> {_numbers(row)} </Range>' for row in found.ranges),
        "    </BlockMap>",
        "</bmap>",
        "",
    ]
    empty = "\n".join(lines).encode()
    own = hashlib.sha256(empty).hexdigest().encode()
    return empty.replace(b"0" * 64, own, 1)


def _numbers(row: BlockRange) -> str:
    return str(row.first) if row.first == row.last else f"{row.first}-{row.last}"


def main(argv: list[str] | None = None) -> int:
    """Write the block map of an image; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the block map (bmap 2.0) of a disk image.")
    parser.add_argument("image", type=Path)
    parser.add_argument("map", type=Path)
    args = parser.parse_args(argv)
    found = read_image(args.image)
    args.map.write_bytes(dump(found))
    sys.stdout.write(f"{found.mapped} of {found.blocks} blocks in {len(found.ranges)} ranges\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
