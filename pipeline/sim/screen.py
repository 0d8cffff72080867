# SPDX-License-Identifier: Apache-2.0
"""The screen of a Tower's thin client: its desktop, drawn into memory, and pictures of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pipeline.base import proc
from pipeline.base.errors import BootError
from pipeline.light.machine import command
from pipeline.sim.machines import USER

_SOCKET: Final = "wayland-0"
_SECONDS: Final = 60
# In a session of its own: it outlives the command that started it, and ends with its machine.
_STAYS: Final = "setsid startw </dev/null >/dev/null 2>&1 &"
HEADLESS: Final = {"WLR_BACKENDS": "headless", "WLR_LIBINPUT_NO_DEVICES": "1"}
"""The environment of a desktop whose screen is in memory. It has no devices, so no seat daemon is needed."""


def session(pid: int) -> Mapping[str, str]:
    """Return the environment that a program needs to open windows there; empty while no desktop runs.

    `pid` is the first process of the thin client.
    """
    found = sorted(Path(f"/proc/{pid}/root/run/user").glob(f"*/{_SOCKET}"))
    return {"XDG_RUNTIME_DIR": f"/run/user/{found[0].parent.name}", "WAYLAND_DISPLAY": _SOCKET} if found else {}


def start_desktop(pid: int) -> None:
    """Start the desktop of the thin client's user, and wait until windows can open. Raises BootError or ToolError."""
    # This makes the folder of every user, including this one, who was added after the machine's start.
    proc.run(command(pid, ["rc-service", "tower-desktop", "restart"]), timeout=_SECONDS)
    proc.run(command(pid, ["sh", "-c", _STAYS], user=USER, env=HEADLESS), timeout=_SECONDS)
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
    return proc.run(command(pid, ["grim", "-t", "png", "-"], user=USER, env=session(pid)), timeout=_SECONDS).stdout
