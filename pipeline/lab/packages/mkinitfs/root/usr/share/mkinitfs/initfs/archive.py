# SPDX-License-Identifier: Apache-2.0
"""The archive: cpio "newc" of a folder, the same bytes whoever makes it and whenever.

Entries are sorted, owned by root, of one time; /dev/console and /dev/null are written as device
nodes, which needs no privileges because they exist in the archive only.
"""

from __future__ import annotations

import os
import shutil
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DEVICES = {"dev/console": (0o600, 5, 1), "dev/null": (0o666, 1, 3)}


def write_cpio(folder: Path, out: BinaryIO, epoch: int) -> None:
    """Write all of `folder` as one archive."""
    serial = 0
    for name in sorted({*_names(folder), *DEVICES}):
        serial += 1
        path = folder / name
        if name in DEVICES:
            mode, major, minor = DEVICES[name]
            _entry(out, serial, name, stat.S_IFCHR | mode, epoch, b"", (major, minor))
            continue
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            _entry(out, serial, name, stat.S_IFLNK | 0o777, epoch, str(path.readlink()).encode())
        elif stat.S_ISDIR(status.st_mode):
            _entry(out, serial, name, status.st_mode, epoch, b"")
        elif stat.S_ISREG(status.st_mode):
            _entry(out, serial, name, status.st_mode, epoch, path.read_bytes())
    _entry(out, 0, "TRAILER!!!", 0, 0, b"")


def _names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder))


def _entry(  # noqa: PLR0917  # in the order of the format
    out: BinaryIO, serial: int, name: str, mode: int, epoch: int, data: bytes, device: tuple[int, int] = (0, 0)
) -> None:
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (serial, mode, 0, 0, links, epoch, len(data), 0, 0, *device, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
    out.write(head + b"\0" * (-len(head) % 4))
    out.write(data + b"\0" * (-len(data) % 4))


def compress(plain: Path, out: Path, argv: list[str]) -> None:
    """Write `plain` to `out` through a compressor; ["none"] copies, ["gzip", "-9"] needs no program."""
    if argv[0] == "none":
        shutil.copyfile(plain, out)
    elif argv[0] == "gzip":
        _gzip(plain, out, int(argv[1].lstrip("-")))
    else:
        _through(argv, plain, out)


def _gzip(plain: Path, out: Path, level: int) -> None:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    with plain.open("rb") as source, out.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(packer.compress(block))
        target.write(packer.flush())


def _through(argv: list[str], plain: Path, out: Path) -> None:
    program = shutil.which(argv[0])
    if program is None:
        raise SystemExit(f"mkinitfs: {argv[0]} is not installed: choose another initfscomp (-C gzip needs nothing)")
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, str(plain), os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644),
    ]
    pid = os.posix_spawn(program, argv, os.environ, file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise SystemExit(f"mkinitfs: {argv[0]} failed with status {status}")
