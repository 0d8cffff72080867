# SPDX-License-Identifier: Apache-2.0
"""Change a partition of a flashed medium: copy it into a sparse file, change it there with its own tools, write it back.

So no tool ever works on the medium itself, nothing is mounted, and every changed byte is read back. Writing back also
zeroes the blocks that the file system uses and that flashing skipped as empty: on a used medium, they hold old data.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base.errors import DeviceError, ImageProblemError
from tower.base.files import own_folder
from tower.base.refused import refused
from tower.disk.flash import differs
from tower.disk.medium import Medium, new_buffer

UNIT: Final = 64 << 10
"""The amount that is written back at once: it takes few seeks, and includes few unchanged blocks."""
SECTOR: Final = 512
_MIB: Final = 1 << 20
_BATCH: Final = 256
_ZEROS: Final = bytes(UNIT)


@dataclass(frozen=True, slots=True)
class Partition:
    """A row of the table in the first sector; positions in bytes."""

    number: int
    start: int
    size: int


def partitions(first: bytes, where: str) -> tuple[Partition, ...]:
    """Return the partitions in the first sector (MBR). Raises ImageProblemError if it has none."""
    if len(first) < SECTOR or first[510:512] != b"\x55\xaa":
        raise ImageProblemError(f"{where}: no partition table in its first sector")
    found: list[Partition] = []
    for number in range(1, 5):
        row = first[430 + 16 * number : 446 + 16 * number]
        start, count = struct.unpack("<II", row[8:16])
        if row[4] and count:
            found.append(Partition(number, start * SECTOR, count * SECTOR))
    return tuple(found)


def read_partitions(medium: Medium) -> tuple[Partition, ...]:
    """Return the boot partition and the root of a host's medium: two partitions, with the root last. Raises ImageProblemError."""
    found = partitions(_read(medium, 0, UNIT)[:SECTOR], medium.where)
    if [row.number for row in found] != [1, 2] or any(row.start % UNIT for row in found) or found[0].start >= found[1].start:
        raise ImageProblemError(f"{medium.where}: is not partitioned as the image of a host", hint="tower builds those of hosts")
    return found


def root_size(medium: Medium, root: Partition) -> int:
    """Return the largest size of the root: to the end of the medium, or of what the partition table can describe."""
    return max(root.size, min((medium.size - root.start) // _MIB * _MIB, 0xFFFFFFFF // 2048 * _MIB))


def grow_table(medium: Medium) -> Partition:
    """Make the root in the table reach to the end of the medium; return the root."""
    root = read_partitions(medium)[-1]
    size = root_size(medium, root)
    if size > root.size:
        first = bytearray(_read(medium, 0, UNIT))
        struct.pack_into("<I", first, 446 + 16 + 12, size // SECTOR)
        write_checked(medium, 0, bytes(first))
        root = Partition(root.number, root.start, size)
    return root


def write_checked(medium: Medium, place: int, data: bytes) -> None:
    """Write, sync, read back."""
    buffer = new_buffer(len(data))
    buffer[:] = data
    medium.write(place, memoryview(buffer))
    medium.flush(place, len(data))
    if _read(medium, place, len(data)) != data:
        raise differs(medium, place, len(data))


def _read(medium: Medium, place: int, length: int) -> bytes:
    buffer = new_buffer(length)
    medium.read(place, memoryview(buffer))
    return buffer[:]


class Scratch:
    """A partition in a sparse file of its own, and the content that the medium is known to have."""

    def __init__(self, medium: Medium, partition: Partition, path: Path) -> None:
        self.path = path
        self._medium = medium
        self._start = partition.start
        self._known: dict[int, bytes] = {}
        """Unit -> digest of the medium's content there; units that flashing skipped are missing."""

    def take(self, spans: Collection[tuple[int, int]], size: int) -> None:
        """Copy the partition of `size` bytes from the medium: the flashed `spans`, and zeros between them."""
        with self.path.open("wb") as out:
            out.truncate(size)
            for start, end in spans:
                first, last = max(start, self._start) - self._start, min(end, self._start + size) - self._start
                for place in range(first - first % UNIT, last, UNIT):
                    self._take_unit(place, max(first, place), min(last, place + UNIT), out.fileno())

    def _take_unit(self, place: int, first: int, last: int, out: int) -> None:
        data = _read(self._medium, self._start + place, UNIT)[first - place : last - place]
        os.pwrite(out, data, first)
        if len(data) == UNIT:
            self._known[place // UNIT] = _digest(data)

    def put_back(self, used: Collection[int]) -> int:
        """Write every unit in `used` that differs on the medium; return the number of bytes written."""
        written: list[tuple[int, bytes]] = []
        total = 0
        with self.path.open("rb") as stream:
            for unit in sorted(used):
                data = os.pread(stream.fileno(), UNIT, unit * UNIT)
                data += bytes(-len(data) % UNIT)
                digest = _digest(data)
                if self._known.get(unit) == digest:
                    continue
                buffer = new_buffer(UNIT)
                buffer[:] = data
                self._medium.write(self._start + unit * UNIT, memoryview(buffer))
                self._known[unit] = digest
                written.append((unit, digest))
                total += UNIT
                if len(written) == _BATCH:
                    self._compare(written)
                    written = []
            self._compare(written)
        return total

    def _compare(self, written: list[tuple[int, bytes]]) -> None:
        if not written:
            return
        first, last = written[0][0], written[-1][0]
        self._medium.flush(self._start + first * UNIT, (last - first + 1) * UNIT)
        for unit, digest in written:
            if _digest(_read(self._medium, self._start + unit * UNIT, UNIT)) != digest:
                raise differs(self._medium, self._start + unit * UNIT, UNIT)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@contextmanager
def scratch(
    medium: Medium, partition: Partition, spans: Collection[tuple[int, int]], folder: Path, *, size: int | None = None
) -> Iterator[Scratch]:
    """Yield a copy of a partition; `size` is its size before its row in the table grew. The file is removed at the end."""
    try:
        with own_folder(folder, ".partition-") as place:  # it holds the host's keys
            found = Scratch(medium, partition, place / f"partition{partition.number}")
            found.take(spans, size or partition.size)
            yield found
    except OSError as error:
        raise refused(error, folder, kind=DeviceError, hint="a partition is changed in a file there: free some space") from error


def data_units(path: Path) -> set[int]:
    """Return the units of a sparse file that are not holes."""
    found: set[int] = set()
    with path.open("rb") as stream:
        handle = stream.fileno()
        end = 0
        while True:
            try:
                start = os.lseek(handle, end, os.SEEK_DATA)
            except OSError:  # ENXIO: no data after `end`
                return found
            end = os.lseek(handle, start, os.SEEK_HOLE)
            found.update(range(start // UNIT, -(-end // UNIT)))
