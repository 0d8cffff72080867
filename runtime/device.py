# SPDX-License-Identifier: Apache-2.0
"""Which disk may be overwritten: removable, not in use, not this system's, large enough. In doubt, none.

What there is comes from `lsblk --json`; whether a memory card is one, and not memory soldered in, from /sys/block.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tower import proc
from tower.errors import DeviceError
from tower.jsontext import parse_json

_COLUMNS: Final = "NAME,PATH,TYPE,SIZE,RM,HOTPLUG,RO,SERIAL,MODEL,TRAN,MOUNTPOINTS,UUID,PARTUUID"
_SYSTEM_FILES: Final = ("proc/cmdline", "etc/fstab", "etc/crypttab")
_ID: Final = re.compile(r"[A-Za-z0-9-]{4,}")


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk, as far as the choice depends on it."""

    path: Path
    size: int
    serial: str
    model: str
    kind: str
    """How it is attached: usb, card, loop, or as lsblk says."""
    removable: bool
    obstacle: str
    """Why it may not be written, whatever its size; empty if it may."""

    def __str__(self) -> str:
        words = (self.model, f"serial {self.serial}" if self.serial else "", self.kind)
        return f"{self.path} ({', '.join([*(word for word in words if word), human_size(self.size)])})"

    def why_not(self, least: int) -> str:
        """Why it cannot take `least` bytes; empty if it can."""
        if self.obstacle:
            return self.obstacle
        return f"has {human_size(self.size)}, {human_size(least)} are needed" if self.size < least else ""


def human_size(size: int) -> str:
    """A size as it is printed on disks and cards: decimal."""
    if size < 1000:
        return f"{size} bytes"
    amount, unit = size / 1000, "kB"
    for larger in ("MB", "GB", "TB"):
        if amount >= 1000:
            amount, unit = amount / 1000, larger
    return f"{amount:.3g} {unit}"


def list_disks(root: Path = Path("/")) -> tuple[Disk, ...]:
    """The disks of this machine. Raises ToolError or DeviceError."""
    done = proc.run(("lsblk", "--json", "--bytes", "--output", _COLUMNS), timeout=30, missing="install lsblk (util-linux)")
    return parse_disks(done.stdout, root)


def parse_disks(data: bytes, root: Path = Path("/")) -> tuple[Disk, ...]:
    """What lsblk says, with what the files of the system below `root` add. Raises DeviceError if it is not what lsblk says."""
    named = _named_ids(root)
    try:
        rows = parse_json(data)["blockdevices"]
        return tuple(_disk(row, named, root) for row in rows if row["type"] in ("disk", "loop") and int(row["size"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DeviceError(
            f"lsblk says what is no list of disks: {error}", hint="install lsblk of util-linux 2.37 or newer"
        ) from None


def _disk(row: dict[str, Any], named: frozenset[str], root: Path) -> Disk:
    path = Path(row["path"])
    card = _text(root / "sys/block" / row["name"] / "device/type") == "SD"
    kind = "card" if card else "loop" if row["type"] == "loop" else str(row["tran"] or "disk")
    removable = card or row["type"] == "loop" or bool(row["rm"]) or bool(row["hotplug"]) or kind == "usb"
    parts = tuple(_below(row))
    mounted = [str(point) for part in parts for point in part["mountpoints"] or () if point]
    ours = [
        str(part["path"]) for part in parts if {str(part[name]) for name in ("uuid", "partuuid", "path") if part[name]} & named
    ]
    if mounted:
        obstacle = f"is in use: {', '.join(sorted(mounted))}"
    elif ours:
        obstacle = f"belongs to this system: it starts from {ours[0]}, or mounts it"
    elif row["ro"]:
        obstacle = "is write-protected"
    else:
        obstacle = "" if removable else "is not removable"
    texts = (str(text or "").strip() for text in (row["serial"] or _usb_serial(root / "sys/block" / row["name"]), row["model"]))
    serial, model = ("".join(char if char.isprintable() else "?" for char in text) for text in texts)
    return Disk(path, int(row["size"]), serial, model, kind, removable, obstacle)


def _usb_serial(place: Path) -> str:
    """The serial number of the USB device that a disk is part of; lsblk has it from udev, which Alpine has not."""
    for folder in Path(os.path.realpath(place)).parents:
        if (folder / "idVendor").is_file():
            return _text(folder / "serial")
    return ""


def _below(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield row
    for child in row.get("children", ()):
        yield from _below(child)


def _named_ids(root: Path) -> frozenset[str]:
    """Ids and paths of disks that the system's own files name: its boot device may not be mounted, and still is its own."""
    text = " ".join(_text(root / name) for name in _SYSTEM_FILES)
    words = text.replace("=", " ").replace(":", " ").replace('"', " ").split()
    return frozenset(word for word in words if word.startswith("/dev/") or _ID.fullmatch(word))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def choose(disks: tuple[Disk, ...], least: int, *, wanted: Path | None = None) -> Disk:
    """The disk to write: the one that was named, or the only one that may be. Raises DeviceError with what speaks against it."""
    if wanted is not None:
        real = Path(os.path.realpath(wanted))
        disk = next((disk for disk in disks if disk.path == real), None)
        if disk is None:
            names = ", ".join(str(disk.path) for disk in disks) or "none"
            raise DeviceError(f"{wanted}: is not a disk of this machine", hint=f"a whole disk, not a partition: {names}")
        if why := disk.why_not(least):
            raise DeviceError(f"{disk}: {why}", hint="take a removable disk that is not in use")
        return disk
    # A loop device is for who names it.
    found = [disk for disk in disks if not disk.why_not(least) and disk.kind != "loop"]
    if len(found) == 1:
        return found[0]
    if found:
        rows = "".join(f"\n  {disk}" for disk in found)
        raise DeviceError(
            f"there are {len(found)} disks that could be written:{rows}", hint=f"name one: --device {found[0].path}"
        )
    rows = "".join(f"\n  {disk}: {disk.why_not(least)}" for disk in disks if disk.kind != "loop")
    raise DeviceError(f"there is no disk that may be written:{rows or ' none at all'}", hint="insert an SD card or a USB stick")


def check_same(before: Disk, after: Disk) -> None:
    """DeviceError if another disk is there than the one that was chosen."""
    if (before.serial, before.model, before.size) != (after.serial, after.model, after.size):
        raise DeviceError(f"{after}: is not the disk that was there before: {before}", hint="insert that one, or start again")
