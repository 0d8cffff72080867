# SPDX-License-Identifier: Apache-2.0
"""Cut the power at every step that a first start, or the installer, tells on its console; see that each goes on to the end.

    python ci/power_cuts.py host dist/toweros-host-0.1.0-lab-pc.img.zst
    python ci/power_cuts.py thinclient dist/toweros-thinclient-0.1.0-lab-x86_64.iso

Each start of a host is cut off at the first step that none was cut off at before; the last one is let go on, and asked whether
all is there. A first start has two halves, before and after the host has moved to its encrypted disk: with `--machines 2`, two
machines do them at once.

The installer begins again with each start, and most of its time goes into packages. So it is let go on once; at each step the
disks are frozen as they are, as a power cut would leave them. The live system is started once, too, and its memory kept: each
further start continues from there, and gets a pair of frozen disks plugged in. The installer must take each of them, up to the
packages; from there on, nothing of the disks' former content is left. The last pair is installed on to the end, and started.

Prints one line for each cut; consoles are in build/log.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tower.hosts.secret import hash_password

from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.guest import ACCELERATION, FAILURES, Guest, running
from tests.boot.hardware import Hardware
from tests.boot.test_provision import has, secrets_of

LOGS: Final = Path("build/log")
SECONDS: Final = 1800
"""Seconds of a processor that a start may take."""
STEP: Final = r"tower-setup: ([a-z_]+)(:.*)?\n"
"""A whole line: the console comes in pieces, and a piece may end in the middle of a name."""
MOVING: Final = ("partition", "encrypt", "volumes", "disk", "system", "boot", "restart")
LONG_STEPS: Final = {"partition": 1.0, "encrypt": 3.0, "volumes": 3.0, "system": 15.0, "boot": 0.5}
"""Seconds within which a step is cut off; all others as soon as they are told."""
SETTING_UP: Final = (
    "name", "user", "ssh_server", "keyboard", "clock", "language", "prompt", "network", "firewall", "wlan", "tor", "names",
    "time_source", "receipt", "secrets", "ready",
)  # fmt: skip
BAD: Final = (*FAILURES, "This host is not ready")
GIB: Final = 1 << 30
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """A start, and where it was cut off; `login` if it was not."""

    number: int
    step: str
    after: float
    """Seconds between the step's line and the cut."""
    seconds: float
    """Seconds since the machine was switched on."""

    def __str__(self) -> str:
        cut = "let go on: it is whole" if self.step == "login" else f"cut off at {self.step}, {self.after:.1f} s after its line"
        return f"{self.number}: {cut} ({self.seconds:.0f} s)"


# --- a host ------------------------------------------------------------------------------------------------------


def provision(image: Path, home: Path) -> Path:
    """Make the boot device of a new host with `tower`."""
    disk = home / "cut.img"
    argv = [sys.executable, "-P", "-m", "tower", "provision", "cut", "--offline", "--username", "al", "--unsigned", "--no-wait"]
    argv += ["--yes", "--image", str(image), "--device-file", str(disk), "--size", "2G"]
    subprocess.run(argv, cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)}, check=True)
    return disk


@dataclass(frozen=True, slots=True)
class Disks:
    """The two disks of a host, in a folder of their own, and the home of the user who provisioned it."""

    boot: Path
    second: Path
    home: Path
    name: str

    @contextmanager
    def started(self, number: int) -> Iterator[Guest]:
        """Start the machine."""
        log = LOGS / f"power-cut-{self.name}-{number}.log"
        with started(MachineType.HOST_PC_BIOS, self.boot, log=log, second=self.second, limit=SECONDS) as guest:
            yield guest


def cut_host(disks: Disks, number: int, steps: Sequence[str], seen: set[str], chance: random.Random) -> Row:
    """Start the machine, and cut it off at one of `steps` that is not in `seen`; or let it go on if there is none."""
    with disks.started(number) as guest:
        while True:
            found = guest.wait(f"{STEP}|{LOGIN}", SECONDS, failures=BAD)
            step = found[1]
            if step is None:
                check_host(guest, disks)
                return Row(number, "login", 0, guest.seconds)
            if "login:" in guest.text:
                raise guest.error("lets somebody log in before it is ready")
            if step in steps and step not in seen:
                wait = chance.uniform(0, LONG_STEPS.get(step, 0))
                time.sleep(wait)
                return Row(number, step, wait, guest.seconds)
            # By itself the machine starts anew once: then it ends here, and is started again.
            if step == "restart" and guest.ended(SECONDS):
                return Row(number, "restart", 0, guest.seconds)


