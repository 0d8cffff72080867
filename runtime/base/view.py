# SPDX-License-Identifier: Apache-2.0
"""What the user sees while a command works: steps and bars on stderr; data, for people or as JSON, on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from tower.base import streams
from tower.base.errors import TowerError, ValueRefusedError, printable

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True, slots=True)
class View:
    """How one command speaks."""

    json: bool = False

    def say(self, text: str) -> None:
        """One line about how it goes."""
        text = printable(text)
        # Over a bar that may stand there; it is drawn again below.
        streams.note(f"\r\x1b[K{text}\n" if sys.stderr.isatty() else f"{text}\n")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step that takes a while; its line is written when it is done, with its seconds."""
        start = time.monotonic()
        if sys.stderr.isatty():
            streams.note(f"{text} ...\r")
        yield
        self.say(f"{text}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def bar(self, text: str, total: int) -> Iterator[Callable[[int], object]]:
        """A step with a bar; what it gives is told how many more bytes are done."""
        with self.step(text):
            if not sys.stderr.isatty():
                yield lambda _: None
                return
            from tqdm import tqdm

            with tqdm(total=total, desc=text, unit="B", unit_scale=True, leave=False) as bar:
                yield bar.update

    @contextmanager
    def amount(self, text: str) -> Iterator[Callable[[int, int], object]]:
        """A bar for what is known only as it goes; what it gives is told how many bytes are done, and of how many."""
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
        """The result of a command."""
        if self.json:
            streams.show_json(rows)
            return
        width = max(map(len, rows), default=0)
        for name, value in rows.items():
            streams.show(f"{name.replace('_', ' '):{width}}  {printable(str(value))}\n")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the user says so. Raises TowerError, or ValueRefusedError if nobody can be asked."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise ValueRefusedError("there is nobody to ask whether to go on", hint="look with --dry-run, then add --yes")
        sys.stderr.write(f"{printable(question)} [y/N] ")
        sys.stderr.flush()
        if streams.line().strip().lower() not in ("y", "yes"):
            raise TowerError("not done", hint="nothing was changed")


def read_secret(question: str, *, env_hint: str) -> str:
    """A password: asked for twice on a terminal, or one line of stdin. Raises ValueRefusedError if they differ."""
    if not sys.stdin.isatty():
        line = streams.line()
        if not line:
            raise ValueRefusedError(f"{question}: nothing on stdin", hint=env_hint)
        return line.removesuffix("\n").removesuffix("\r")
    import getpass

    try:
        first = getpass.getpass(f"{question}: ", sys.stderr)
        if getpass.getpass(f"{question}, again: ", sys.stderr) != first:
            raise ValueRefusedError("the two are not the same", hint="try again")
    except EOFError:
        raise TowerError("not done", hint="nothing was changed") from None
    return first
