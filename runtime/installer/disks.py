# SPDX-License-Identifier: Apache-2.0
"""Disks of an installed thin client: both with GPT; the root disk is LUKS2 with LVM in it, the boot device is FAT32.

The key of the root disk lies on the boot device, and in the initramfs there, and nowhere else outside the locked disk. It is fed
to cryptsetup on its stdin.
"""

from __future__ import annotations

import os
import secrets
import signal
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import DeviceError, ToolError
from tower.base.refused import in_our_words
from tower.disk.device import Disk
from tower.installer.plan import HOME_PERCENT, MIB, Plan

TARGET: Final = Path("/run/tower/target")
"""Where the new root is mounted while it is made."""
GROUP: Final = "tower"
MAPPING: Final = "tower-crypt"
_BOOT_MOST: Final = 2048 * MIB
_ENDS: Final = 2 * MIB
"""What the table of partitions needs at both ends of a disk, aligned."""
_SECONDS: Final = 300
_LONG: Final = 3600
_NODE_SECONDS: Final = 20.0
_ROOT_NODE: Final = Path("/dev/tower-root-disk")
_BOOT_NODE: Final = Path("/dev/tower-boot-device")
_UUID: Final = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
LVM_CONFIG: Final = """\
activation {
	udev_sync = 0
	udev_rules = 0
	verify_udev_operations = 0
}
devices {
	obtain_device_list_from_udev = 0
}
"""
"""Devices are made by mdev, not udev, and LVM must not wait for it: here, and in the new system and its initramfs."""
START_NAME: Final = "tower-boot"
CRYPT_NAME: Final = "tower-crypt"
"""Names of the partitions, in their tables."""
_MOUNTS: Final = ("sys", "proc", "dev", "boot", "home", "")
_FAT_ID: Final = slice(67, 71)
_LEFT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Made:
    """What the boot loader and the system have to know about the disks."""

    luks: str
    """UUID of the encrypted partition."""
    boot: str
    """UUID of the boot partition, as FAT has it: 1A2B-3C4D."""


def release() -> None:
    """Close and unmount what an interrupted installation left open. Raises ToolError."""
    if _mounted(_MOUNTS):
        _end_left()
    _unmount(_MOUNTS)
    if Path("/dev/mapper", MAPPING).exists():
        _lvm("vgchange", "--activate", "n", GROUP, check=False)
        proc.run(("cryptsetup", "close", MAPPING), timeout=_SECONDS)
    for node in (_ROOT_NODE, _BOOT_NODE):
        node.unlink(missing_ok=True)


def _mounted(names: Iterable[str]) -> list[Path]:
    """Return those of the folders of the new system that are mounted, in the same order."""
    mounted = {line.split(" ")[1] for line in Path("/proc/mounts").read_text(errors="replace").splitlines()}
    return [TARGET / name for name in names if str(TARGET / name) in mounted]


def _unmount(names: Iterable[str]) -> None:
    for place in _mounted(names):
        proc.run(("umount", place), timeout=_SECONDS)


def _end_left() -> None:
    """End programs that a killed installation has left at work in the new system: they keep it mounted.

    Raises DeviceError if they do not end. The caller holds the lock of the installation, so they are nobody's.
    """
    end = time.monotonic() + _LEFT_SECONDS
    while left := tuple(left_in(TARGET)):
        if time.monotonic() > end:
            raise DeviceError(f"{TARGET}: process {left[0]} still works there, and does not end", hint="restart this machine")
        for number in left:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)


def left_in(folder: Path, processes: Path = Path("/proc")) -> Iterator[int]:
    """Return the IDs of the other processes that have their root, their working folder or an open file below `folder`."""
    for place in processes.glob("[0-9]*"):
        if int(place.name) == os.getpid():
            continue
        with suppress(OSError):
            links = [place / "root", place / "cwd", place / "exe", *(place / "fd").iterdir()]
            if any(_leads_to(link, folder) for link in links):
                yield int(place.name)


def _leads_to(link: Path, folder: Path) -> bool:
    with suppress(OSError):
        return link.readlink().is_relative_to(folder)
    return False


def parts_named(disk: Disk, name: str) -> Iterator[Path]:
    """Return the device nodes of the partitions that have this name in a disk's partition table."""
    for place in sorted(Path("/sys/class/block", disk.path.name).glob("*/partition")):
        if f"PARTNAME={name}" in (place.parent / "uevent").read_text(errors="replace").splitlines():
            yield Path("/dev", place.parent.name)


def opens(part: Path, key: bytes) -> bool:
    """Return whether a key opens an encrypted partition."""
    argv = ("cryptsetup", "open", "--test-passphrase", "--key-file", "-", part)
    return proc.run(argv, stdin=key, timeout=_SECONDS, check=False).status == 0


