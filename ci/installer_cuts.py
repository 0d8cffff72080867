# SPDX-License-Identifier: Apache-2.0
"""Cut the power at every step of the installer that writes to a disk: of an installation, an upgrade, or a repair.

It begins again with each start, and most of its time goes into packages. So it is let go on once; at each step the disks are
frozen as they are, as a power cut would leave them. The live system is started once, too, and its memory kept: each further start
continues from there, and gets a pair of frozen disks plugged in. The same command must take each of them. It is let go on to the
end on those whose row says "whole", and on the others up to the packages; what it has made is started then, and its user logs in.

An upgrade and a repair find a system that was installed and started before, with a file in its user's home.
"""

from __future__ import annotations

import base64
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.hosts.secret import hash_password

from pipeline.images.boot import LOGIN
from pipeline.images.guest import ACCELERATION, FAILURES, Guest, running
from tests.boot.hardware import Hardware

LOGS: Final = Path("build/log")
SECONDS: Final = 1800
"""Seconds of a processor that a start may take."""
GIB: Final = 1 << 30
MIB: Final = 1 << 20
PC: Final = (
    "qemu-system-x86_64", *ACCELERATION, "-display", "none", "-monitor", "none", "-serial", "chardev:console", "-no-reboot",
    "-machine", "pc", "-cpu", "qemu64,-cx16,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2", "-m", "1536",
    *("-nic", "user,model=virtio-net-pci,restrict=on") * 2, "-device", "qemu-xhci,id=usb",
)  # fmt: skip
ROOT_SIZE, BOOT_SIZE = 6 * GIB, 300 * MIB
KEY: Final = "/run/key"
DONE: Final = r"\[{}/{}\] [^\n]*: [0-9.]+ s\n"
"""The installer tells a step again, with its seconds, when it is done."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the installer."""

    line: str
    steps: int
    first: int
    """The first step that writes to a disk."""
    packages: int
    """The step that installs packages."""
    packages_seconds: float
    """How far into that step it may be cut off; in all others, within a second and a half."""
    whole: frozenset[int]
    """The steps after whose cut it is let go on to the end."""
    ends: str
    """What it says then."""


INSTALL: Final = Command(
    "tower setup --answers /run/usb/answers --yes", 10, 3, 6, 60.0, frozenset({6, 10}), "installed: take the medium out"
)
UPGRADE: Final = Command("tower setup --upgrade --yes", 9, 3, 5, 60.0, frozenset({5, 6, 9}), "upgraded: take the medium out")
REPAIR: Final = Command(
    f"tower setup --repair --key-file {KEY} --boot-device BOOT1 --yes", 7, 3, 5, 1.5, frozenset(range(3, 8)),
    "repaired: take the medium out",
)  # fmt: skip
COMMANDS: Final = {"thinclient": INSTALL, "upgrade": UPGRADE, "repair": REPAIR}
"""By the word that names it on the command line of ci/power_cuts.py."""


@dataclass(frozen=True, slots=True)
class Row:
    """A cut, and what came after it."""

    step: int
    after: float
    """Seconds between the end of the step before and the cut."""
    seconds: float
    """Seconds that the same command took then, with the start of the live system."""
    starts: float | None
    """Seconds from power-on to the login of what it made; None if it was not let go on to the end."""

    def __str__(self) -> str:
        end = (
            "not let go on to the end" if self.starts is None else f"whole: its user logged in {self.starts:.0f} s after power-on"
        )
        return f"cut off amid step {self.step}, after {self.after:.1f} s; again in {self.seconds:.0f} s; {end}"


Disks = dict[str, Path]
"""The files of the two disks, `root` and `boot`."""


def answers(folder: Path) -> Path:
    """Make a drive with the answers."""
    rows = {
        "ROOT_DISK": "ROOT1", "BOOT_DEVICE": "BOOT1", "SWAP": "256M", "USERNAME": "al",
        "PASSWORD_HASH": hash_password("correct horse"), "DESKTOP": "no",
    }  # fmt: skip
    (folder / "answers").write_text("".join(f"{name}='{value}'\n" for name, value in rows.items()))
    drive = folder / "answers.img"
    drive.touch()
    os.truncate(drive, 16 * MIB)
    subprocess.run(["mkfs.vfat", "-n", "ANSWERS", drive], check=True, capture_output=True)
    subprocess.run(["mcopy", "-i", drive, folder / "answers", "::answers"], check=True)
    return drive