def check_host(guest: Guest, disks: Disks) -> None:
    """Check that a host that asks for a login is whole: it answers its user, and has all that the steps make."""
    check_banner(guest, guest.banner(SSH, SECONDS))
    argv = ["ssh", "-F", f"{disks.home}/.local/tower/config", "-oBatchMode=yes", "-oHostName=127.0.0.1", "-oConnectTimeout=120"]
    line = (
        "hostname; id -un; doas id -un; doas cat /var/lib/tower/setup/steps; doas mount /boot; doas ls -A /boot; "
        "doas umount /boot; doas ls -A /var/lib/tower/setup; doas /usr/libexec/tower/firewall check && cat /proc/mounts"
    )
    done = subprocess.run([*argv, f"-oPort={guest.ports[SSH]}", "-n", "cut", line], capture_output=True, text=True, check=False)
    words = done.stdout.split()
    missing = [step for step in SETTING_UP[:-2] if step not in words]
    secret = {"tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub"} & set(words)
    if done.returncode or words[:3] != ["cut", "al", "root"] or missing or secret or "/dev/tower/home" not in words:
        raise guest.error(f"is not whole: {missing=} {secret=}\n{done.stdout}{done.stderr}")


def chain(disks: Disks, steps: Sequence[str], seed: int) -> list[Row]:
    """Cut a host off at each of `steps`, one a start, until it is ready. Raises RuntimeError if that does not come about."""
    chance, seen, rows = random.Random(seed), set[str](), list[Row]()  # noqa: S311 nothing secret
    for number in range(2 * len(steps) + 3):
        row = cut_host(disks, number, steps, seen, chance)
        rows.append(row)
        print(f"{disks.name} {row}", flush=True)
        if row.step == "login":
            left = has(disks.boot, *secrets_of(disks.home / ".local/tower/hosts/cut"))
            if left or (missed := sorted(set(steps) - seen)):
                raise RuntimeError(f"{disks.name}: secrets on the boot device: {len(left)}; never cut off at {missed}")
            return rows
        seen.add(row.step)
    raise RuntimeError(f"{disks.name}: it is not ready after as many starts as any could need")


def copied(disks: Disks, name: str) -> Disks:
    """Return a copy of the disks."""
    folder = disks.boot.parent / name
    folder.mkdir()
    for path in (disks.boot, disks.second):
        subprocess.run(["cp", "--sparse=always", path, folder / path.name], check=True)
    return Disks(folder / disks.boot.name, folder / disks.second.name, disks.home, name)


def cut_hosts(image: Path, home: Path, seed: int, machines: int) -> dict[str, list[Row]]:
    """Cut off both halves of a first start, at each step: one after the other, or at once if there may be two machines."""
    disk, second = provision(image, home), home / "second.img"
    second.touch()
    os.truncate(second, 2 * GIB)
    new = Disks(disk, second, home, "new")
    if machines == 1:
        return {"host": chain(Disks(disk, second, home, "host"), (*MOVING, *SETTING_UP), seed)}
    moving = copied(new, "moving")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(chain, moving, MOVING, seed)
        # With nothing to cut it off at, it starts anew from the encrypted disk.
        print(f"new {cut_host(new, 0, (), set(), random.Random(seed))}", flush=True)  # noqa: S311
        rest = pool.submit(chain, Disks(disk, second, home, "setting-up"), SETTING_UP, seed)
        return {"moving": first.result(), "setting-up": rest.result()}


# --- the installer -----------------------------------------------------------------------------------------------

PC: Final = (
    "qemu-system-x86_64", *ACCELERATION, "-display", "none", "-monitor", "none", "-serial", "chardev:console", "-no-reboot",
    "-machine", "pc", "-cpu", "qemu64,-cx16,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2", "-m", "1536",
    *("-nic", "user,model=virtio-net-pci,restrict=on") * 2, "-device", "qemu-xhci,id=usb",
)  # fmt: skip
INSTALL: Final = "tower setup --answers /run/usb/answers --yes"
DONE: Final = r"\[{}/10\] [^\n]*: [0-9.]+ s\n"
"""The installer tells a step again, with its seconds, when it is done."""
FIRST_WRITTEN: Final = 2
"""Before this step is done, the installer writes to no disk."""
PACKAGES: Final = 6
STEPS: Final = 10
ROOT_SIZE, BOOT_SIZE = 6 * GIB, 300 * MIB


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
    def started(self, name: str, root: dict[str, object], boot: dict[str, object]) -> Iterator[Guest]:
        """Go on from the saved memory, with two disks plugged in; each is a node that QEMU reads and writes."""
        argv = [*self.argv, "-loadvm", "live"]
        with running(name, argv, log=LOGS / f"power-cut-{name}.log", limit=SECONDS, ports={}) as guest:
            for disk in (root, boot):
                self.hardware.do({"execute": "blockdev-add", "arguments": disk})
            device = {"driver": "virtio-blk-pci", "id": "root", "drive": "root", "serial": "ROOT1"}
            self.hardware.do({"execute": "device_add", "arguments": device})
            self.hardware.put_in("boot", "BOOT1")
            guest.press("\r")
            found = "test -b /dev/sda && test -b /dev/vdb"
            done = guest.command(f"n=60; until {found} || test $((n -= 1)) = 0; do sleep 1; done; {found}", 120)
            if done.status:
                raise guest.error("does not find the disks that were plugged in")
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


