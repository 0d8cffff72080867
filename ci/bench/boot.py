# SPDX-License-Identifier: Apache-2.0
"""What a start of the thin client's ISO in QEMU spends its time on.

    python ci/bench/boot.py IMAGE [--accel tcg,thread=multi]... [--rounds 1]

For each `--accel` (the factory's own, if none is named), one after the other in each round: seconds from power-on to what the
console says, by the clock and of a processor. Those of a processor are what to compare on a machine that does other work.
Printed as one JSON object a start.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.images import boot
from pipeline.images.guest import ACCELERATION, Guest

STEPS: Final = {
    "kernel": r"Linux version",
    "initramfs": r"Alpine Init",
    "medium": r"Mounting boot media: ok",
    "packages": r"Installing packages to root filesystem: ok",
    "dependencies": r"Caching service dependencies.*ok",
    "modloop": r"Mounting modloop.*ok",
    "drivers": r"Loading hardware drivers.*ok",
    "firewall": r"Setting the firewall.*ok",
    "login": boot.LOGIN,
}


def steps(guest: Guest) -> dict[str, tuple[float, float]]:
    """Return when each step was seen: in seconds of the clock, and of processor time."""
    found = {}
    for name, pattern in STEPS.items():
        guest.wait(pattern, boot.MachineType.THINCLIENT_BIOS.limit)
        found[name] = (round(guest.seconds, 1), round(guest.used, 1))
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--accel", action="append")
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    log = Path("build/log/bench-boot.log")
    for _ in range(args.rounds):
        for accel in args.accel or [ACCELERATION[1]]:
            with boot.started(boot.MachineType.THINCLIENT_BIOS, args.image, log=log, accel=accel) as guest:
                row = {"accel": accel, "load": round(os.getloadavg()[0], 1), "steps": steps(guest)}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
