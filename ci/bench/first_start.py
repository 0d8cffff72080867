# SPDX-License-Identifier: Apache-2.0
"""How long each step of a host's first start takes in QEMU: the table of usual times in runtime/provision/progress.py.

    python ci/bench/first_start.py IMAGE.img.zst [--rounds 3]

An image of a PC gets a second disk, which it encrypts and starts from; one of a Raspberry Pi makes itself ready on its card.
QEMU emulates both processors. Times are of the clock, from what the console says: for each start one JSON object, and in the
end one with the median of each step. Start it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tower.hosts.env import Encryption
from tower.provision.progress import ENCRYPTING, MAKING

from pipeline.images.boot import MachineType, started
from pipeline.images.disk import put_boot_file, unpacked
from pipeline.images.guest import FAILURES, Guest
from pipeline.images.new_host import new_host

LOG: Final = Path("build/log/bench-first-start.log")
BAD: Final = (*FAILURES, "This host is not ready")
SECOND: Final = 2 << 30


def see(guest: Guest, names: list[str], limit: float) -> dict[str, float]:
    """Return when the console named each step, in seconds since the machine was switched on."""
    found = {}
    for name in names:
        guest.wait(rf"tower-setup: {name}(?=[:\n])", limit, failures=BAD)
        found[name] = guest.seconds
    return found


def lasting(seen: dict[str, float]) -> dict[str, float]:
    """Return how long each step took: until the next one began."""
    names = list(seen)
    return {name: round(seen[after] - seen[name], 2) for name, after in itertools.pairwise(names)}


def of_pc(image: Path, folder: Path) -> dict[str, float]:
    """Start a PC twice, as its first start does: it encrypts its disk, and goes on there."""
    disk, second = unpacked(image, folder), folder / "second.img"
    for name, data in new_host(Encryption.REQUIRED).items():
        put_boot_file(disk, f"/{name}", data, folder)
    second.touch()
    os.truncate(second, SECOND)
    machine = MachineType.HOST_PC_BIOS
    with started(machine, disk, log=LOG, second=second) as guest:
        first = see(guest, [*ENCRYPTING], machine.limit)
        if not guest.ended(machine.limit):
            raise guest.error("did not start anew")
        ended = guest.seconds
    with started(machine, disk, log=LOG, second=second) as guest:
        then = see(guest, [*MAKING, "ready"], machine.limit)
    return {**lasting(first), "restart": round(ended - first["restart"] + then["name"], 2), **lasting(then)}


def of_pi(image: Path) -> dict[str, float]:
    """Start a Raspberry Pi without a second disk."""
    with started(MachineType.HOST_RPI, image, log=LOG, files=new_host()) as guest:
        return lasting(see(guest, [*MAKING, "ready"], MachineType.HOST_RPI.limit))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for _ in range(args.rounds):
        with TemporaryDirectory() as name:
            load = round(os.getloadavg()[0], 1)
            rows.append(of_pi(args.image) if "rpi" in args.image.name else of_pc(args.image, Path(name)))
        sys.stdout.write(json.dumps({"load": load, "steps": rows[-1]}) + "\n")
        sys.stdout.flush()
    medians = {name: round(statistics.median(row[name] for row in rows), 1) for name in rows[0]}
    sys.stdout.write(json.dumps({"medians": medians}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
