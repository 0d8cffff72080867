# SPDX-License-Identifier: Apache-2.0
"""The programs that run for this process; they are ended when the user ends it.

`pipeline.base.proc` gives each a session of its own, so Ctrl-C on the terminal does not reach them. This module is apart
from it because that one is also copied into packages of the lab.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.base.guard import GUARD
from pipeline.base.proc import kill_group

_POLL_SECONDS = 0.05


def running() -> Iterator[int]:
    """Yield the children of this process that lead a process group of their own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent, group = stat.read_text(errors="replace").rpartition(")")[2].split()[:3]
            ours = int(parent) == os.getpid() and int(group) != GUARD.pid
            if ours and group == stat.parent.name and state != "Z":
                yield int(group)


def stop_all(seconds: float, *, but: Collection[int] = ()) -> None:
    """Interrupt all running programs except `but`, as Ctrl-C would; kill those that have not ended after `seconds`."""
    for pid in set(running()).difference(but):
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGINT)
    deadline = time.monotonic() + seconds
    while (left := set(running()).difference(but)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for pid in left:
        kill_group(pid)
