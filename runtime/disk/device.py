# SPDX-License-Identifier: Apache-2.0
"""Which disk may be overwritten: removable, not in use, not this system's, large enough. In doubt, none.

`lsblk --json` lists the disks; /sys/block tells memory cards from soldered memory. An `identity` distinguishes a disk from
those that were, or will be, in the same place: the kernel numbers the disks that it sees, and uses no number twice until
it restarts.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tower.base import proc
from tower.base.errors import DeviceError
from tower.base.jsontext import parse_json
from tower.disk.ownnames import OURS, Names, names

SECTOR: Final = 512
"""Bytes of a logical sector, as the partition table and the file systems of our images assume."""
FIXED: Final = "is not removable"
"""The obstacle of a built-in disk that has no other."""
_COLUMNS: Final = "NAME,PATH,MAJ:MIN,TYPE,SIZE,RM,HOTPLUG,RO,SERIAL,MODEL,TRAN,MOUNTPOINTS,UUID,PARTUUID,LOG-SEC"
_DISK_SEQUENCE: Final = 0x80081280
"""BLKGETDISKSEQ: the number that the kernel gave to a disk when it appeared; Linux 5.15."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk, with the properties that the choice depends on."""

    path: Path
    size: int
    serial: str
    model: str
    kind: str
    """How it is attached: usb, card, loop, or the word of lsblk."""
    removable: bool
    obstacle: str
    """Why it may not be written, whatever its size; empty if it may."""
    number: str = ""
    """The device's number, as the kernel writes it: 8:16."""
    identity: str = ""
    """Distinguishes it from any other disk until this machine restarts."""

    def __str__(self) -> str:
        words = (self.model, f"serial {self.serial}" if self.serial else "", self.kind)
        return f"{self.path} ({', '.join([*(word for word in words if word), human_size(self.size)])})"

    def why_not(self, least: int) -> str:
        """Return why it cannot hold `least` bytes; "" if it can."""
        if self.obstacle or self.size >= least:
            return self.obstacle
        has, needed = human_size(self.size), human_size(least)
        return f"has {has}, {needed} are needed" if has != needed else f"has {self.size} bytes, {least} are needed"

    def is_like(self, other: Disk) -> bool:
        """Tell whether it looks like another one: then only the kernel can tell them apart, while they stay."""
        return (self.serial, self.model, self.size) == (other.serial, other.model, other.size)


def human_size(size: int) -> str:
    """Return a size as it is printed on disks and cards: decimal."""
    if size < 1000:
        return f"{size} bytes"
    amount, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount >= 999.5:  # otherwise it would be printed as 1e+03
            amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


def number_of(about: os.stat_result) -> str:
    """Return the number of a device from its stat."""
    return f"{os.major(about.st_rdev)}:{os.minor(about.st_rdev)}"


def identity_of(number: str, sequence: str) -> str:
    """Return the `identity` of the disk with that number, which the kernel counted as `sequence`."""
    return f"{boot_id()} {number} {sequence}"


def identity_of_open(handle: int) -> str:
    """Return the `identity` of the disk that a descriptor is open on; meanwhile no other disk gets its number."""
    number, buffer = number_of(os.fstat(handle)), bytearray(8)
    try:
        fcntl.ioctl(handle, _DISK_SEQUENCE, buffer)
    except OSError:  # an older kernel
        return identity_of(number, "")
    return identity_of(number, str(int.from_bytes(buffer, sys.byteorder)))


def boot_id() -> str:
    """Return the ID of this machine's present start."""
    return _text(Path("/proc/sys/kernel/random/boot_id"))


def list_disks(root: Path = Path("/")) -> tuple[Disk, ...]:
    """List the disks of this machine. Raises ToolError or DeviceError."""
    # Read the numbers before lsblk runs: a disk that is swapped meanwhile keeps the old number, which no disk will have.
    sequences = {place.name: _text(place / "diskseq") for place in (root / "sys/block").glob("*")}
    done = proc.run(("lsblk", "--json", "--bytes", "--output", _COLUMNS), timeout=30, missing="install lsblk (util-linux)")
    return parse_disks(done.stdout, root, sequences)


