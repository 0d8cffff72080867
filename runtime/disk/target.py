# SPDX-License-Identifier: Apache-2.0
"""The target to write, a removable disk or a file for a virtual machine: chosen, checked, and checked again once it is open.

Paths are looked up twice, and people swap disks in between. So the choice remembers which disk or file it was, and the
open descriptor must be on that one; everything is then written through this descriptor.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from tower.base.errors import DeviceError
from tower.base.files import look
from tower.base.refused import in_our_words
from tower.base.view import View
from tower.disk import device, marks
from tower.disk.device import Disk
from tower.disk.forbidden import check_file, check_loop, check_open_file
from tower.disk.medium import ALIGN, Medium, opened_disk, opened_file
from tower.disk.receipt import Target
from tower.image.source import ImageSource

FILE: Final = "file"
"""The kind of a target that is a file."""
_OTHER: Final = "take a removable disk that is not in use"


def target_disk(source: ImageSource, wanted: Path | None, view: View) -> Target:
    """Return the disk to write; warn if it cannot be told from others. Raises DeviceError."""
    disks = device.list_disks()
    disk = device.choose(disks, _aligned(source.block_map.size), wanted=wanted)
    if disk.kind == "loop":
        check_loop(disk.path, source.path)
    _check_content(disk)
    if doubt := device.doubt(disk, disks):
        view.say(doubt)
    return Target(str(disk.path), disk.size, disk.serial, disk.model, disk.kind, disk.identity)


def _check_content(disk: Disk) -> None:
    """Raise DeviceError if the content of a disk is a reason not to write it; if it cannot be read, opening it will say so."""
    try:
        handle = os.open(disk.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _check_signature(disk, handle)
    finally:
        os.close(handle)


def _check_signature(disk: Disk, handle: int) -> None:
    with in_our_words(disk.path, kind=DeviceError):
        why = marks.obstacle(handle, disk.size)
    if why:
        raise DeviceError(f"{disk}: {why}", hint=_OTHER)


def target_file(source: ImageSource, path: Path, size: int | None) -> Target:
    """Return the file for a virtual machine's disk, of `size` bytes if that is given. Raises DeviceError."""
    check_file(path, source.path)
    about = look(path, DeviceError)
    there, least = (about.st_size if about else 0), _aligned(source.block_map.size)
    if size is not None and size < max(there, least):
        has = f"the image needs {least}" if there < least else f"the file already has {there}"
        raise DeviceError(
            f"{path}: cannot have {size} bytes: {has}",
            hint=f"use --size {-(-max(there, least) >> 20)}M or more, or leave --size out",
        )
    identity = "" if about is None else _identity_of_file(about)
    return Target(str(path.absolute()), _aligned(max(size or 0, there, least)), "", "", FILE, identity)


def _aligned(size: int) -> int:
    """Round a size up to one that a medium can have."""
    return -(-size // ALIGN) * ALIGN


def _identity_of_file(about: os.stat_result) -> str:
    return f"{device.boot_id()} {about.st_dev}:{about.st_ino}"


def still(target: Target, view: View, *, yes: bool) -> Target:
    """Return the target of an earlier run, if it may still be written. Raises DeviceError if another disk is there now.

    Another disk of the same size could replace a disk without a serial number that was removed, or that was there before
    a restart of this machine: the user is asked, as in `View.confirm`.
    """
    if target.kind == FILE:
        here = target.identity.startswith(device.boot_id())
        return target if here else replace(target, identity="")
    disks = device.list_disks()
    disk = device.choose(disks, 0, wanted=Path(target.path))
    device.check_same(_disk_of(target), disk)
    if disk.identity != target.identity and (doubt := device.doubt(disk, disks)):
        view.say(f"{doubt}; tower cannot know whether it is the one that was begun")
        view.confirm(f"{target} will be overwritten. Go on?", yes=yes)
    return replace(target, identity=disk.identity)


@contextmanager
def open_target(target: Target, image: Path, *, write: bool = True) -> Iterator[Medium]:
    """Open the target. Raises DeviceError if it is not the chosen one, or may no longer be written."""
    path = Path(target.path)
    if target.kind == FILE:
        size = _aligned(target.size) if write else None
        with opened_file(path, partial(_check_file, target, image), size=size, write=write) as medium:
            yield medium
        return
    with opened_disk(path, partial(_check_disk, target, image)) as medium:
        yield medium


def _check_file(target: Target, image: Path, handle: int) -> None:
    path = Path(target.path)
    check_open_file(handle, path, image)
    if target.identity not in ("", _identity_of_file(os.fstat(handle))):
        raise DeviceError(f"{path}: is not the file that was there before", hint="start again, or name it again: --device-file")


def _check_disk(target: Target, image: Path, handle: int) -> None:
    """Raise DeviceError unless the open disk is known to be the one that was chosen."""
    number = device.number_of(os.fstat(handle))
    disk = next((disk for disk in device.list_disks() if disk.number == number), None)
    if disk is None:
        raise DeviceError(f"{target.path}: is not a whole disk of this machine", hint="see which there are: lsblk")
    device.check_same(_disk_of(target), replace(disk, size=os.lseek(handle, 0, os.SEEK_END)))
    if why := disk.why_not(0):
        raise DeviceError(f"{disk}: {why}", hint=_OTHER)
    if target.identity not in ("", device.identity_of_open(handle)):
        raise DeviceError(
            f"{disk}: is not the disk that was there before, or was removed meanwhile", hint="insert that one, and start again"
        )
    if disk.kind == "loop":
        check_loop(disk.path, image)
    _check_signature(disk, handle)


def _disk_of(target: Target) -> Disk:
    """Return the known properties of a disk that was chosen."""
    return Disk(Path(target.path), target.size, target.serial, target.model, target.kind, removable=True, obstacle="")
