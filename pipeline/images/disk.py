# SPDX-License-Identifier: Apache-2.0
"""Inspect finished disk images without mounting them: partitions, files of the boot partition and the root.

For boot tests and checks; the stages make the images.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from tower.base.regular import open_regular

from pipeline.base import proc
from pipeline.base.errors import FormatError, ToolError

SECTOR = 512
_SECONDS = 120
_PACKED = {".zst": ("zstd", "-q", "-d", "-f", "--sparse", "-o"), ".xz": ("xz", "-d", "-c", "-T2")}
_HINT = "apt-get install mtools e2fsprogs zstd xz-utils"


@dataclass(frozen=True, slots=True)
class Partition:
    """One row of the table in the first sector; positions in bytes."""

    number: int
    kind: int
    bootable: bool
    start: int
    size: int


def partitions(image: Path) -> tuple[Partition, ...]:
    """Return the partitions of an image with an MBR. Raises FormatError if it has none."""
    with open_regular(image) as stream:
        sector = stream.read(SECTOR)
    if len(sector) < SECTOR or sector[510:512] != b"\x55\xaa":
        raise FormatError(f"{image.name}: no partition table in its first sector")
    found: list[Partition] = []
    for place in range(4):
        row = sector[446 + 16 * place : 462 + 16 * place]
        start, count = struct.unpack("<II", row[8:16])
        if row[4]:
            found.append(Partition(place + 1, row[4], row[0] == 0x80, start * SECTOR, count * SECTOR))
    return tuple(found)


def unpacked(image: Path, folder: Path) -> Path:
    """Return the image itself, or its unpacked content as a file in `folder` if it is compressed."""
    command = _PACKED.get(image.suffix)
    if command is None:
        return image
    raw = folder / image.stem
    if command[0] == "zstd":
        proc.run((*command, raw, image), timeout=_SECONDS, hint=_HINT)
    else:
        with raw.open("wb") as out:
            proc.run((*command, image), stdout=out, timeout=_SECONDS, hint=_HINT)
    return raw


def boot_files(image: Path) -> tuple[str, ...]:
    """Return the names of all files of the boot partition, with a leading slash."""
    lines = (line.removeprefix("::") for line in _mtools(image, "mdir", "-/", "-b", "::").decode().splitlines())
    return tuple(sorted(line for line in lines if line and not line.endswith("/")))


def boot_file(image: Path, name: str) -> bytes:
    """Return the content of a file of the boot partition."""
    return _mtools(image, "mcopy", f"::{name}", "-")


def take_boot_file(image: Path, name: str, target: Path) -> Path:
    """Copy a file of the boot partition to `target`."""
    _mtools(image, "mcopy", "-n", f"::{name}", os.fspath(target.absolute()))
    return target


def put_boot_file(image: Path, name: str, data: bytes, folder: Path) -> None:
    """Write a file of the boot partition; `folder` is for scratch."""
    source = folder / "boot-file"
    source.write_bytes(data)
    try:
        _mtools(image, "mcopy", "-o", str(source.absolute()), f"::{name}")
    finally:
        source.unlink()


def _mtools(image: Path, command: str, *words: str) -> bytes:
    """Run a program of mtools on the boot partition; quote the image's path, since mtools gives some characters a meaning."""
    boot = f"{image.name}@@{partitions(image)[0].start}"
    return proc.run((command, "-i", boot, *words), cwd=image.absolute().parent, timeout=_SECONDS, hint=_HINT).stdout


def root_file(image: Path, name: str) -> bytes:
    """Return the content of a file of the root partition. Raises ToolError if it is missing."""
    done = _debugfs(image, f"cat {name}")
    if b"File not found" in done.stderr:
        raise ToolError(f"{image.name}: the root has no {name}")
    return done.stdout


def root_stat(image: Path, name: str) -> str:
    """Return debugfs' description of a file of the root partition: type, mode, owner, link target."""
    return _debugfs(image, f"stat {name}").stdout.decode()


def put_root_file(image: Path, name: str, data: bytes, folder: Path) -> None:
    """Replace a file of the root partition; its mode and owner are not kept. `folder` is for scratch. Raises ToolError."""
    source = folder / "root-file"
    source.write_bytes(data)
    try:
        for line in (f"rm {name}", f"write {source.absolute()} {name}"):
            _debugfs(image, line, "-w")
    finally:
        source.unlink()
    if root_file(image, name) != data:
        raise ToolError(f"{image.name}: {name} of the root was not written")


def check_root(image: Path) -> None:
    """Raise ToolError if the file system of the root partition is not whole."""
    proc.run(("e2fsck", "-f", "-n", _root(image)), cwd=image.absolute().parent, timeout=_SECONDS, hint=_HINT)


def _debugfs(image: Path, line: str, *options: str) -> proc.Done:
    """Run a command of debugfs on the root partition."""
    argv = ("debugfs", *options, "-R", line, _root(image))
    return proc.run(argv, cwd=image.absolute().parent, timeout=_SECONDS, hint=_HINT)


def _root(image: Path) -> str:
    """Return the last partition as programs of e2fsprogs take it: in its place, without a copy of hundreds of megabytes.

    Raises FormatError if they would take a part of the image's name for an option.
    """
    if "?" in image.name:
        raise FormatError(f"{image.name}: there is a question mark in its name", hint="rename it")
    return f"./{image.name}?offset={partitions(image)[-1].start}"
