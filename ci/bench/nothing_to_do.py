# SPDX-License-Identifier: Apache-2.0
"""What `./ci/doit` costs when there is nothing to do, beside a bare `doit` with one empty task.

    python ci/bench/nothing_to_do.py [WORD]... [--rounds 9]

Runs both in turns, each as a whole process, after a run of each that does not count. Prints one JSON object: the least seconds of
processor time and of the clock of each, and the ratios. WORD goes to `./ci/doit`, which must have nothing to do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
EMPTY = "def task_nothing():\n    return {'actions': None, 'uptodate': [True]}\n"


def seconds(argv: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a program; return the seconds of processor time and of the clock that it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, clock


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dodo.py").write_text(EMPTY)
        ours, bare = ["./ci/doit", *args.words], [sys.executable, "-m", "doit"]
        rows = [(seconds(ours, CHECKOUT), seconds(bare, folder)) for _ in range(args.rounds + 1)][1:]
    found = {
        kind: {"ours": round(min(row[0][place] for row in rows), 3), "bare": round(min(row[1][place] for row in rows), 3)}
        for place, kind in enumerate(("processor", "clock"))
    }
    ratios = {f"{kind} ratio": round(row["ours"] / row["bare"], 2) for kind, row in found.items()}
    sys.stdout.write(json.dumps({**found, **ratios}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
