# SPDX-License-Identifier: Apache-2.0
"""How fast `python -m pipeline.apk verify` and `solve` are beside a real `apk`, in turns, so that other load hits both.

    python ci/bench/verify.py verify --apk /path/to/apk --keys keys/alpine --rounds 15 *.apk
    python ci/bench/verify.py solve --apk /path/to/apk --keys keys/alpine --index main/x86_64/APKINDEX.tar.gz --worlds cases.json

`--apk` may be a few words, as for an apk of musl on another system: "ld-musl-x86_64.so.1 --library-path lib sbin/apk".
Files and indexes may be of format 3 (Packages.adb, which `apk convndx --sign-key` makes of an APKINDEX.tar.gz).
`--worlds` is a JSON list of {"world": [...]}; an index lies in a folder of its architecture, as in a repository. Each first run
is not counted. Printed is one JSON object: the medians in seconds, of the time and of the processors' time, and of the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
OURS = (sys.executable, "-m", "pipeline.apk")
Pair = tuple[Sequence[str], Sequence[str]]


def spent(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that a command takes, and those of all processors. Raises CalledProcessError if it fails."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=CHECKOUT)
    seconds, after = time.perf_counter() - start, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])


def compare(pairs: Iterator[Pair]) -> dict[str, object]:
    """Run all pairs, apk first, and sum them up."""
    for command in next(pairs):
        spent(command)
    rows = [(spent(theirs), spent(ours)) for theirs, ours in pairs]

    def median(kind: int) -> dict[str, float]:
        values = {
            "apk": [theirs[kind] for theirs, _ in rows],
            "ours": [ours[kind] for _, ours in rows],
            "ratio": [ours[kind] / theirs[kind] for theirs, ours in rows],
        }
        return {name: round(statistics.median(found), 3) for name, found in values.items()}

    return {"rounds": len(rows), "time": median(0), "processors": median(1), "load": os.getloadavg()[0]}


def verifying(options: argparse.Namespace, apk: list[str]) -> Iterator[Pair]:
    """Verify the same files in each round."""
    files = [str(Path(name).resolve()) for name in options.file]
    keys = str(Path(options.keys).resolve())
    for _ in range(options.rounds + 1):
        yield [*apk, "--keys-dir", keys, "verify", *files], [*OURS, "verify", "--keys", keys, *files]


def solving(options: argparse.Namespace, apk: list[str], scratch: Path) -> Iterator[Pair]:
    """Solve one world per round, for an empty root; ours with a cache that the first round fills."""
    indexes = [Path(name).resolve() for name in options.index]
    kinds = ["v3 " if index.suffix == ".adb" else "" for index in indexes]
    lines = [f"{kind}{index.parent.parent}\n" for kind, index in zip(kinds, indexes, strict=True)]
    (scratch / "repositories").write_text("".join(lines))
    keys, arch = str(Path(options.keys).resolve()), indexes[0].parent.name
    root = ["--root", str(scratch / "root"), "--arch", arch, "--keys-dir", keys, "--no-network", "--no-cache"]
    theirs = [*apk, *root, "--repositories-file", str(scratch / "repositories")]
    subprocess.run([*theirs, "--initdb", "add"], check=True, capture_output=True)
    ours = [*OURS, "solve", "--keys", keys, "--arch", arch, "--cache", str(scratch / "cache")]
    ours += [word for index in indexes for word in ("--index", str(index))]
    worlds = [row["world"] for row in json.loads(Path(options.worlds).read_bytes())]
    random.Random(1).shuffle(worlds)  # noqa: S311  (the same worlds every time)
    for world in worlds[: options.rounds + 1]:
        yield [*theirs, "--simulate", "add", *world], [*ours, *world]


def main() -> None:
    """Measure, and print the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("verify", "solve"))
    parser.add_argument("--apk", required=True, metavar="COMMAND")
    parser.add_argument("--keys", required=True, metavar="DIR")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--index", action="append", default=[], metavar="FILE")
    parser.add_argument("--worlds", metavar="FILE")
    parser.add_argument("file", nargs="*")
    options = parser.parse_intermixed_args()
    apk = options.apk.split()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = verifying(options, apk) if options.what == "verify" else solving(options, apk, Path(scratch))
        print(json.dumps({"what": options.what, **compare(pairs)}))


if __name__ == "__main__":
    main()
