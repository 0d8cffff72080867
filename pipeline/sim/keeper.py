# SPDX-License-Identifier: Apache-2.0
"""The process that holds a Tower that `doit sim` leaves running; the whole Tower ends with it, however that ends.

    python -m pipeline.sim.keeper FOLDER MIRROR NAME=ROOT...

MIRROR is a folder of packages, or empty.

It also ends when its input ends, that is, with the process that started it, unless it has read `keep` before. It reports
its progress on its output, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from pipeline.base.errors import FactoryError
from pipeline.base.filelock import FileLock, try_lock
from pipeline.base.refused import expected
from pipeline.sim import running
from pipeline.sim.machines import Tower
from pipeline.sim.prepared import light_tower

KEEP: Final = b"keep\n"


class _Stopped(Exception):  # noqa: N818  (it is no error)
    """SIGTERM came, or the process that started us has ended."""


def _say(event: str, **more: str) -> None:
    try:
        sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
        sys.stdout.flush()
    except OSError:  # the reader has gone
        pass


def _rows(made: Tower) -> tuple[running.MachineState, ...]:
    return tuple(
        running.MachineState(
            one.name, one.plan.role or "", tuple(interface.ipv4 for interface in one.plan.interfaces if interface.ipv4), one.pid
        )
        for one in made
        if one.pid
    )


class _Waiting(threading.Thread):
    """Reads our input: after `keep` we stay, at its end without `keep` we end."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kept = threading.Event()

    def run(self) -> None:
        """Read until one of the two happens."""
        if sys.stdin.buffer.readline() == KEEP:
            self.kept.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)


def _stop(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Stopped


def hold(folder: Path, mirror: Path | None, roots: Mapping[str, Path], lock: FileLock) -> None:
    """Start a Tower, and hold it until SIGTERM. Raises errors of pipeline.base.errors."""
    waiting = _Waiting()
    waiting.start()
    try:
        running.write(folder, "light", (), ready=False)
        with light_tower(roots, mirror, lambda text: _say("step", text=text)) as made:
            running.write(folder, "light", _rows(made), ready=True)
            _say("ready")
            waiting.kept.wait()
            hosts = [one.name for one in made if one.plan.is_host]
            # A host that asks for a restart gets it, as from its firmware.
            with made.firmware(*hosts, after=lambda: running.write(folder, "light", _rows(made), ready=True)):
                signal.pause()
    except _Stopped:
        pass
    finally:
        (folder / "state.json").unlink(missing_ok=True)
        lock.remove()


def main(argv: list[str]) -> int:
    """Hold a Tower; return 0 after SIGTERM."""
    folder, mirror = Path(argv[0]), Path(argv[1]) if argv[1] else None
    roots = {name: Path(path) for name, _, path in (word.partition("=") for word in argv[2:])}
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    lock = try_lock(folder / "lock")
    if lock is None:
        _say("failed", message="sim: a Tower is already running", hint="./ci/doit sim:stop ends it")
        return 1
    try:
        hold(folder, mirror, roots, lock)
    except Exception as found:
        error = found if isinstance(found, FactoryError) else expected(found)
        if error is None:
            _say("failed", message=f"sim: {type(found).__name__}: {found}", hint=f"see {folder}/keeper.log")
            raise
        _say("failed", message=error.message, hint=error.hint or "")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