def parse_disks(data: bytes, root: Path = Path("/"), sequences: Mapping[str, str] = MappingProxyType({})) -> tuple[Disk, ...]:
    """Parse lsblk's output, and add what the files of the system below `root` say. Raises DeviceError if it is not valid.

    `sequences` maps a disk's name to its number from the kernel.
    """
    named = names(root)
    try:
        rows = parse_json(data)["blockdevices"]
        rows = [row for row in rows if row["type"] in ("disk", "loop") and int(row["size"])]
        return tuple(_disk(row, named, root, sequences.get(row["name"], "")) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceError(
            f"the output of lsblk is not a list of disks: {error}", hint="install lsblk of util-linux 2.37 or newer"
        ) from None


def _disk(row: dict[str, Any], named: Names, root: Path, sequence: str) -> Disk:
    path, number = Path(row["path"]), str(row["maj:min"]).strip()
    card = _text(root / "sys/block" / row["name"] / "device/type") == "SD"
    kind = "card" if card else "loop" if row["type"] == "loop" else str(row["tran"] or "disk")
    removable = card or row["type"] == "loop" or bool(row["rm"]) or bool(row["hotplug"]) or kind == "usb"
    obstacle = _obstacle(row, named) or ("" if removable else FIXED)
    texts = (str(text or "").strip() for text in (row["serial"] or _serial(root / "sys/block" / row["name"]), row["model"]))
    serial, model = ("".join(char if char.isprintable() else "?" for char in text) for text in texts)
    return Disk(path, int(row["size"]), serial, model, kind, removable, obstacle, number, identity_of(number, sequence))


def _obstacle(row: dict[str, Any], named: Names) -> str:
    """Return why a disk may not be written, removable or not."""
    parts = tuple(_below(row))
    mounted = [str(point) for part in parts for point in part["mountpoints"] or () if point]
    if mounted:
        return f"is in use: {', '.join(sorted(mounted))}"
    # Devices on it or on a partition of it: a volume of LVM, a RAID, an open LUKS container.
    made = [part for part in parts[1:] if part["type"] != "part"]
    if made:
        return f"is in use: {made[0]['path']} ({made[0]['type']}) is built on it"
    ids = [str(part[name]) for part in parts for name in ("uuid", "partuuid") if part[name]]
    if named.have(ids, paths=[str(part["path"]) for part in parts]):
        return OURS
    if row["ro"]:
        return "is write-protected"
    sector = int(row["log-sec"] or SECTOR)
    return wrong_sector(sector) if sector != SECTOR else ""


def wrong_sector(size: int) -> str:
    """Return the text about a disk with logical sectors of `size` bytes."""
    return f"has sectors of {size} bytes; images are made for {SECTOR}, and no machine could start from it"


def _serial(place: Path) -> str:
    """Return the serial number of a disk, or of its USB device; lsblk gets it from udev, which Alpine does not have."""
    for folder in Path(os.path.realpath(place)).parents:
        if (folder / "idVendor").is_file():
            return _text(folder / "serial")
    # virtio and NVMe give it as text; SATA and SAS in their page of "vital product data", after four bytes.
    return _text(place / "serial") or _text(place / "device/serial") or _text(place / "device/vpd_pg80")[4:].strip("\0 ")


def _below(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield row
    for child in row.get("children", ()):
        yield from _below(child)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def choose(disks: tuple[Disk, ...], least: int, *, wanted: Path | None = None) -> Disk:
    """Return the disk to write: the named one, or the only possible one. Raises DeviceError with the reasons against each."""
    if wanted is not None:
        disk = next((disk for disk in disks if _is_at(disk, wanted)), None)
        if disk is None:
            names = ", ".join(str(disk.path) for disk in disks) or "none"
            raise DeviceError(f"{wanted}: is not a disk of this machine", hint=f"a whole disk, not a partition: {names}")
        if why := disk.why_not(least):
            raise DeviceError(f"{disk}: {why}", hint="use a removable disk that is not in use")
        return disk
    # A loop device must be named.
    found = [disk for disk in disks if not disk.why_not(least) and disk.kind != "loop"]
    if len(found) == 1:
        return found[0]
    if found:
        rows = "".join(f"\n  {disk}" for disk in found)
        raise DeviceError(
            f"there are {len(found)} disks that could be written:{rows}", hint=f"choose one: --device {found[0].path}"
        )
    rows = "".join(f"\n  {disk}: {disk.why_not(least)}" for disk in disks if disk.kind != "loop")
    raise DeviceError(f"there is no disk that may be written:{rows or ' none at all'}", hint="insert an SD card or a USB stick")


def _is_at(disk: Disk, path: Path) -> bool:
    """Tell whether a path leads to a disk: by device number, whatever its name."""
    try:
        about = path.stat()
    except OSError:
        about = None
    if about is not None and stat.S_ISBLK(about.st_mode) and disk.number:
        return disk.number == number_of(about)
    return disk.path == Path(os.path.realpath(path))


def check_same(before: Disk, after: Disk) -> None:
    """Raise DeviceError if the disk is not the one that was chosen."""
    if not before.is_like(after):
        raise DeviceError(f"{after}: is not the disk that was there before: {before}", hint="insert that one, or start again")


def doubt(disk: Disk, disks: tuple[Disk, ...]) -> str:
    """Return a warning about a disk that cannot be told from others, or ""."""
    twins = [
        other
        for other in disks
        if other.path != disk.path and other.is_like(disk) and (other.kind == "loop") == (disk.kind == "loop")
    ]
    if twins:
        names = " and ".join(str(one.path) for one in (disk, *twins))
        known = "and the same serial number" if disk.serial else "and no serial number"
        return f"{names} have the same size {known}: they cannot be told apart; remove the one that is to be kept"
    if disk.serial:
        return ""
    return f"{disk.path} has no serial number: tower could not tell another disk of {human_size(disk.size)} in its place from it"
