# SPDX-License-Identifier: Apache-2.0
"""Cut the power at every step of a host's first start that its console tells, and see that the host is whole in the end.

    python ci/power_cuts.py dist/toweros-host-0.1.0-lab-pc.img.zst

Takes as many starts of a machine as there are steps, some twenty; tests/boot/test_provision.py does it at two steps. Each
start is cut off at the first step that none was cut off at before, until the host is ready. Prints one line a start; their
consoles are in build/log.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.guest import FAILURES

MOST = 40
SECONDS = 900
STEP = r"tower-setup: ([a-z_]+)(:.*)?\n"
"""A whole line: the console comes in pieces, and a piece may end in the middle of a name."""


def provision(image: Path, home: Path) -> Path:
    """Make the boot device of a new host with `tower`."""
    disk = home / "cut.img"
    argv = [sys.executable, "-P", "-m", "tower", "provision", "cut", "--offline", "--username", "al", "--unsigned", "--no-wait"]
    argv += ["--yes", "--image", str(image), "--device-file", str(disk), "--size", "2G"]
    subprocess.run(argv, cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)}, check=True)
    return disk


def cut(disk: Path, second: Path, log: Path, seen: set[str]) -> str:
    """Start the machine, and cut it off at a step that is not in `seen`; the step, or `login` if it came that far."""
    with started(MachineType.HOST_PC_BIOS, disk, log=log, second=second, limit=SECONDS) as guest:
        while True:
            found = guest.wait(f"{STEP}|{LOGIN}", SECONDS, failures=(*FAILURES, "This host is not ready"))
            if found[1] is None:
                check_banner(guest, guest.banner(SSH, SECONDS))
                return "login"
            if found[1] not in seen and found[1] != "ready":
                return str(found[1])
            # By itself the machine starts anew once: then it ends here, and is started again.
            if found[1] == "restart" and guest.ended(SECONDS):
                return "restart"


def main() -> int:
    """Run it on an image; 1 if the host is not ready after as many starts as any could need."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    image = parser.parse_args().image.resolve()
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as name:
        home = Path(name)
        disk, second = provision(image, home), home / "second.img"
        with second.open("wb") as stream:
            stream.truncate(2 << 30)
        for number in range(MOST):
            step = cut(disk, second, Path(f"build/log/power-cut-{number}.log"), seen)
            print(f"start {number}: {step if step == 'login' else f'cut off at {step}'}", flush=True)
            if step == "login":
                missed = [one for one in ("encrypt", "system", "boot", "user", "secrets") if one not in seen]
                return 1 if missed else 0
            seen.add(step)
    return 1


if __name__ == "__main__":
    sys.exit(main())
