# SPDX-License-Identifier: Apache-2.0
"""Block maps (bmap 2.0) of images: reading them, and comparing the bytes of an image with one.

A map is never trusted: the writer feeds every byte of the image to `MapCheck`, which insists that mapped ranges have
their digests and that all other bytes are zeros. So a wrong map gives an error, and not a wrong disk.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from tower.base.errors import ImageProblemError

BLOCK: Final = 4096
MOST: Final = 64 << 20
AGAIN: Final = "fetch or build the image again"
"""The hint for an image that differs from its map."""
_CHECKSUM: Final = re.compile(rb"<BmapFileChecksum>\s*([0-9a-f]{64})\s*</BmapFileChecksum>")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_RANGE: Final = re.compile(r"([0-9]{1,15})(?:-([0-9]{1,15}))?")
_ZEROS: Final = bytearray(1 << 20)
"""A bytearray compares itself with other memory in place; bytes and views copy, or go byte by byte."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of an image that are not all zeros, from `start` to before `end`, and their SHA-256."""

    start: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The map of one image of `size` bytes; the ranges are in order."""

    size: int
    ranges: tuple[Range, ...]

    @property
    def mapped(self) -> int:
        """Return the number of bytes in the ranges."""
        return sum(row.end - row.start for row in self.ranges)

    def spans(self, gap: int) -> tuple[tuple[int, int], ...]:
        """Return start and end of what to write, where holes smaller than `gap` do not interrupt it."""
        found: list[tuple[int, int]] = []
        for row in self.ranges:
            if found and row.start - found[-1][1] < gap:
                found[-1] = (found[-1][0], row.end)
            else:
                found.append((row.start, row.end))
        return tuple(found)


def parse(data: bytes, where: str) -> BlockMap:
    """Parse a map and verify its own checksum. Raises ImageProblemError naming `where`."""
    if len(data) > MOST:
        raise ImageProblemError(f"{where}: more than {MOST} bytes, too many for a block map")
    own = _CHECKSUM.search(data[: 64 << 10])
    if own is None or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ImageProblemError(f"{where}: not a block map")
    if hashlib.sha256(data[: own.start(1)] + b"0" * 64 + data[own.end(1) :]).hexdigest().encode() != own[1]:
        raise ImageProblemError(f"{where}: its own checksum does not hold", hint="fetch or build the image again")
    size, block, rows = _read(data, where)
    if block != BLOCK or size <= 0:
        raise ImageProblemError(f"{where}: {size} bytes in blocks of {block}, expected blocks of {BLOCK}")
    ranges: list[Range] = []
    for first, last, digest in rows:
        start, end = first * BLOCK, min((last + 1) * BLOCK, size)
        if start >= end or (ranges and start < ranges[-1].end) or _DIGEST.fullmatch(digest) is None:
            raise ImageProblemError(f"{where}: range {first}-{last} is out of order, outside the image, or without SHA-256")
        ranges.append(Range(start, end, digest))
    return BlockMap(size, tuple(ranges))


def _read(data: bytes, where: str) -> tuple[int, int, list[tuple[int, int, str]]]:
    import xml.etree.ElementTree as ET

    try:
        root = ET.fromstring(data)  # noqa: S314  (no DOCTYPE, no entities: `parse` looked)
        size, block = (int((root.findtext(name) or "").strip()) for name in ("ImageSize", "BlockSize"))
        if (root.findtext("ChecksumType") or "").strip() != "sha256":
            raise ImageProblemError(f"{where}: its checksums are not SHA-256")
        rows = []
        for row in root.iterfind("BlockMap/Range"):
            match = _RANGE.fullmatch((row.text or "").strip())
            if match is None:
                raise ImageProblemError(f"{where}: {row.text!r} is not a range of blocks")
            rows.append((int(match[1]), int(match[2] or match[1]), row.get("chksum", "")))
    except (ET.ParseError, ValueError) as error:
        raise ImageProblemError(f"{where}: not a block map: {error}") from error
    return size, block, rows


class MapCheck:
    """Compares an image, fed from its first byte to its last, with its map."""

    def __init__(self, block_map: BlockMap, where: str) -> None:
        self._rows = iter(block_map.ranges)
        self._row = next(self._rows, None)
        self._digest = hashlib.sha256()
        self._size = block_map.size
        self._where = where
        self._place = 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises ImageProblemError when they differ from the map."""
        while data:
            row = self._row
            inside = row is not None and self._place >= row.start
            until = (row.end if inside else row.start) if row is not None else self._size
            part = data[: until - self._place]
            if not part:
                raise self._differs(f"is larger than the {self._size} bytes that its block map says")
            if inside:
                self._digest.update(part)
            elif not is_zero(part):
                raise self._differs(f"has data near byte {self._place}, where its block map says that it is empty")
            self._place += len(part)
            data = data[len(part) :]
            if inside and row is not None and self._place == row.end:
                self._close(row)

    def skip(self, length: int) -> None:
        """Take the next bytes, which are known to be zeros because they are a hole of a file. Otherwise as `feed`."""
        end = self._place + length
        if end > self._size or (self._row is not None and end > self._row.start):
            raise self._differs(f"is empty near byte {end}, where its block map says that it is not")
        self._place = end

    def _close(self, row: Range) -> None:
        got = self._digest.hexdigest()
        if got != row.sha256:
            said = f"its block map says {row.sha256[:16]}"
            raise self._differs(f"bytes {row.start}-{row.end - 1} have sha256 {got[:16]}, {said}")
        self._digest = hashlib.sha256()
        self._row = next(self._rows, None)

    def finish(self) -> None:
        """Raise ImageProblemError unless the image was fed to its end."""
        if self._place != self._size:
            raise self._differs(f"ends after {self._place} bytes, its block map says {self._size}")

    def _differs(self, how: str) -> ImageProblemError:
        return ImageProblemError(f"{self._where}: {how}", hint=AGAIN)


def is_zero(data: memoryview) -> bool:
    """Tell whether all bytes are zeros."""
    whole = len(data) - len(data) % len(_ZEROS)
    # It must be on the left, because its comparison is the fast one.
    if not all(_ZEROS == data[place : place + len(_ZEROS)] for place in range(0, whole, len(_ZEROS))):  # noqa: SIM300
        return False
    return bytearray(len(data) - whole) == data[whole:]
