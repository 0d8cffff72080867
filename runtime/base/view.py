# SPDX-License-Identifier: Apache-2.0
"""The output of a command: steps and bars on stderr; data, for people or as JSON, on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from tower.base import streams
from tower.base.errors import TowerError, ValueRefusedError, printable

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class View:
    """How one command prints."""

    json: bool = False

    def say(self, text: str) -> None:
        """Print a line about the progress."""
        text = printable(text)
        # It overwrites a bar, which is drawn again below.
        streams.note(f"\r\x1b[K{text}\n" if sys.stderr.isatty() else f"{text}\n")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Run a step that takes a while; its line is printed with its seconds when it is done."""
        start = time.monotonic()
        if sys.stderr.isatty():
            streams.note(f"{text} ...\r")
        yield
        self.say(f"{text}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[int], object]]:
        """Show a step with a bar; call the yielded function with the number of bytes done since the last call."""
        with self.step(text):
            if not sys.stderr.isatty():
                yield lambda _: None
                return
            from tqdm import tqdm

            with tqdm(total=total, desc=text, unit="B", unit_scale=True, leave=False) as bar:
                yield bar.update

    @contextmanager
    def amount(self, text: str) -> Iterator[Callable[[int, int], object]]:
        """Show a bar of unknown length; call the yielded function with the bytes done and the bytes in all."""
        bar: tqdm[NoReturn] | None = None

        def tell(done: int, total: int) -> None:
            nonlocal bar
            if bar is None and sys.stderr.isatty():
                from tqdm import tqdm

                bar = tqdm(total=total, desc=text, unit="B", unit_scale=True, leave=False)
            if bar is not None:
                bar.total = total
                bar.update(done - bar.n)

        try:
            yield tell
        finally:
            if bar is not None:
                bar.close()

    def show(self, rows: Mapping[str, object]) -> None:
        """Print the result of a command."""
        if self.json:
            streams.show_json(rows)
            return
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            streams.show(f"{name.replace('_', ' '):{width}}  {printable(str(value))}\n")

    def raise_first(self, problems: Sequence[TowerError]) -> None:
        """Raise the first of the problems that several machines have, after the others are printed; without any, return."""
        for problem in problems[1:]:
            self.say(str(problem))
        if problems:
            raise problems[0]

    def confirm(self, question: str, *, yes: bool) -> None:
        """Return if the user agrees to go on. Raises TowerError if not, ValueRefusedError if nobody can be asked."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise ValueRefusedError("there is no terminal to confirm on", hint="look at what --dry-run shows, then add --yes")
        sys.stderr.write(f"{printable(question)} [y/N] ")
        sys.stderr.flush()
        if streams.line().strip().lower() not in ("y", "yes"):
            raise TowerError("not done", hint="nothing was changed")


def read_secret(question: str, *, env_hint: str) -> str:
    """Read a password: twice on a terminal, or one line of stdin. Raises ValueRefusedError if they differ."""
    if not sys.stdin.isatty():
        line = streams.line()
        if not line:
            raise ValueRefusedError(f"{question}: nothing on stdin", hint=env_hint)
        return line.removesuffix("\n").removesuffix("\r")
    import getpass

    try:
        first = getpass.getpass(f"{question}: ", sys.stderr)
        if getpass.getpass(f"{question}, again: ", sys.stderr) != first:
            raise ValueRefusedError("the two differ", hint="try again")
    except EOFError:
        raise TowerError("not done", hint="nothing was changed") from None
    return first
