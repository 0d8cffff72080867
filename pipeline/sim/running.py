# SPDX-License-Identifier: Apache-2.0
"""The state of a Tower that `doit sim` left running: in `build/sim`, written by the process that holds it.

That process holds a lock as long as it lives, so that no file has to be trusted about whether a Tower runs.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tower.base.jsontext import parse_json

from pipeline.base.errors import BootError, ConfigError
from pipeline.base.filelock import try_lock
from pipeline.base.paths import Paths
from pipeline.sandbox.engine import process_start

_SCHEMA: Final = 1
_STOP_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class MachineState:
    """One machine of the list."""

    name: str
    role: str
    addresses: tuple[str, ...]
    pid: int
    """Its first process, by the number that it has outside."""

    @property
    def on(self) -> bool:
        """Whether it runs."""
        return Path(f"/proc/{self.pid}").exists()


@dataclass(frozen=True, slots=True)
class TowerState:
    """A running Tower."""

    kind: str
    keeper: int
    """The process that holds it."""
    start: str
    """When that was started, as the kernel counts: numbers of processes are used again."""
    ready: bool
    machines: tuple[MachineState, ...]

    def row(self, name: str) -> MachineState:
        """Return the machine of that name. Raises ConfigError if there is none, or if it is off."""
        for row in self.machines:
            if row.name == name:
                if not row.on:
                    raise ConfigError(f"sim: {name} is off", hint="./ci/doit sim:stop, then ./ci/doit sim")
                return row
        raise ConfigError(f"sim: there is no machine {name!r}", hint=f"one of: {', '.join(row.name for row in self.machines)}")


def folder_of(paths: Paths) -> Path:
    """Return the folder of the state, the lock, and the keeper's output."""
    return paths.build / "sim"


def write(folder: Path, kind: str, machines: Sequence[MachineState], *, ready: bool) -> None:
    """Write the state of the Tower that this process holds."""
    made = TowerState(kind, os.getpid(), process_start(os.getpid()) or "", ready, tuple(machines))
    new = folder / "state.new"
    new.write_text(json.dumps({"schema": _SCHEMA, **asdict(made)}, indent=1) + "\n")
    new.replace(folder / "state.json")


def is_held(folder: Path) -> bool:
    """Tell whether a process holds a Tower."""
    if not (folder / "lock").exists():
        return False
    lock = try_lock(folder / "lock")
    if lock is None:
        return True
    lock.remove()
    return False


def read(folder: Path) -> TowerState | None:
    """Return the running Tower, or None. Raises BootError if it has not written its state yet."""
    if not is_held(folder):
        return None
    try:
        rows = parse_json((folder / "state.json").read_bytes())
        machines = tuple(MachineState(row["name"], row["role"], tuple(row["addresses"]), row["pid"]) for row in rows["machines"])
        found = TowerState(rows["kind"], rows["keeper"], rows["start"], rows["ready"], machines)
    except (OSError, ValueError, KeyError, TypeError):
        found = None
    if found is None or process_start(found.keeper) != found.start:
        raise BootError("sim: a Tower is about to start, or to end", hint="again in some seconds; ./ci/doit sim:stop ends it")
    return found


def need(folder: Path) -> TowerState:
    """Return the running Tower. Raises BootError if there is none."""
    found = read(folder)
    if found is None:
        raise BootError("sim: no Tower is running", hint="start one: ./ci/doit sim")
    return found


def stop(folder: Path) -> bool:
    """End the running Tower, and wait until it is gone; False if there was none. Raises BootError."""
    ends = time.monotonic() + _STOP_SECONDS
    was_there, asked = False, False
    while is_held(folder):
        was_there = True
        try:
            found = read(folder)
        except BootError:
            found = None
        if found is not None and (not asked or time.monotonic() > ends):
            # If it does not end by itself, its machines end with it.
            os.kill(found.keeper, signal.SIGTERM if not asked else signal.SIGKILL)
            asked = True
        if time.monotonic() > ends + _STOP_SECONDS:
            raise BootError("sim: the Tower does not end", hint=f"see {folder}/keeper.log")
        time.sleep(_POLL_SECONDS)
    for name in ("state.json", "state.new"):
        (folder / name).unlink(missing_ok=True)
    return was_there
