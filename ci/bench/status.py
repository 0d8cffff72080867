# SPDX-License-Identifier: Apache-2.0
"""How long `tower status` takes for many hosts, beside one of them and beside the slowest of them.

    python ci/bench/status.py [--hosts 20] [--slow 2] [--rounds 5]

Needs root: the hosts are servers of one light machine (pipeline/light), with the product's firewalls, and the last one is slow
by so many seconds. Medians of the rounds, in seconds, and their ratios are printed as one JSON object. The ratio to
the slowest is the one that a user meets: `one` has all processors for itself, where real hosts bring their own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.network.machines import missing_tools, roots, tower
from tests.network.many import many_hosts, names, seconds_for


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20)
    parser.add_argument("--slow", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if missing := missing_tools():
        sys.stderr.write(f"not on this machine: {', '.join(missing)}\n")
        return 19
    found: dict[str, list[float]] = {"one": [], "equal": [], "slowest": [], "all": []}
    with roots() as shelf, tower(shelf) as machines, many_hosts(machines, args.hosts, slow=args.slow) as user:
        every = names(args.hosts)
        for _ in range(args.rounds):
            for name, hosts in (("one", every[:1]), ("equal", every[:-1]), ("slowest", every[-1:]), ("all", every)):
                found[name].append(seconds_for(user, *hosts))
    result: dict[str, float] = {name: round(statistics.median(times), 3) for name, times in found.items()}
    result["all_to_slowest"] = round(result["all"] / result["slowest"], 2)
    result["equal_to_one"] = round(result["equal"] / result["one"], 2)
    sys.stdout.write(json.dumps({"hosts": args.hosts, "rounds": args.rounds, **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
