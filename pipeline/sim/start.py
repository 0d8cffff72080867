# SPDX-License-Identifier: Apache-2.0
"""Start a Tower that keeps running, and open sessions on its machines."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tower.base.jsontext import parse_json

from pipeline.base import proc
from pipeline.base.errors import BootError, ConfigError, ToolError
from pipeline.light.machine import PATH, inside
from pipeline.sim import running, screen
from pipeline.sim.keeper import KEEP
from pipeline.sim.machines import USER, missing_tools
from pipeline.sim.plans import THIN_CLIENT

_ROOMS: Final = 2 << 30
"""Bytes of memory that must be free: the roots lie in it."""


def check_possible() -> None:
    """Raise an error unless a Tower can run on this machine."""
    missing = missing_tools()
    if "root" in missing:
        raise ConfigError("sim: only root makes the namespaces that the machines live in", hint="sudo ./ci/doit sim")
    if missing:
        raise ToolError(f"sim: not on this machine: {', '.join(missing)}", hint="run it through ./ci/doit, which installs them")
    rows = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    if free < _ROOMS:
        raise ConfigError(
            f"sim: {free >> 20} MiB of memory are free, {_ROOMS >> 20} are needed: the machines' disks lie there",
            hint="end other programs",
        )


def start(folder: Path, checkout: Path, roots: Mapping[str, Path], mirror: Path | None, say: Callable[[str], object]) -> None:
    """Start a Tower that keeps running; its Internet serves the packages of `mirror`.

    Raises BootError if it does not come up; then, as after a signal, nothing is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = [
        sys.executable,
        "-P",
        "-m",
        "pipeline.sim.keeper",
        str(folder),
        str(mirror or ""),
        *(f"{name}={path}" for name, path in roots.items()),
    ]
    with (folder / "keeper.log").open("wb") as log:
        keeper = proc.spawn(argv, stdin=proc.PIPE, stdout=proc.PIPE, stderr=log, cwd=checkout, env={"PYTHONPATH": str(checkout)})
    if keeper.stdin is None or keeper.stdout is None:
        raise BootError("sim: no pipe to the process that holds the Tower")
    ready = False
    try:
        for line in keeper.stdout:
            event = parse_json(line)
            if event["event"] == "step":
                say(f"sim: {event['text']}")
            elif event["event"] == "failed":
                raise BootError(event["message"], hint=event["hint"])
            elif event["event"] == "ready":
                keeper.stdin.write(KEEP)
                keeper.stdin.flush()
                proc.let_go(keeper.pid)
                ready = True
                return
        raise BootError("sim: the process that holds the Tower has ended", hint=f"see {folder}/keeper.log")
    finally:
        if not ready:
            # The end of its input tells it to end.
            keeper.stdin.close()
            keeper.wait()
        keeper.stdout.close()


def words_of(found: running.TowerState, words: Sequence[str]) -> list[str]:
    """Return the program that opens a session on a machine, or runs a command there. Raises ConfigError for an unknown one."""
    if not words:
        raise ConfigError(
            "sim:ssh: which machine?", hint=f"./ci/doit sim:ssh {'|'.join(row.name for row in found.machines)} [COMMAND...]"
        )
    name, *command = words
    target, client = found.row(name), found.row(THIN_CLIENT)
    if not target.role:
        raise ConfigError(f"sim:ssh: {name} is not a machine of the Tower", hint=f"from {THIN_CLIENT}: curl or wget on a host")
    line = " ".join(command)
    if name != THIN_CLIENT:
        # Connect from the thin client, as its owner would.
        line = shlex.join(["ssh", *(["-t"] if os.isatty(0) and not command else []), name, *command])
    else:
        # A program of its user opens its windows on the desktop, if one runs.
        shown = " ".join(f"{name}={value}" for name, value in screen.session(client.pid).items())
        line = f"export {shown}; {line or 'exec bash -l'}" if shown else line
    login = ["su", "-l", USER, *(["-c", line] if line else [])]
    return ["env", "-i", f"PATH={PATH}", f"TERM={os.environ.get('TERM', 'dumb')}", *inside(client.pid, login)]
