# SPDX-License-Identifier: Apache-2.0
"""How long a window of a host's application takes on a Wayland desktop, beside waypipe: one JSON object, medians of the rounds.

    python ci/bench/wayland.py [--rounds 10]

Needs root, the programs of the tests of windows, and waypipe. Both sides are this machine: the desktop is sway in memory, the
host its ssh server on the loopback. Measured are the milliseconds from the command to the first picture of the desktop that
shows mousepad; the ways take turns. A picture takes some 30 ms, by which all figures are too large.

    tower    `tower run`, with Xvnc on the host
    waypipe  `waypipe ssh`: mousepad speaks Wayland itself, and there is no other desktop, no clipboard's policy and no filter.
             It takes sockets forwarded by ssh, which a host's server refuses: here it is told to allow them
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.windows.conftest import Place, make_place, missing_here
from tests.integration.windows.wayland import NEEDED, Screen, desktop

WHITE: Final = (255, 255, 255)
LIMIT: Final = 30.0
APPLICATION: Final = "mousepad"


def ways(place: Place, folder: Path) -> dict[str, list[str]]:
    """Return the command of each way."""
    there = folder / "waypipe-there"
    run = folder / "away-run"
    run.mkdir(mode=0o700)
    there.write_text(f'#!/bin/sh\nexport XDG_RUNTIME_DIR={run} GDK_BACKEND=wayland\nexec waypipe "$@"\n')
    there.chmod(0o755)
    ssh = ("ssh", "-F", str(place.folder / "home/.local/tower/config"), "-o", "ControlPath=none", "-o", "ClearAllForwardings=no")
    sockets = str(folder / "waypipe")
    return {
        "tower": place.argv("--window", "--no-sound", "web", APPLICATION),
        "waypipe": ["waypipe", "-s", sockets, "--remote-bin", str(there), *ssh, "web", APPLICATION],
    }


def allow_sockets(place: Place) -> None:
    """Let the host's ssh server forward sockets. Raises RuntimeError if it cannot be told."""
    config = place.folder / "sshd_config"
    text = config.read_text()
    changed = text.replace("AllowStreamLocalForwarding no", "AllowStreamLocalForwarding yes")
    if changed == text:
        raise RuntimeError("the configuration of the ssh server says nothing about sockets")
    config.write_text(changed)
    log = place.folder / "sshd.log"
    starts = log.read_text().count("Server listening on")
    place.server.send_signal(signal.SIGHUP)
    ends = time.monotonic() + LIMIT
    while log.read_text().count("Server listening on") == starts:
        if time.monotonic() > ends:
            raise RuntimeError("the ssh server did not start again")
        time.sleep(0.02)


def first(argv: Sequence[str], env: Mapping[str, str], screen: Screen) -> float:
    """Return the milliseconds from a command to its window. Raises RuntimeError if there is none."""
    null = subprocess.DEVNULL
    begins = time.monotonic()
    child = subprocess.Popen(argv, env=env, stdin=null, stdout=null, stderr=null, start_new_session=True)
    try:
        while not shown(screen):
            if child.poll() is not None or time.monotonic() > begins + LIMIT:
                raise RuntimeError(f"no window: {' '.join(argv)[:300]}")
        return (time.monotonic() - begins) * 1000
    finally:
        # waypipe leaves its ssh behind if it alone is ended.
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(60)
        ends = time.monotonic() + LIMIT
        while shown(screen) and time.monotonic() < ends:
            time.sleep(0.05)


def shown(screen: Screen) -> bool:
    """Return whether the desktop shows mousepad, whose page is white."""
    return screen.picture().share(WHITE, 20, 200, 1260, 700) > 0.9


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    lacks = [one for one in ("waypipe", *NEEDED) if shutil.which(one) is None]
    if missing := missing_here() + lacks:
        sys.stderr.write(f"not on this machine: {', '.join(missing)}\n")
        return 19
    found: dict[str, list[float]] = {}
    before = os.getloadavg()[0]
    with TemporaryDirectory(prefix="bench-") as name, make_place(Path(name)) as place:
        folder = Path(name)
        allow_sockets(place)
        # The desktop is that of another user.
        folder.chmod(0o755)
        (folder / "sway").mkdir()
        with desktop(folder / "sway") as screen:
            env = {**place.environment, **screen.more}
            commands = ways(place, folder)
            for _ in range(args.rounds):
                for way, argv in commands.items():
                    found.setdefault(way, []).append(first(argv, env, screen))
    result = {way: round(statistics.median(rows)) for way, rows in found.items()}
    loads = {"before": round(before, 1), "after": round(os.getloadavg()[0], 1)}
    sys.stdout.write(json.dumps({"rounds": args.rounds, "first": result, "load": loads}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
