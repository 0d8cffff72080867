# SPDX-License-Identifier: Apache-2.0
"""Cut the power at every step that a first start, or the installer, tells on its console; see that each goes on to the end.

    python ci/power_cuts.py host dist/toweros-host-0.1.0-lab-pc.img.zst
    python ci/power_cuts.py thinclient dist/toweros-thinclient-0.1.0-lab-x86_64.iso
    python ci/power_cuts.py upgrade dist/toweros-thinclient-0.1.0-lab-x86_64.iso
    python ci/power_cuts.py repair dist/toweros-thinclient-0.1.0-lab-x86_64.iso

Each start of a host is cut off at the first step that none was cut off at before; the last one is let go on, and asked whether
all is there. A first start has two halves, before and after the host has moved to its encrypted disk: with `--machines 2`, two
machines do them at once.

The other three cut off the installer, while it installs, upgrades or repairs: ci/installer_cuts.py says how.

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


from ci.installer_cuts import COMMANDS, GIB, LOGS, SECONDS, cut_installer
from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.guest import FAILURES, Guest
from tests.boot.test_provision import has, secrets_of

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


def main() -> int:
    """Run it on an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("machine", choices=("host", *COMMANDS))
    parser.add_argument("image", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the moments within the steps")
    parser.add_argument("--machines", type=int, choices=(1, 2), default=1, help="that run at once, for a host")
    args = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as name:
        image, home = args.image.resolve(), Path(name)
        if args.machine == "host":
            print(json.dumps(cut_hosts(image, home, args.seed, args.machines), default=str))
        else:
            print(json.dumps(cut_installer(image, home, args.seed, COMMANDS[args.machine]), default=str))
    print(f"{time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