def open_root(part: Path, key: bytes) -> str:
    """Open the root disk of an installed system; return the UUID of its encrypted partition. Raises ToolError."""
    Path("/run/cryptsetup").mkdir(mode=0o700, exist_ok=True)
    proc.run(("cryptsetup", "open", "--key-file", "-", part, MAPPING), stdin=key, timeout=_SECONDS)
    _lvm("vgchange", "--activate", "y", GROUP)
    _lvm("vgmknodes")
    return proc.run(("cryptsetup", "luksUUID", part), timeout=_SECONDS).stdout.decode().strip()


def open_volumes(part: Path, boot: Path, key: bytes) -> tuple[Made, bool]:
    """Open the disk of an installed system; return what the boot loader needs, and whether there is swap. Raises ToolError."""
    luks = open_root(part, key)
    with in_our_words(boot, kind=DeviceError), boot.open("rb") as stream:
        number = f"{int.from_bytes(stream.read(512)[_FAT_ID], 'little'):08X}"
    return Made(luks, f"{number[:4]}-{number[4:]}"), Path("/dev", GROUP, "swap").exists()


def mount_old() -> None:
    """Mount the root of an installed system read-only, and its home. Raises ToolError.

    An upgrade that was cut off may have left a root that cannot be mounted, or has nothing in it: then home alone.
    """
    TARGET.mkdir(mode=0o755, parents=True, exist_ok=True)
    with suppress(ToolError):
        _mount("-t", "ext4", "-o", "ro", f"/dev/{GROUP}/root", "")
    if not (TARGET / "home").is_dir():
        _unmount([""])
        (TARGET / "home").mkdir(exist_ok=True)
    _mount("-t", "ext4", f"/dev/{GROUP}/home", "home")


def empty_root() -> None:
    """Make a new file system in place of the old root; home stays. Raises ToolError."""
    _unmount(("home", ""))
    proc.run(("mkfs.ext4", "-q", "-F", "-L", "tower-root", f"/dev/{GROUP}/root"), timeout=_SECONDS)


def partition(plan: Plan) -> tuple[Path, Path]:
    """Partition both disks; return the partitions of root disk and boot device. Raises DeviceError or ToolError."""
    boot = partition_boot(plan.boot)
    size = (plan.root.size - _ENDS) // MIB
    row = f"type=CA7D7CCB-63ED-4C53-861C-1742536059CC, size={size}MiB, name={CRYPT_NAME}"
    return _partition(plan.root, row, _ROOT_NODE), boot


def partition_boot(disk: Disk) -> Path:
    """Partition a boot device; return its partition. Raises DeviceError or ToolError."""
    size = min(disk.size - _ENDS, _BOOT_MOST) // MIB
    return _partition(disk, f"type={_UUID}, size={size}MiB, name={START_NAME}, attrs=LegacyBIOSBootable", _BOOT_NODE)


def _partition(disk: Disk, row: str, node: Path) -> Path:
    with (
        in_our_words(disk.path, kind=DeviceError, hint="the disk is worn out, or was taken out"),
        disk.path.open("r+b") as stream,
    ):
        # What was in the first megabytes is no boot loader, table or header of anybody's any more, however this ends.
        stream.write(bytes(4 * MIB))
        stream.flush()
        os.fsync(stream.fileno())
    table = f"label: gpt\nstart=1MiB, {row}\n"
    argv = ("sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", disk.path)
    proc.run(argv, stdin=table.encode(), timeout=_SECONDS, hint="is the disk in use, or failing? see dmesg")
    _make_node(disk, node)
    return node


def _make_node(disk: Disk, node: Path) -> None:
    """Wait for a disk's first partition, and make a device node of it that nobody else removes. Raises DeviceError.

    mdev removes its own, and makes it again, when it hears that a table of partitions was replaced: some time later.
    """
    end = time.monotonic() + _NODE_SECONDS
    while time.monotonic() < end:
        for place in Path("/sys/class/block", disk.path.name).glob("*/partition"):
            with suppress(FileNotFoundError):
                numbers = (place.parent / "dev").read_text().strip().split(":")
                node.unlink(missing_ok=True)
                os.mknod(node, 0o600 | stat.S_IFBLK, os.makedev(*map(int, numbers)))
                return
        time.sleep(0.1)
    raise DeviceError(f"{disk}: its new partition does not appear", hint="see dmesg, and run this again")


