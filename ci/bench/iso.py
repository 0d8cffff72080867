# SPDX-License-Identifier: Apache-2.0
"""What one changed line of the runtime costs until there is a new ISO, beside the tools that one would use by hand.

    python ci/bench/iso.py [--rounds 3]

Each round adds a comment to one file of runtime/ (it is taken back at the end), builds the ISO, and then lets `xorrisofs` write
the tree of that ISO again, and `sha256sum` read what came out. Prints one JSON object: the least seconds by the clock of the
whole, of each task, and of the two by hand, and the ratio of the stage `iso` and publishing to these. Needs xorriso. Nothing else
may change the checkout meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CHANGED = CHECKOUT / "runtime/cli/main.py"


def clock(argv: Sequence[str | Path]) -> float:
    """Run a program; return the seconds that it took."""
    began = time.monotonic()
    subprocess.run(argv, cwd=CHECKOUT, check=True, capture_output=True)
    return time.monotonic() - began


def build() -> tuple[dict[str, float], Path]:
    """Build the ISO; return the seconds of the whole and of each task that did something, and the path of the ISO."""
    began = time.monotonic()
    done = subprocess.run(["./ci/doit", "thinclient", "json=1"], cwd=CHECKOUT, check=True, capture_output=True, text=True)
    found = {"whole": time.monotonic() - began}
    key = ""
    for event in map(json.loads, done.stdout.splitlines()):
        if event["event"] == "task" and event["state"] in ("built", "done"):
            found[event["name"]] = event["seconds"]
        if event["event"] == "task" and event["name"] == "iso":
            key = event["key"]
    return found, CHECKOUT / "build/store" / key / "files/image.iso"


def by_hand(iso: Path, tree: Path, out: Path) -> float:
    """Return the seconds that xorriso and sha256sum take for the tree of the ISO."""
    if not tree.is_dir():
        clock(["osirrox", "-indev", iso, "-extract", "/", tree])
    return clock(["xorrisofs", "-quiet", "-rational-rock", "-joliet", "-output", out, tree]) + clock(["sha256sum", out])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    before = CHANGED.read_bytes()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(dir=CHECKOUT / "build") as name:
        try:
            build()
            for number in range(args.rounds):
                CHANGED.write_bytes(before + f"# {time.time_ns()} {number}\n".encode())
                found, iso = build()
                rounds.append(found | {"by hand": by_hand(iso, Path(name, "tree"), Path(name, "by-hand.iso"))})
        finally:
            CHANGED.write_bytes(before)
    least = {key: round(min(row[key] for row in rounds), 2) for key in rounds[0]}
    ratio = (least["iso"] + least["thinclient"]) / least["by hand"]
    sys.stdout.write(json.dumps({**least, "ratio": round(ratio, 2)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
