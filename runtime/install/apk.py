# SPDX-License-Identifier: Apache-2.0
"""The protocol with `packages`, the program on every machine of the Tower that runs apk for us; its first lines describe it.

We tell it what to install and how apk finds it; it reports what apk prints, line by line, and what it does itself. Only
the form of these lines is trusted: they are shown without control characters, and their length is limited. The caller
checks the plan first: it tells whether some of the lines were not understood.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import GarbageError, HangsError, LostError, PackageError, ValueRefusedError
from tower.base.ready import readable
from tower.install.apkwords import Transaction, parse_progress
from tower.install.choose import check_names

if TYPE_CHECKING:
    import subprocess

PROGRAM: Final = "/usr/libexec/tower/packages"
SILENCE: Final = 900.0
"""Seconds that a machine may be silent: the scripts of some packages are slow on a small one."""
_MOST_LINE: Final = 1 << 20
"""The most bytes of a line; scripts of packages may write long ones."""
_MOST_SHOWN: Final = 4096
_MOST_SAID: Final = 64 << 20
"""The most bytes of all output of a machine; the largest installations write less than one MiB."""
_WORDS: Final = frozenset({"planned", "installed", "undone", "failed"})


@dataclass(slots=True)
class Talk:
    """One run of `packages add`."""

    name: str
    child: subprocess.Popen[bytes]
    alive: Callable[[], bool]
    say: Callable[[str], object]
    progress: Callable[[int, int], object]
    installed: Callable[[tuple[str, ...]], object]
    """Called with the result of an earlier, interrupted run that has been finished."""
    plan: Transaction = field(default_factory=Transaction)
    """What its apk would do; known after `ask`."""
    _planned: bool = False
    _told: list[str] = field(default_factory=list)
    _said: Iterator[str] | None = None

    @property
    def steps(self) -> list[str]:
        """The steps of apk's plan, such as `Installing nano (8.2-r0)`, and the lines that were not understood."""
        return [*(step.text for step in self.plan.steps), *self.plan.odd]

    def ask(self, request: Sequence[str]) -> None:
        """Send how apk finds its packages; then `plan` is what it would do. Raises PackageError and AnswerErrors."""
        self._send(*request, ".")
        for word, text in self._lines():
            if word == "planned":
                self._planned = True
                return
            if word == "installed":
                self.say(f"{self.name}: an earlier installation was finished without us: {text}")
                self.installed(words_of(text, self.name))
        raise self._over()

    def go(self) -> None:
        """Let apk carry out the plan. Raises PackageError and AnswerErrors."""
        self._send("go")
        for word, _ in self._lines():
            if word == "installed":
                return
        raise self._over()

    def write(self, *lines: str) -> None:
        """Send lines that have no answer. Raises PackageError and LostError."""
        if not self._send(*lines):
            raise self._over()

    def _send(self, *lines: str) -> bool:
        """Send lines; tell whether the program still reads. If it does not, its reason is still to be read."""
        assert self.child.stdin is not None  # noqa: S101  (it is a pipe)
        try:
            self.child.stdin.write("".join(f"{line}\n" for line in lines).encode())
        except BrokenPipeError:
            return False
        return True

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Yield the program's own messages, word and text; apk's output is passed on."""
        assert self.child.stdout is not None  # noqa: S101  (it is a pipe)
        self._said = self._said or _split(self.child.stdout, self.name)
        for line in self._said:
            who, _, text = line.partition(" ")
            word, _, rest = text.partition(" ")
            if who == "apk":
                self._apk(text)
            elif who != "tower" or word not in _WORDS:
                raise GarbageError(
                    f"{self.name}: sent {line[:60]!r}, expected a message of packages", hint="is it a host of TowerOS?"
                )
            elif word == "failed":
                raise PackageError("\n  ".join([f"{self.name}: {rest}", *self._told[-10:]]), hint=self._hint(rest))
            elif word == "undone":
                self.plan = Transaction()  # the lines so far were about that
                self.say(f"{self.name}: undone: {rest}")
            else:
                yield word, rest

    def _apk(self, text: str) -> None:
        if not self._planned:
            self.plan.hear(text)
        elif (amount := parse_progress(text)) is not None:
            self.progress(*amount)
            return
        shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... ({len(text)} characters)"
        self._told.append(shown)
        del self._told[:-50]
        self.say(f"{self.name}: {shown}")

    def _hint(self, what: str) -> str:
        if "another installation" in what:
            return "wait for it to end, and run the same command again"
        if "no room" in what or any("No space left" in line for line in self._told):
            return (
                f"look at the free space on its disk: ssh {self.name} df -h" if self.name != "thinclient" else "make room: df -h"
            )
        if "repositories" in what:
            return "is the router on, and connected to the Internet? Check: tower status router"
        return "nothing was changed; fix what apk reports, and run the same command again"

    def _over(self) -> Exception:
        """Return the error about the end of the output."""
        if not self.alive():
            return LostError(
                f"{self.name}: the connection broke during the installation",
                hint="the host finishes or undoes it; run the same command again when the host is back",
            )
        status = proc.ended(self.child, 20)
        said = _rest(self.child.stderr)
        if status == 127 or "not found" in said or "No such file" in said:
            return PackageError(f"{self.name}: has no {PROGRAM}", hint=f"upgrade it: tower upgrade {self.name}")
        return PackageError(f"{self.name}: ended with status {status} {said}".rstrip(), hint="run the same command again")


def words_of(text: str, name: str) -> tuple[str, ...]:
    """Parse names of packages that a machine sent. Raises GarbageError."""
    words = tuple(text.split())
    try:
        check_names(words)
    except ValueRefusedError as error:
        raise GarbageError(f"{name}: {error.message}", hint="is it a host of TowerOS?") from None
    return words


def clean(data: bytes) -> str:
    """Return a line that is safe for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in data.decode(errors="replace"))


def _split(stream: IO[bytes], name: str) -> Iterator[str]:
    """Yield lines of a pipe, without newlines; an unfinished last line is dropped. Raises HangsError."""
    kept, said = b"", 0
    while True:
        end = time.monotonic() + SILENCE
        while not readable([stream], max(0.0, end - time.monotonic())):
            if time.monotonic() >= end:
                raise HangsError(f"{name}: silent for {SILENCE / 60:.0f} min", hint=f"see what it does: ssh {name} top")
        data = os.read(stream.fileno(), 65536)
        if not data:
            return
        *lines, kept = (kept + data).split(b"\n")
        said += len(data)
        if len(kept) > _MOST_LINE or said > _MOST_SAID:
            line = f"sent a line of more than {_MOST_LINE} bytes"
            what = line if len(kept) > _MOST_LINE else f"sent more than {_MOST_SAID} bytes, more than any installation"
            raise GarbageError(f"{name}: {what}", hint="is it a host of TowerOS?")
        yield from map(clean, lines)


def _rest(stream: IO[bytes] | None) -> str:
    if stream is None or not readable([stream], 1):
        return ""
    return clean(os.read(stream.fileno(), 1000).strip())
