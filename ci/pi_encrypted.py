# SPDX-License-Identifier: Apache-2.0
"""The whole first start of a Raspberry Pi in QEMU: it encrypts its second disk, moves onto it, starts from there, and answers.

    python ci/pi_encrypted.py dist/toweros-host-0.1.0-lab-rpi.img.zst

Not one of the tests, since it takes far longer than they may: QEMU emulates the USB of a Raspberry Pi 3, at which the second
disk is, at less than a megabyte a second. The tests start a Pi without a second disk, and encrypt that of a PC, by the same
scripts. Prints a JSON object with the seconds at which each step began, of each of the two starts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ci.power_cuts import provision
from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.guest import FAILURES, Guest

LIMIT: Final = 3600
"""Seconds that a start may take."""
STEP: Final = r"tower-setup: ([a-z_]+)(:.*)?\n"
BAD: Final = (*FAILURES, "This host is not ready")
SECOND: Final = 2 << 30


def steps(guest: Guest, last: str) -> dict[str, float]:
    """Return when the console named each step until the last one, in seconds since the machine was switched on."""
    found = dict[str, float]()
    while last not in found:
        name = str(guest.wait(STEP, LIMIT, failures=BAD)[1])
        found[name] = round(guest.seconds, 1)
    return found


def encrypt(image: Path, folder: Path, log: Path) -> dict[str, float]:
    """Make the disks in `folder`, and let the machine encrypt the second one; return the seconds of its steps."""
    disk, second = provision(image, folder), folder / "second.img"
    second.touch()
    os.truncate(second, SECOND)
    with started(MachineType.HOST_RPI, disk, log=log, second=second, limit=LIMIT) as guest:
        found = steps(guest, "restart")
        # An emulated Pi does not end by itself; by then all is written.
        guest.wait("reboot: Restarting system", LIMIT)
    return found


def main() -> int:
    """Run it on an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--log", type=Path, default=Path("build/log/pi-encrypted.log"))
    parser.add_argument("--folder", type=Path, help="keep the disks there; if they are there already, only start from them")
    args = parser.parse_args()
    with ExitStack() as stack:
        home = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pi-encrypted-")))
        home.mkdir(exist_ok=True)
        done = home / "encrypted"
        if not done.exists():
            print(json.dumps({"first": encrypt(args.image.resolve(), home.resolve(), args.log)}), flush=True)
            done.touch()
        disk, second = home / "cut.img", home / "second.img"
        with started(MachineType.HOST_RPI, disk, log=args.log.with_suffix(".2.log"), second=second, limit=LIMIT) as guest:
            then = steps(guest, "ready")
            guest.wait(LOGIN, LIMIT)
            then["login"] = round(guest.seconds, 1)
            check_banner(guest, guest.banner(SSH, LIMIT))
            then["ssh"] = round(guest.seconds, 1)
        print(json.dumps({"second": then}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
