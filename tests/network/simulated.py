# SPDX-License-Identifier: Apache-2.0
"""`doit sim` as a program that tests use: its commands, what its thin client's screen shows, and keys pressed there."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.gui.pictures import Colour, Picture, keep, read_png
from tests.gui.test_desktop import BAR_TOP
from tests.network.machines import CHECKOUT

SECONDS = 240


def argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def sim(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv(*words), cwd=CHECKOUT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def there(line: str) -> str:
    """What a line of the thin client's shell prints, without the end of the last line."""
    return sim("sim:ssh", "thinclient", line).stdout.rstrip("\n")


def until(seen: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < ends, f"never: {what}"


def until_it_shows(file: Path, seen: Callable[[Picture], bool], why: str = "cat .cache/tower/desktop.log") -> None:
    """Take pictures of the thin client's screen until one shows what it should; `why` is what tells more if none does."""
    ends = time.monotonic() + 60
    while not seen(found := read_png(file.read_bytes())):
        if time.monotonic() > ends:
            path = keep(found, "what the thin client showed")
            raise AssertionError(f"the screen never showed it ({path})\n{sim('sim:ssh', 'thinclient', why).stdout[-3000:]}")
        sim("sim:screen", "thinclient", str(file))


def rgb(text: str) -> Colour:
    """A colour of a host, as the thin client writes it."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:], 16)


def start_keyboard() -> None:
    """Give the thin client's desktop a keyboard: without one, no window has it. It is the package wtype."""
    sim("sim:ssh", "thinclient", "setsid wtype -s 3600000 </dev/null >/dev/null 2>&1 &")
    until(lambda: there("pgrep -x wtype || :"), "the keyboard")


def press(*keys: str) -> None:
    """Press keys of the desktop one after the other, each by its name, after those that are held: `alt+Tab`."""
    words = ["wtype", "-s", "200"]
    for key in keys:
        *held, name = key.split("+")
        words += [word for one in held for word in ("-M", one)]
        words += ["-k", name, *(word for one in held for word in ("-m", one)), "-s", "150"]
    there(" ".join(words))


def start(line: str) -> str:
    """Start a program of the desktop that stays; the command that prints what it said."""
    path = f".cache/started-{time.monotonic_ns()}"
    sim("sim:ssh", "thinclient", f"setsid {line} >{path} 2>&1 </dev/null &")
    return f"cat {path}"


_IN_WINDOW = """\
cd "$(ls -td ~/.cache/tower/windows/*/ | head -n 1)"
export DISPLAY=":$(cat display)" XAUTHORITY="$PWD/key"
"""


@dataclass(frozen=True)
class HostClipboard:
    """The clipboard of a host's newest window, as its applications use it."""

    host: str

    def copy(self, text: str) -> None:
        self._run(f"printf %s {shlex.quote(text)} | xclip -selection clipboard -i -t UTF8_STRING >/dev/null 2>&1")

    def paste(self) -> str:
        return self._run("timeout 10 xclip -selection clipboard -o -t UTF8_STRING 2>/dev/null || :")

    def _run(self, script: str) -> str:
        return there(f"tower run --no-window {self.host} sh -c {shlex.quote(_IN_WINDOW + script)}")


def changed(one: Picture, other: Picture) -> tuple[int, int, int, int]:
    """The least rectangle with all pixels of the desktop, without its bar, in which two pictures differ: its four edges."""
    wide = 3 * one.width
    rows = [y for y in range(BAR_TOP) if one.pixels[wide * y : wide * (y + 1)] != other.pixels[wide * y : wide * (y + 1)]]
    columns = [x for y in rows for x in range(one.width) if one.at(x, y) != other.at(x, y)]
    return (min(columns), rows[0], max(columns) + 1, rows[-1] + 1) if rows else (0, 0, 0, 0)