@dataclass(frozen=True, slots=True)
class Live:
    """The live system, with its memory in a file."""

    argv: tuple[str, ...]
    hardware: Hardware

    @contextmanager
    def started(self, name: str, disks: Mapping[str, Path], key: bytes = b"") -> Iterator[Guest]:
        """Go on from the saved memory, with two disks plugged in, and a key in the file KEY."""
        argv = [*self.argv, "-loadvm", "live"]
        with running(name, argv, log=LOGS / f"power-cut-{name}.log", limit=SECONDS, ports={}) as guest:
            for disk, file in disks.items():
                self.hardware.do({"execute": "blockdev-add", "arguments": node(disk, file)})
            device = {"driver": "virtio-blk-pci", "id": "root", "drive": "root", "serial": "ROOT1"}
            self.hardware.do({"execute": "device_add", "arguments": device})
            self.hardware.put_in("boot", "BOOT1")
            guest.press("\r")
            found = "test -b /dev/sda && test -b /dev/vdb"
            done = guest.command(f"n=60; until {found} || test $((n -= 1)) = 0; do sleep 1; done; {found}", 120)
            if done.status:
                raise guest.error("does not find the disks that were plugged in")
            if key and guest.command(f"echo {base64.b64encode(key).decode()} | base64 -d >{KEY}").status:
                raise guest.error("does not take the key")
            yield guest


def node(name: str, file: Path) -> dict[str, object]:
    """Return what QEMU takes as a disk: a raw file, or a layer above others."""
    kind = "qcow2" if file.suffix == ".qcow2" else "raw"
    return {"driver": kind, "node-name": name, "file": {"driver": "file", "filename": str(file)}}


def live_system(iso: Path, folder: Path) -> Live:
    """Start the live system, and keep its memory."""
    state, hardware = folder / "state.qcow2", Hardware(folder / "qmp")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", state, "1M"], check=True)
    argv = [*PC, *hardware.argv, "-drive", f"file={state},format=qcow2,if=none,id=state"]
    argv += ["-drive", f"file={iso},format=raw,media=cdrom,readonly=on,if=none,id=cd", "-device", "ide-cd,drive=cd,bootindex=0"]
    argv += ["-drive", f"file={answers(folder)},format=raw,if=none,id=answers,readonly=on"]
    argv += ["-device", "virtio-blk-pci,drive=answers"]
    with running("live", argv, log=LOGS / "power-cut-live.log", limit=SECONDS, ports={}) as guest:
        guest.wait(LOGIN, SECONDS)
        guest.login("root", prompt=r"\[root@thinclient [^\]]*\][#$] $", timeout=SECONDS)
        if guest.command("mkdir -p /run/usb && mount -t vfat -o ro /dev/vda /run/usb", 120).status:
            raise guest.error("does not mount the drive with the answers")
        save = {"command-line": "savevm live"}
        hardware.do({"execute": "human-monitor-command", "arguments": save})
        print(f"live system: {guest.seconds:.0f} s until its memory is kept", flush=True)
    return Live(tuple(argv), hardware)


def new_disks(folder: Path) -> Disks:
    """Make two empty disks."""
    made = {"root": folder / "root-new.img", "boot": folder / "boot-new.img"}
    for path, size in zip(made.values(), (ROOT_SIZE, BOOT_SIZE), strict=True):
        path.touch()
        os.truncate(path, size)
    return made


def layers(disks: Mapping[str, Path], folder: Path, name: str) -> Disks:
    """Make a layer above each of these disks, which stay as they are."""
    made = {disk: folder / f"{name}-{disk}.qcow2" for disk in disks}
    for disk, below in disks.items():
        form = "qcow2" if below.suffix == ".qcow2" else "raw"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", below, made[disk]], check=True)
    return made


