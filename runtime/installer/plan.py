# SPDX-License-Identifier: Apache-2.0
"""Which disks an installation uses, and how it divides them. Nothing is changed here.

The root disk may be built in; the boot device must be removable, since who takes it out locks the disk. Neither may be in
use: the medium that the live system runs from is, and so is the one that a file of answers was read from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base.errors import DeviceError
from tower.disk.device import FIXED, Disk, human_size
from tower.installer.answers import Answers

MIB: Final = 1 << 20
LEAST_REST: Final = 4 << 30
"""Bytes that root and home need together."""
LEAST_BOOT: Final = 256 * MIB
HOME_PERCENT: Final = 20
_HEADERS: Final = 64 * MIB
"""Space for both partition tables, the LUKS header and LVM's own data."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Answers, and the disks that they name."""

    answers: Answers
    root: Disk
    boot: Disk

    def rows(self) -> dict[str, object]:
        """Return what will be done, for people and as JSON."""
        rest = self.root.size - _HEADERS - self.answers.swap
        home = rest * HOME_PERCENT // 100
        return {
            "root_disk": f"{self.root}: will be wiped",
            "boot_device": f"{self.boot}: will be wiped",
            "swap": human_size(self.answers.swap),
            "home": f"about {human_size(home)}",
            "root": f"about {human_size(rest - home)}",
            "user": self.answers.username,
            "keyboard": f"{self.answers.keyboard_layout} {self.answers.keyboard_variant}",
            "time_zone": self.answers.timezone,
            "language": self.answers.lang,
            "desktop": "starts at login" if self.answers.desktop else "starts by startw",
            "secure_boot": "with keys of its own, which the firmware is given" if self.answers.secure_boot else "no",
        }


def make_plan(answers: Answers, disks: tuple[Disk, ...]) -> Plan:
    """Make the plan. Raises DeviceError with the reason why a named disk cannot be used."""
    root = _named(answers.root_disk, "ROOT_DISK", disks)
    boot = _named(answers.boot_device, "BOOT_DEVICE", disks)
    if root.path == boot.path:
        raise DeviceError(
            f"{root}: cannot be root disk and boot device at once", hint="the key must not be on the disk that it unlocks"
        )
    if why := why_no_root(root, answers.swap):
        raise DeviceError(f"ROOT_DISK, {root}: {why}", hint=_others(disks, root=True, swap=answers.swap))
    _check_boot(boot, "BOOT_DEVICE", disks)
    return Plan(answers, root, boot)


def new_boot_device(text: str, root: Disk, disks: tuple[Disk, ...]) -> Disk:
    """Return the disk with this path or serial number, for a new boot device of the system on `root`.

    Raises DeviceError with the reason why it cannot be one.
    """
    boot = _named(text, "--boot-device", disks)
    others = tuple(disk for disk in disks if disk.path != root.path)
    if boot.path == root.path:
        raise DeviceError(f"{boot}: has the system", hint=_others(others, root=False, swap=0))
    _check_boot(boot, "--boot-device", others)
    return boot


def _check_boot(boot: Disk, name: str, disks: tuple[Disk, ...]) -> None:
    if why := boot.why_not(LEAST_BOOT):
        raise DeviceError(f"{name}, {boot}: {why}", hint=_others(disks, root=False, swap=0))


def why_no_root(disk: Disk, swap: int) -> str:
    """Return why a disk cannot hold the system; empty if it can. It need not be removable."""
    least = LEAST_REST + _HEADERS + swap
    if disk.obstacle and disk.obstacle != FIXED:
        return disk.obstacle
    return "" if disk.size >= least else f"has {human_size(disk.size)}, {human_size(least)} are needed"


def _named(text: str, name: str, disks: tuple[Disk, ...]) -> Disk:
    """Return the disk with this path or serial number."""
    if text.startswith("/dev/"):
        found = [disk for disk in disks if disk.path == Path(os.path.realpath(text))]
    else:
        found = [disk for disk in disks if disk.serial == text]
    if len(found) == 1:
        return found[0]
    rows = "".join(f"\n  {disk}" for disk in found or disks if disk.kind != "loop") or " none"
    if found:
        raise DeviceError(f"{name}: {len(found)} disks have the serial number {text}:{rows}", hint="name one by its path")
    raise DeviceError(f"{name}: {text} is not a disk of this machine, which has:{rows}", hint="see which there are: lsblk")


def _others(disks: tuple[Disk, ...], *, root: bool, swap: int) -> str:
    fit = [disk for disk in disks if not (why_no_root(disk, swap) if root else disk.why_not(LEAST_BOOT))]
    return f"these would do: {', '.join(map(str, fit))}" if fit else "none of this machine's disks would do"
