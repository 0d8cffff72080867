# SPDX-License-Identifier: Apache-2.0
"""The output for the user while work goes on: lines, a status line, and progress bars.

All of this goes to stderr; results of commands go to stdout: lines, or with json=1 one JSON object on each line and
nothing else. Without a terminal there are only lines.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO, cast

from pipeline.base.streams import silence

if TYPE_CHECKING:
    from pipeline.base.canonical import JsonValue

_CLEAR = "\r\x1b[2K"
_WIDTH = 100


class Bar(Protocol):
    """A progress bar."""

    def advance(self, amount: int) -> None:
        """Advance by `amount` of the bar's unit."""


class Progress(Protocol):
    """How long work reports its progress to the user."""

    def say(self, text: str) -> None:
        """Print a line for the user."""

    def bar(self, title: str, total: int, unit: str = "B") -> AbstractContextManager[Bar]:
        """Show a bar on the terminal (`B` counts bytes), or nothing without one."""


@dataclass(eq=False)
class Screen:
    """The terminal, or a file in its place; safe to use from several threads."""

    stream: TextIO = field(default_factory=lambda: sys.stderr)
    quiet: bool = False
    """Print nothing: for factories inside of others."""
    json: bool = False
    """`json=1`: results are JSON objects."""
    problem: OSError | None = None
    """The error that prevented the output of results; the work continued. A reader that went away (`| head`) is no error."""
    _guard: threading.RLock = field(default_factory=threading.RLock)
    _busy: dict[str, None] = field(default_factory=dict)
    _bars: int = 0

    @property
    def terminal(self) -> bool:
        """Tell whether stderr is a terminal."""
        return not self.quiet and self.stream.isatty()

    def say(self, text: str) -> None:
        """Print a line for the user."""
        self.line(text, self.stream)

    def line(self, text: str, stream: TextIO) -> None:
        """Print a line on `stream`, removing the status line before it."""
        with self._guard:
            self._clear()
            if not self.quiet or stream is not self.stream:
                self._write(stream, f"{text}\n")
            self._draw()

    def event(self, event: Mapping[str, JsonValue], stream: TextIO | None = None) -> None:
        """Print one JSON object on stdout, or `stream`, in one piece, whoever else writes."""
        out = stream or sys.stdout
        with self._guard:
            self._write(out, f"{json.dumps(event, sort_keys=True)}\n")

    def result(self, command: str, data: Mapping[str, JsonValue], lines: Iterable[str] = ()) -> None:
        """Print the result of a command: `lines` on stdout, or with `json=1` an object with `data`."""
        if self.json:
            self.event({"event": "result", "command": command, **data})
            return
        for line in lines:
            self.line(line, sys.stdout)

    @property
    def output(self) -> BinaryIO:
        """Return the stream for a program whose output the user wants to see: stdout, unless that is kept for JSON."""
        return cast("BinaryIO", _Output(self, sys.stderr if self.json else sys.stdout))

    def begin(self, what: str) -> None:
        """Show in the status line that `what` is running."""
        with self._guard:
            self._busy[what] = None
            self._draw()

    def end(self, what: str) -> None:
        """Remove `what` from the status line."""
        with self._guard:
            self._busy.pop(what, None)
            self._clear()
            self._draw()

    def _clear(self) -> None:
        if self.terminal and not self._bars:
            self._write(self.stream, _CLEAR)

    def _draw(self) -> None:
        if self.terminal and self._busy and not self._bars:
            text = "at work: " + ", ".join(self._busy)
            self._write(self.stream, _CLEAR + (text if len(text) < _WIDTH else text[: _WIDTH - 1] + "…"))

    def _write(self, stream: TextIO, text: str) -> None:
        with self.going_on(stream):
            stream.write(text)
            stream.flush()

    @contextmanager
    def going_on(self, stream: TextIO) -> Iterator[None]:
        """Continue the work when `stream` cannot be written: nothing more is written there, and `problem` keeps the reason."""
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and stream is not self.stream:
                self.problem = self.problem or error
            silence(stream)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "B") -> Iterator[Bar]:
        """Show a bar on the terminal (`B` counts bytes); without a terminal, print one line at the beginning."""
        if not self.terminal:
            self.say(f"{title}: {_amount(total, unit)}")
            yield _NoBar()
            return
        from tqdm import tqdm

        with self._guard:
            self._clear()
            self._bars += 1
        bar: Any = tqdm(
            total=total,
            desc=title,
            unit=unit,
            file=_Output(self, self.stream),
            leave=False,
            dynamic_ncols=True,
            unit_scale=unit == "B",
            unit_divisor=1024,
        )
        try:
            yield _TqdmBar(bar)
        finally:
            bar.close()
            with self._guard:
                self._bars -= 1
                self._draw()


@dataclass(frozen=True, slots=True)
class _Output:
    """One of our streams as a file for others, which may write text or bytes, or use its descriptor."""

    screen: Screen
    stream: TextIO

    def write(self, data: str | bytes) -> int:
        """Write all of the data."""
        with self.screen.going_on(self.stream):
            if isinstance(data, str):
                self.stream.write(data)
            else:
                self.stream.flush()
                self.stream.buffer.write(data)
        return len(data)

    def flush(self) -> None:
        """Flush the stream."""
        with self.screen.going_on(self.stream):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@dataclass(frozen=True, slots=True)
class _NoBar:
    def advance(self, amount: int) -> None:
        """Do nothing: there is no bar."""


@dataclass(frozen=True, slots=True)
class _TqdmBar:
    bar: Any

    def advance(self, amount: int) -> None:
        """Advance the bar."""
        self.bar.update(amount)


def _amount(total: int, unit: str) -> str:
    if unit != "B":
        return f"{total} {unit}"
    return f"{total / 2**20:.1f} MiB" if total >= 2**20 else f"{total / 2**10:.1f} KiB"
