# SPDX-License-Identifier: Apache-2.0
"""The Tower of the network ring: that of `pipeline.sim.machines`, on roots that are built if need be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pipeline.base.errors import BootError
from pipeline.cli.command_line import open_factory
from pipeline.light.roots import NEEDED, RootName, root_of
from pipeline.light.services import SshServer
from pipeline.light.shelf import Shelf, shelf
from pipeline.light.switches import Leg, in_network_of
from pipeline.sim.machines import INTERNET_ADDRESS, PLANS, USER, Machine, Plan, Tower, boot_files, missing_tools, tower

__all__ = [
    "CHECKOUT", "INTERNET_ADDRESS", "PLANS", "USER", "Leg", "Machine", "Plan", "SshServer", "Tower",
    "boot_files", "in_network_of", "missing_tools", "roots", "tower",
]  # fmt: skip

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_BUILD_SECONDS: Final = 3600


@contextmanager
def roots() -> Iterator[Shelf]:
    """The roots of a Tower, built by the real command if need be; for as many Towers as the caller makes of them."""
    factory = open_factory(CHECKOUT)
    try:
        found = {name.value: root_of(name, factory) for name in RootName}
    except BootError:
        argv = [sys.executable, "-m", "doit", *NEEDED]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        factory.keys.reset()
        found = {name.value: root_of(name, factory) for name in RootName}
    with shelf(found) as made:
        yield made
