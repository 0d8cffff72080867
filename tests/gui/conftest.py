# SPDX-License-Identifier: Apache-2.0
"""A thin client with its desktop: the product's own root in namespaces, its programs on a screen that is in memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from pipeline.light.machine import Box, Ran
from pipeline.light.roots import RootName
from pipeline.light.services import add_user, service
from pipeline.sim.screen import HEADLESS
from tests.gui.pictures import Picture, keep, read_ppm
from tests.network.machines import roots

USER = "al"
_NEEDED = ("nsenter", "setpriv", "tar", "unshare")
_SECONDS = 40
_RUN = "/run/user/1000"
_ENV = {"XDG_RUNTIME_DIR": _RUN, "WAYLAND_DISPLAY": "wayland-0"}


@dataclass(frozen=True)
class Desktop:
    """A running desktop."""

    box: Box

    def run(self, *argv: str, check: bool = True) -> Ran:
        """Run a program as somebody does in a terminal of the desktop."""
        return self.box.run(*argv, user=USER, env=_ENV, check=check)

    def open(self, *argv: str) -> None:
        """Start a program that stays."""
        self.run("sh", "-c", 'exec "$@" >/dev/null 2>&1 &', "sh", *argv)

    def picture(self) -> Picture:
        """What is on the screen."""
        self.run("grim", "-t", "ppm", f"{_RUN}/screen.ppm")
        return read_ppm(self.box.path(f"{_RUN}/screen.ppm").read_bytes())

    def wait(self, seen: Callable[[Picture], bool], what: str) -> Picture:
        """The screen when it shows what it should; the last picture is kept in build/gui/."""
        ends = time.monotonic() + _SECONDS
        while True:
            found = self.picture()
            if seen(found):
                keep(found, what)
                return found
            if time.monotonic() > ends:
                raise AssertionError(f"the screen never showed this: {what} ({keep(found, what)})\n{self.log()}")
            time.sleep(0.1)

    def wait_for(self, pattern: str) -> str:
        """The command line of a process, once it is there."""
        ends = time.monotonic() + _SECONDS
        while not (found := self.box.running(pattern)):
            assert time.monotonic() < ends, f"{pattern}: does not run\n{self.log()}"
            time.sleep(0.05)
        return self.box.processes()[found[0]]

    def wait_for_end(self, pattern: str) -> None:
        """Wait until no process matches."""
        ends = time.monotonic() + _SECONDS
        while self.box.running(pattern):
            assert time.monotonic() < ends, f"{pattern}: still runs\n{self.log()}"
            time.sleep(0.05)

    def log(self) -> str:
        """What the programs of the desktop said."""
        path = self.box.path(f"home/{USER}/.cache/tower/desktop.log")
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""


@pytest.fixture(scope="session")
def thinclient() -> Iterator[Box]:
    """The machine, with a user; nobody has logged in. Held for all tests of the ring."""
    missing = [name for name in _NEEDED if shutil.which(name) is None] + ["root"] * (os.geteuid() != 0)
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    with ExitStack() as stack:
        made = stack.enter_context(roots(RootName.THINCLIENT))
        box = Box("thinclient", made, RootName.THINCLIENT, made.disk(stack), (), stack)
        box.turn_on()
        box.wait_until_made()
        add_user(box, USER, administrator=True)
        box.run("addgroup", USER, "video")  # as the installer does
        box.boot()
        box.wait_until_up()
        service(box, "tower-desktop", "restart")
        yield box


@pytest.fixture(scope="module")
def desktop(thinclient: Box) -> Iterator[Desktop]:
    """The desktop as `startw` starts it, on a screen of 1280 by 720 pixels that is in memory."""
    with started(thinclient) as made:
        yield made


@contextmanager
def started(thinclient: Box) -> Iterator[Desktop]:
    """A desktop, to the context's end. Who leaves it leaves no sound behind, which the next desktop would meet."""
    made = Desktop(thinclient)
    argv = thinclient.argv("su", "-s", "/bin/sh", "-c", "cd; exec startw", USER)
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **HEADLESS}
    with subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL) as child:
        try:
            ends = time.monotonic() + _SECONDS
            while not thinclient.path(f"{_RUN}/wayland-0").exists():
                assert child.poll() is None, f"startw ended with status {child.returncode}\n{made.log()}"
                assert time.monotonic() < ends, f"no desktop\n{made.log()}"
                time.sleep(0.05)
            yield made
        finally:
            thinclient.run("pkill", "-x", "labwc", check=False)
            child.wait(20)
            left = [line for line in thinclient.processes().values() if re.search(r"(^|/)(pipewire|wireplumber)\b", line)]
            assert not left, f"still there: {left}\n{made.log()}"
