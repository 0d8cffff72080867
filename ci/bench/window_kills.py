# SPDX-License-Identifier: Apache-2.0
"""What is left of a window whose viewer is killed, many times: processes and listeners of both sides, before and after.

    python ci/bench/window_kills.py [--times 100] [--without Xvnc,Xtigervnc]

Needs root, and the programs of the tests of windows. Each time an xterm of a host is shown (in a desktop in memory; the host is
this machine's ssh server), its viewer is killed with SIGKILL, and the application, which lives on, is stopped. One JSON object is
printed; `during` is one window's. The status is 1 if there is more after the last time than after the first one.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.windows.conftest import Place, children, make_place, missing_here
from tests.integration.windows.waiting import until


def counts(place: Place) -> dict[str, int]:
    """Return the number of processes of both sides, and of the sockets on which they listen."""
    mine = place.mine()
    sockets = subprocess.run(("ss", "-lntxpH"), capture_output=True, text=True, check=True).stdout.splitlines()
    return {"processes": len(mine), "listeners": sum(any(f"pid={one}," in line for one in mine) for line in sockets)}


def kill_one(place: Place) -> None:
    """Show an application, kill its viewer, and stop it. Raises RuntimeError if `tower run` does not notice."""
    running = place.start("web", "xterm")
    place.window(r"\(web\)")
    number = place.id()
    os.kill(children(running, "tower.windows.viewer")[0], signal.SIGKILL)
    running.communicate(timeout=90)
    place.started.clear()
    if running.returncode != 16:
        raise RuntimeError(f"tower run ended with {running.returncode}")
    place.run("--stop", "web", number)
    until(lambda: not place.left(), "nothing is left")


def main() -> int:
    """Kill, count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--without", default="", help="programs that the host shall lack")
    args = parser.parse_args()
    if missing := missing_here():
        sys.stderr.write(f"not on this machine: {', '.join(missing)}\n")
        return 19
    begins = time.monotonic()
    with TemporaryDirectory(prefix="bench-") as folder, make_place(Path(folder), args.without.split(",")) as place:
        kill_one(place)
        before = counts(place)
        running = place.start("web", "xterm")
        place.window(r"\(web\)")
        during = counts(place)
        place.run("--stop", "web", place.id())
        running.communicate(timeout=90)
        place.started.clear()
        for _ in range(args.times - 2):
            kill_one(place)
        after = counts(place)
    seconds = round(time.monotonic() - begins)
    sys.stdout.write(
        json.dumps({"times": args.times, "before": before, "during": during, "after": after, "seconds": seconds}) + "\n"
    )
    return int(any(after[name] > before[name] for name in before))


if __name__ == "__main__":
    sys.exit(main())