def frozen_disks(live: Live, folder: Path, seed: int) -> list[Row]:
    """Install once; freeze the disks at each step as layers `root-N.qcow2` and `boot-N.qcow2`, the layer of a step being what
    was written since the one before.
    """
    chance, rows, before = random.Random(seed), list[Row](), {"root": "root", "boot": "boot"}  # noqa: S311
    for name, size in (("root", ROOT_SIZE), ("boot", BOOT_SIZE)):
        (folder / f"{name}-0.img").touch()
        os.truncate(folder / f"{name}-0.img", size)
    with live.started("install", node("root", folder / "root-0.img"), node("boot", folder / "boot-0.img")) as guest:
        guest.type(INSTALL)
        for step in range(1, STEPS + 1):
            guest.wait(DONE.format(step), SECONDS, failures=(*FAILURES, "tower setup:"))
            if step < FIRST_WRITTEN or step == STEPS:
                continue
            # Amid the next one.
            wait = chance.uniform(0, 60.0 if step + 1 == PACKAGES else 1.5)
            time.sleep(wait)
            live.hardware.do({"execute": "stop"})
            for name, last in before.items():
                more = {"snapshot-file": str(folder / f"{name}-{step + 1}.qcow2"), "snapshot-node-name": f"{name}-{step + 1}"}
                above = {"node-name": last, "format": "qcow2", **more}
                live.hardware.do({"execute": "blockdev-snapshot-sync", "arguments": above})
            before = {name: f"{name}-{step + 1}" for name in before}
            live.hardware.do({"execute": "cont"})
            rows.append(Row(step + 1, f"step {step + 1}", wait, guest.seconds))
        guest.wait("installed: take the medium out", SECONDS)
        print(f"installed: {guest.seconds:.0f} s", flush=True)
    return rows


def again(live: Live, folder: Path, step: int, last: int) -> tuple[float, dict[str, Path]]:
    """Install on the disks as they were frozen amid `step`, until step `last` is done; return the seconds, and the disks."""
    disks = {name: folder / f"again-{name}-{step}.qcow2" for name in ("root", "boot")}
    for name, path in disks.items():
        # What was written before the cut lies below the layer that was begun then.
        below = folder / (f"{name}-{step - 1}.qcow2" if step - 1 >= FIRST_WRITTEN + 1 else f"{name}-0.img")
        form = "qcow2" if below.suffix == ".qcow2" else "raw"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", below, path], check=True)
    with live.started(f"again-{step}", node("root", disks["root"]), node("boot", disks["boot"])) as guest:
        guest.type(INSTALL)
        guest.wait(DONE.format(last), SECONDS, failures=(*FAILURES, "tower setup:"))
        if last == STEPS:
            guest.wait("installed: take the medium out", SECONDS)
        return guest.seconds, disks


def starts(disks: dict[str, Path]) -> float:
    """Start what was installed from its boot device; return the seconds until its user has logged in."""
    argv = [*PC, "-drive", f"if=none,id=root,format=qcow2,file={disks['root']}", "-device", "virtio-blk-pci,drive=root"]
    argv += ["-drive", f"if=none,id=boot,format=qcow2,file={disks['boot']}"]
    argv += ["-device", "usb-storage,drive=boot,serial=BOOT1,removable=on,bootindex=1"]
    with running("installed", argv, log=LOGS / "power-cut-installed.log", limit=SECONDS, ports={}) as guest:
        guest.wait(LOGIN, SECONDS)
        guest.type("al")
        guest.wait("Password: ?$", 120)
        time.sleep(1)
        guest.type("correct horse")
        guest.wait(r"^\[al@thinclient ~\]\$ $", 120)
        return guest.seconds


def cut_installer(iso: Path, folder: Path, seed: int, machines: int) -> list[Row]:
    """Cut the installer off at each step that writes to a disk."""
    del machines
    live = live_system(iso, folder)
    rows, found = frozen_disks(live, folder, seed), list[Row]()
    for row in rows:
        whole = row is rows[-1]
        seconds, disks = again(live, folder, row.number, STEPS if whole else PACKAGES - 1)
        found.append(Row(row.number, row.step, row.after, seconds))
        print(f"installer {found[-1]}; it is installed on again", flush=True)
        if whole:
            found.append(Row(STEPS + 1, "login", 0, starts(disks)))
            print(f"installed {found[-1]}", flush=True)
        for path in disks.values():
            path.unlink()
    return found


def main() -> int:
    """Run it on an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", choices=("host", "thinclient"))
    parser.add_argument("image", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the moments within the steps")
    parser.add_argument("--machines", type=int, choices=(1, 2), default=1, help="that run at once, for a host")
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as name:
        run = cut_hosts if args.machine == "host" else cut_installer
        print(json.dumps(run(args.image.resolve(), Path(name), args.seed, args.machines), default=str))
    print(f"{time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
