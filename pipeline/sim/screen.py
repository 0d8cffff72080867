# SPDX-License-Identifier: Apache-2.0
"""The screen of a Tower's thin client: its desktop, drawn into memory, and pictures of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pipeline.base import proc
from pipeline.base.errors import BootError
from pipeline.light.machine import PATH, inside
from pipeline.sim.machines import USER

_SOCKET: Final = "wayland-0"
_SECONDS: Final = 60
_PROGRAM: Final = 'cd; exec "$@"'
# In a session of its own: it outlives the command that started it, and ends with its machine.
_STAYS: Final = "cd; setsid startw </dev/null >/dev/null 2>&1 &"
# A screen in memory has no devices, so no seat daemon is needed.
_HEADLESS: Final = {"WLR_BACKENDS": "headless", "WLR_LIBINPUT_NO_DEVICES": "1"}


def session(pid: int) -> Mapping[str, str]:
    """Return the environment that a program needs to open windows there; empty while no desktop runs.

    `pid` is the first process of the thin client.
    """
    found = sorted(Path(f"/proc/{pid}/root/run/user").glob(f"*/{_SOCKET}"))
    return {"XDG_RUNTIME_DIR": f"/run/user/{found[0].parent.name}", "WAYLAND_DISPLAY": _SOCKET} if found else {}


def start_desktop(pid: int) -> None:
    """Start the desktop of the thin client's user, and wait until windows can open. Raises BootError or ToolError."""
    # This makes the folder of every user, including this one, who was added after the machine's start.
    _run(pid, ["rc-service", "tower-desktop", "restart"])
    _run(pid, ["su", "-s", "/bin/sh", "-c", _STAYS, USER], _HEADLESS)
    ends = time.monotonic() + _SECONDS
    while not session(pid):
        if time.monotonic() > ends:
            raise BootError(
                f"sim:screen: no desktop after {_SECONDS} s",
                hint="./ci/doit sim:ssh thinclient cat .cache/tower/desktop.log",
            )
        time.sleep(0.05)


def picture(pid: int) -> bytes:
    """Return a picture of the desktop as a PNG file. Raises ToolError if none runs."""
    return _run(pid, ["su", "-s", "/bin/sh", "-c", _PROGRAM, "--", USER, "sh", "grim", "-t", "png", "-"], session(pid))


def _run(pid: int, argv: Sequence[str], env: Mapping[str, str] | None = None) -> bytes:
    given = {"PATH": PATH, "LC_ALL": "C.UTF-8", **(env or {})}
    clean = ("env", "-i", *(f"{name}={value}" for name, value in given.items()))
    return proc.run([*clean, *inside(pid, argv)], timeout=_SECONDS).stdout
