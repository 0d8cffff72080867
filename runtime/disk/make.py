# SPDX-License-Identifier: Apache-2.0
"""Make a host's disk from an image: flash it, grow its root to the end, put the host's files onto the boot partition.

The steps run in this order, with the partition table after the root, and the secrets last. After an interruption, it
begins by restoring what differs from the image, so that every step always starts from the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import DeviceError, ImageProblemError, ToolError
from tower.base.view import View
from tower.disk.filesystem import ext4_units, fat_head, fat_units
from tower.disk.flash import GAP, flash
from tower.disk.medium import Medium
from tower.disk.partition import UNIT, Partition, grow_table, read_partitions, root_size, scratch
from tower.image.source import ImageSource

_SECONDS: Final = 600
_LARGEST_BOOT: Final = 1 << 30
_MTOOLS: Final = {"MTOOLS_SKIP_CHECK": "1", "MTOOLSRC": "/dev/null"}
# The kernel zeroes inode tables after the first mount; on a slow medium, it would take too long now.
_LAZY: Final = {"RESIZE2FS_FORCE_LAZY_ITABLE_INIT": "1"}


@dataclass(frozen=True, slots=True)
class HostDisk:
    """The inputs of a disk."""

    source: ImageSource
    boot_files: Mapping[str, Path]
    """Name on the boot partition -> file to copy there."""
    scratch: Path
    """A folder with enough space for the image's partitions."""


def make_disk(job: HostDisk, medium: Medium, *, resume: bool, view: View) -> None:
    """Make the disk. Raises ImageProblemError, DeviceError or ToolError; after that, or a signal, repeat it with `resume`."""
    block_map = job.source.block_map
    with view.bar("writing and reading back", block_map.mapped) as advance:
        flash(job.source.path, block_map, medium, compare=resume, advance=advance)
    spans = block_map.spans(GAP)
    boot, root = read_partitions(medium)
    with view.step("growing the root"):
        _grow(medium, root, spans, job.scratch)
        grow_table(medium)
    with view.step("placing the host's files"):
        _place(medium, boot, spans, job)


def _grow(medium: Medium, root: Partition, spans: tuple[tuple[int, int], ...], folder: Path) -> None:
    size = root_size(medium, root)
    with scratch(medium, root, spans, folder) as part:
        check = proc.run(("e2fsck", "-f", "-p", part.path), timeout=_SECONDS, check=False, missing="install e2fsprogs")
        if check.status not in (0, 1):
            raise DeviceError(f"{medium.where}: e2fsck rejects the root that was written", hint="fetch or build the image again")
        if size > root.size:
            with part.path.open("r+b") as stream:
                stream.truncate(size)
            proc.run(("resize2fs", part.path), timeout=_SECONDS, env=_LAZY, missing="install e2fsprogs (Alpine: e2fsprogs-extra)")
        part.put_back(ext4_units(part.path))


def _place(medium: Medium, boot: Partition, spans: tuple[tuple[int, int], ...], job: HostDisk) -> None:
    with scratch(medium, boot, spans, job.scratch) as part:
        for name, path in job.boot_files.items():
            try:
                proc.run(
                    ("mcopy", "-o", "-i", part.path, path, f"::{name}"), timeout=_SECONDS, env=_MTOOLS, missing="install mtools"
                )
            except ToolError as error:
                raise DeviceError(f"{medium.where}: {name} cannot be written to its boot partition: {error.message}") from error
        part.put_back(fat_units(part.path))


def read_boot_file(medium: Medium, name: str, folder: Path) -> bytes:
    """Read a small file of the boot partition of any medium; b"" if it has no such file.

    Raises ImageProblemError if the medium is not partitioned as a host's. Do not trust the content of the file.
    """
    boot = read_partitions(medium)[0]
    if boot.size > _LARGEST_BOOT or boot.start + boot.size > medium.size:
        raise ImageProblemError(f"{medium.where}: its first partition is not a host's boot partition")
    with scratch(medium, boot, (), folder) as part:
        part.take([(boot.start, boot.start + UNIT)], boot.size)
        part.take([(boot.start, boot.start + fat_head(part.path))], boot.size)
        part.take(
            [(boot.start + unit * UNIT, boot.start + (unit + 1) * UNIT) for unit in sorted(fat_units(part.path))], boot.size
        )
        argv = ("mcopy", "-n", "-i", part.path, f"::{name}", "-")
        done = proc.run(argv, timeout=_SECONDS, env=_MTOOLS, check=False, most=boot.size, missing="install mtools")
    return done.stdout if done.status == 0 else b""