def frozen_disks(
    live: Live, command: Command, disks: Disks, folder: Path, chance: random.Random, *, key: bytes
) -> list[tuple[int, float, Disks]]:
    """Run a command once; return each step that writes, the seconds from its beginning to the cut, and the disks at that moment.

    The layer of a step is what was written since the one before, so that a frozen disk is the layer below.
    """
    frozen, now = list[tuple[int, float, Disks]](), layers(disks, folder, "run")
    with live.started("run", now, key) as guest:
        guest.type(command.line)
        for step in range(1, command.steps):
            guest.wait(DONE.format(step, command.steps), SECONDS, failures=(*FAILURES, "tower setup:"))
            if step + 1 < command.first:
                continue
            # Amid the next one.
            wait = chance.uniform(0, command.packages_seconds if step + 1 == command.packages else 1.5)
            time.sleep(wait)
            live.hardware.do({"execute": "stop"})
            frozen.append((step + 1, wait, now))
            now = {name: folder / f"{name}-{step + 1}.qcow2" for name in now}
            for name, file in now.items():
                last = name if step + 1 == command.first else f"{name}-{step}"
                more = {"snapshot-file": str(file), "snapshot-node-name": f"{name}-{step + 1}"}
                above = {"node-name": last, "format": "qcow2", **more}
                live.hardware.do({"execute": "blockdev-snapshot-sync", "arguments": above})
            live.hardware.do({"execute": "cont"})
        guest.wait(command.ends, SECONDS)
        print(f"without a cut: {guest.seconds:.0f} s", flush=True)
    return frozen


def again(live: Live, command: Command, disks: Mapping[str, Path], name: str, key: bytes, *, whole: bool) -> float:
    """Run a command on disks to its end, or up to the packages; return the seconds."""
    with live.started(name, disks, key) as guest:
        guest.type(command.line)
        last = command.steps if whole else command.packages - 1
        guest.wait(DONE.format(last, command.steps), SECONDS, failures=(*FAILURES, "tower setup:"))
        if whole:
            guest.wait(command.ends, SECONDS)
        return guest.seconds


def starts(disks: Mapping[str, Path], name: str, line: str) -> float:
    """Start what was installed from its boot device; return the seconds until its user has logged in, and has run a line."""
    argv = [*PC, "-drive", f"if=none,id=root,format=qcow2,file={disks['root']}", "-device", "virtio-blk-pci,drive=root"]
    argv += ["-drive", f"if=none,id=boot,format=qcow2,file={disks['boot']}"]
    argv += ["-device", "usb-storage,drive=boot,serial=BOOT1,removable=on,bootindex=1"]
    with running(name, argv, log=LOGS / f"power-cut-{name}.log", limit=SECONDS, ports={}) as guest:
        guest.wait(LOGIN, SECONDS)
        guest.type("al")
        guest.wait("Password: ?$", 120)
        time.sleep(1)
        guest.type("correct horse")
        guest.wait(r"^\[al@thinclient ~\]\$ $", 120)
        seconds = guest.seconds
        if (done := guest.command(line)).status:
            raise guest.error(f"is not whole: {line}\n{done.text}")
        return seconds


def key_of(disks: Mapping[str, Path], folder: Path) -> bytes:
    """Return the key on a boot device."""
    raw = folder / "key.img"
    subprocess.run(["qemu-img", "convert", "-O", "raw", disks["boot"], raw], check=True)
    key = subprocess.run(["mtype", "-i", f"{raw}@@1M", "::crypto_keyfile.bin"], capture_output=True, check=True).stdout
    raw.unlink()
    return key


def installed(live: Live, empty: Disks, folder: Path) -> Disks:
    """Install a system above empty disks, start it, and lay a file in its user's home; return its disks."""
    disks = layers(empty, folder, "installed")
    seconds = again(live, INSTALL, disks, "install", b"", whole=True)
    print(f"installed: {seconds:.0f} s; starts: {starts(disks, 'installed', 'echo kept >kept && sync'):.0f} s", flush=True)
    return disks


def cut_installer(iso: Path, folder: Path, seed: int, command: Command) -> list[Row]:
    """Cut a command of the installer off at each step that writes to a disk."""
    live, chance, rows = live_system(iso, folder), random.Random(seed), list[Row]()  # noqa: S311  (nothing secret)
    disks, key, check = (empty := new_disks(folder)), b"", "test ! -e kept"
    if command is not INSTALL:
        disks, check = installed(live, empty, folder), "grep -qx kept kept && test ! -e /home/.tower-upgrade"
    if command is REPAIR:
        disks, key = {**disks, "boot": empty["boot"]}, key_of(disks, folder)
    for step, after, found in frozen_disks(live, command, disks, folder, chance, key=key):
        name, whole = f"again-{step}", step in command.whole
        made = layers(found, folder, name)
        seconds = again(live, command, made, name, key, whole=whole)
        rows.append(Row(step, after, seconds, starts(made, f"starts-{step}", check) if whole else None))
        print(rows[-1], flush=True)
        for path in made.values():
            path.unlink()
    return rows
