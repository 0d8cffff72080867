# SPDX-License-Identifier: Apache-2.0
"""Which disk a host encrypts (overlays/host, `encrypt find`): one alone, never the boot device, whatever the order.

The kernel's description of the disks is laid here; tests/boot has the rest, on a machine with disks.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
HOST = CHECKOUT / "overlays/host/usr"
ID = "0123456789abcdef"
LEAST = 2_000_000_000
GB = 1_000_000_000


@dataclass(frozen=True)
class Disk:
    """As the kernel tells it."""

    name: str
    size: int = 4 * GB
    mark: str | None = None
    """What the table of partitions calls the first one; there are none without."""
    ro: bool = False
    real: bool = True
    hidden: bool = False
    luks: str = ""
    """The name of a device on it that LUKS begins on."""
    model: str = ""

    def lay(self, sys: Path, dev: Path) -> None:
        """Its folder below /sys/block, and its devices."""
        place = sys / "block" / self.name
        place.mkdir(parents=True)
        (place / "size").write_text(f"{self.size // 512}\n")
        (place / "ro").write_text(f"{self.ro:d}\n")
        (place / "hidden").write_text(f"{self.hidden:d}\n")
        if self.real:
            (place / "device").mkdir()
            if self.model:
                (place / "device/model").write_text(f"{self.model:<16}\n")
        names = [self.name]
        if self.mark is not None:
            part = f"{self.name}p1" if self.name[-1].isdigit() else f"{self.name}1"
            (place / part).mkdir()
            (place / part / "partition").write_text("1\n")
            (place / part / "uevent").write_text(f"DEVNAME={part}\nPARTN=1\n" + (f"PARTNAME={self.mark}\n" if self.mark else ""))
            names.append(part)
        for name in names:
            (dev / name).write_bytes(b"LUKS\xba\xbe" * (name == self.luks) + bytes(512))


def find(folder: Path, *disks: Disk) -> subprocess.CompletedProcess[str]:
    """What the host says; it started from mmcblk0."""
    sys, dev = folder / "sys", folder / "dev"
    (sys / "block").mkdir(parents=True)
    dev.mkdir()
    for disk in (Disk("mmcblk0", 32 * GB, mark=""), *disks):
        disk.lay(sys, dev)
    own = {"SETUP_SHARE": str(HOST / "share/tower"), "SETUP_SYS": str(sys), "ENCRYPT_DEV": str(dev)}
    env = {"PATH": os.environ["PATH"], "ENCRYPT_WAIT": "0", "ENCRYPT_SETTLE": "0", **own}
    argv = ["busybox", "sh", str(HOST / "libexec/tower/encrypt"), "find", "mmcblk0", ID, str(LEAST)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=50)


OURS, NEW, OTHER = f"tower-{ID}", f"tower-{ID}-new", "tower-fedcba9876543210"
FOUND: dict[str, tuple[tuple[Disk, ...], str]] = {
    "an empty one": ((Disk("sda"),), "sda"),
    "one with files": ((Disk("nvme0n1", mark="EFI"),), "nvme0n1"),
    "exactly large enough": ((Disk("sda", LEAST // 512 * 512 + 512),), "sda"),
    "one beside a small one": ((Disk("sda", GB), Disk("sdb")), "sdb"),
    "what is no disk": (
        (Disk("loop0"), Disk("ram0"), Disk("zram0"), Disk("dm-0"), Disk("sr0"), Disk("mmcblk0boot0"), Disk("sdc")),
        "sdc",
    ),
    "what cannot be written, is hidden, has no medium, or is no device": (
        (Disk("sda", ro=True), Disk("nvme1c0n1", hidden=True), Disk("sdb", 0), Disk("vda", real=False), Disk("sdd")),
        "sdd",
    ),
    "this host's among others": ((Disk("sda"), Disk("sdb", mark=OURS), Disk("sdc", mark=OTHER)), "sdb"),
    "one that was not finished": ((Disk("sda"), Disk("sdb", mark=NEW)), "sdb"),
    "this host's, which is encrypted": ((Disk("nvme0n1", mark=OURS, luks="nvme0n1p1"),), "nvme0n1"),
    "one that was not finished, encrypted": ((Disk("sda", mark=NEW, luks="sda1"),), "sda"),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_one_disk_is_found(tmp_path: Path, case: str) -> None:
    disks, name = FOUND[case]
    for number, order in enumerate((disks, disks[::-1])):
        done = find(tmp_path / str(number), *order)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}\n", "")


REFUSED: dict[str, tuple[tuple[Disk, ...], tuple[str, ...]]] = {
    "none": ((), ("there is no second disk", "--unencrypted")),
    "none but the boot device under another kind of name": ((Disk("mmcblk0boot1"),), ("there is no second disk",)),
    "too small": ((Disk("sda", GB, model="Tiny Stick"),), ("is too small: sda (Tiny Stick, 1000 MB)", "needs 2001 MB")),
    "two": (
        (Disk("sda", model="One"), Disk("sdb", model="Two")),
        ("several disks could be", "sda (One, 4000 MB), sdb (Two, 4000 MB)"),
    ),
    "two of this host's": ((Disk("sda", mark=OURS), Disk("sdb", mark=OURS)), ("several disks say that they are this host's",)),
    "another host's": ((Disk("sda", mark=OTHER),), ("has the system of another host", "wipefs --all")),
    "another host's, not finished": ((Disk("sda", mark=f"{OTHER}-new"),), ("has the system of another host",)),
    "encrypted as a whole": ((Disk("sda", luks="sda"),), ("is encrypted with another key", "wipefs --all")),
    "an encrypted partition": ((Disk("nvme0n1", mark="cryptdata", luks="nvme0n1p1"),), ("is encrypted with another key",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_disk_is_taken_where_it_is_not_clear_which(tmp_path: Path, case: str) -> None:
    disks, said = REFUSED[case]
    done = find(tmp_path, *disks)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tower-setup: ")
    assert done.stderr.count("\n") == 1
    for words in said:
        assert words in done.stderr


def test_control_characters_in_a_disks_model_are_not_shown(tmp_path: Path) -> None:
    done = find(tmp_path, Disk("sda", GB, model="\x1b[2JEvil\x07"))
    assert "sda ([2JEvil, 1000 MB)" in done.stderr