def encrypt(part: Path, key: bytes) -> str:
    """Format a partition with LUKS2 and open it; return its UUID. Raises ToolError."""
    Path("/run/cryptsetup").mkdir(mode=0o700, exist_ok=True)
    # The key is random and as long as can be: iterations would make each start slower, and nothing safer.
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    proc.run(
        ("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *quick, "--key-file", "-", part),
        stdin=key,
        timeout=_SECONDS,
    )
    proc.run(("cryptsetup", "open", "--key-file", "-", part, MAPPING), stdin=key, timeout=_SECONDS)
    return proc.run(("cryptsetup", "luksUUID", part), timeout=_SECONDS).stdout.decode().strip()


def volumes(swap: int) -> None:
    """Make the volumes for swap, home and root on the opened partition. Raises ToolError."""
    device = Path("/dev/mapper", MAPPING)
    _lvm("pvcreate", "--yes", device)
    _lvm("vgcreate", "--yes", GROUP, device)
    new = ("lvcreate", "--yes", "-Wn", "-Zn")
    if swap:
        _lvm(*new, "-L", f"{swap // MIB}M", "-n", "swap", GROUP)
    _lvm(*new, "-l", f"{HOME_PERCENT}%FREE", "-n", "home", GROUP)
    _lvm(*new, "-l", "100%FREE", "-n", "root", GROUP)
    _lvm("vgmknodes")


def _lvm(command: str, *words: str | Path, check: bool = True) -> None:
    quiet = {"LVM_SUPPRESS_FD_WARNINGS": "1"}
    # On one line: LVM keeps its own command line in its metadata, and cannot read that back if a line ends in it.
    proc.run(("lvm", command, "--config", " ".join(LVM_CONFIG.split()), *words), timeout=_SECONDS, env=quiet, check=check)


def file_systems(boot: Path, *, swap: bool) -> str:
    """Make all file systems; return the UUID of the boot partition's. Raises ToolError."""
    number = boot_file_system(boot)
    for name in ("root", "home"):
        proc.run(("mkfs.ext4", "-q", "-F", "-L", f"tower-{name}", f"/dev/{GROUP}/{name}"), timeout=_SECONDS)
    if swap:
        proc.run(("mkswap", f"/dev/{GROUP}/swap"), timeout=_SECONDS)
    return number


def boot_file_system(boot: Path) -> str:
    """Make the file system of a boot device's partition; return its UUID. Raises ToolError."""
    number = secrets.token_hex(4).upper()
    proc.run(("mkfs.vfat", "-F", "32", "-n", "TOWER-START", "-i", number, boot), timeout=_SECONDS)
    return f"{number[:4]}-{number[4:]}"


def mount(boot: Path) -> None:
    """Mount the new system, with the folders of this one that programs in it need. Raises ToolError."""
    TARGET.mkdir(mode=0o755, parents=True, exist_ok=True)
    _mount("-t", "ext4", f"/dev/{GROUP}/root", "")
    for name in _MOUNTS[:-1]:
        (TARGET / name).mkdir(mode=0o755, exist_ok=True)
    _mount("-t", "ext4", f"/dev/{GROUP}/home", "home")
    _mount("-t", "vfat", "-o", "nodev,nosuid,noexec,umask=0077", str(boot), "boot")
    _mount("-o", "bind", "/dev", "dev")
    _mount("-t", "proc", "proc", "proc")
    _mount("-t", "sysfs", "-o", "ro", "sysfs", "sys")


def _mount(*words: str) -> None:
    proc.run(("mount", *words[:-1], TARGET / words[-1]), timeout=_SECONDS)


def sync_boot() -> None:
    """Write to the boot device what is to be there whatever comes. Raises ToolError if something was not written."""
    _sync(("boot",))


def _sync(names: Iterable[str]) -> None:
    for place in _mounted(names):
        # It fails if anything could not be written since the file system was mounted, which neither sync nor umount tells.
        proc.run(("sync", "-f", place), timeout=_LONG, hint="the disk is failing, or was taken out: see dmesg")


def close() -> None:
    """Write everything to the disks, unmount them and lock the root disk. Raises ToolError if something was not written."""
    _sync(("", "home", "boot"))
    release()
    with suppress(OSError):
        TARGET.rmdir()


def write_loader(disk: Disk, code: bytes) -> None:
    """Put a boot loader's first sector before the table of partitions: a BIOS starts the partition that is marked, if any.

    Raises DeviceError.
    """
    if not 0 < len(code) <= 440:
        raise DeviceError(f"the boot loader's first sector has {len(code)} bytes, 1 to 440 are expected")
    with in_our_words(disk.path, kind=DeviceError), disk.path.open("r+b") as stream:
        stream.write(code)
        stream.flush()
        os.fsync(stream.fileno())
