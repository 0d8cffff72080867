# SPDX-License-Identifier: Apache-2.0
"""What a system needs that does nothing: memory, and space on its disk. Kept as figures beside the logs of the machines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20


def measure(run: Callable[[str], str], kept: Path) -> dict[str, int]:
    """MiB of memory that are not available to programs, and that all files of the root file system take; kept as JSON.

    `run` runs a command line on the machine and returns its output.
    """
    memory = {name: int(kib) << 10 for name, kib in re.findall(r"^(\w+): +([0-9]+) kB$", run("cat /proc/meminfo"), re.MULTILINE)}
    used = int(run("df -Pk / | tail -n 1").split()[2]) << 10
    found = {
        "memory_mib": (memory["MemTotal"] - memory["MemAvailable"]) // MIB,
        "of_mib": memory["MemTotal"] // MIB,
        "root_mib": used // MIB,
    }
    kept.write_text(json.dumps(found) + "\n")
    return found
