# SPDX-License-Identifier: Apache-2.0
"""The output of a run: one line for each task with its state, key and seconds, and a summary at the end.

These are doit's reporters; they read the `TaskRow` that `pipeline.cli.tasks` gives every task. `Lines` is for people;
`Events` (json=1) writes one JSON object a line for programs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from pipeline.base.errors import FactoryError
from pipeline.base.progress import Screen
from pipeline.base.streams import INTERRUPTED, unwritten
from pipeline.cli import unchanged


@dataclass(slots=True)
class TaskRow:
    """The state of one task; the task fills it in, and the reporter reads it."""

    name: str
    target: str = ""
    key: str = ""
    state: str = ""
    """cached, built, pulled, done, failed, skipped."""
    seconds: float = 0.0
    counted: bool = False
    """Whether the summary counts it as a stage."""
    quiet: bool = False
    """Whether to print no line unless the task fails: such a command prints its own output."""
    error: FactoryError | None = None
    started: float = 0.0


def row_of(task: Any) -> TaskRow | None:
    """Return the row of one of doit's tasks; None for a group."""
    meta = task.meta or {}
    row = meta.get("row")
    return row if isinstance(row, TaskRow) else None


class Lines:
    """doit's reporter for people. Its methods are called by doit, some of them from several threads."""

    desc = "one line a task"
    screen = Screen()

    @staticmethod
    def check(tasks: Iterable[str]) -> None:
        """Refuse variables that the chosen tasks would ignore; `pipeline.cli.command_line.config` sets it to the factory's."""

    @staticmethod
    def begin() -> None:
        """Prepare the first task; `pipeline.cli.command_line.config` sets it to the factory's method."""

    @staticmethod
    def stop() -> None:
        """End what is still running; `pipeline.cli.command_line.config` sets it to the factory's method."""

    def __init__(self, outstream: TextIO, options: Any) -> None:
        del options
        self.out = outstream
        self.rows: list[TaskRow] = []
        self.failed: list[str] = []
        self.status = 0
        self.started = time.monotonic()
        self.guard = threading.Lock()

    # --- called by doit --------------------------------------------------------------------------------------

    def initialize(self, tasks: Any, selected_tasks: Any) -> None:
        """Start the run, before the first task."""
        del tasks
        self.check(selected_tasks)
        self.begin()

    def get_status(self, task: Any) -> None:
        """Do nothing; doit calls this before it asks whether a task is up to date."""

    def execute_task(self, task: Any) -> None:
        """Note that a task begins; doit calls this in the task's thread."""
        row = row_of(task)
        if row is not None:
            unchanged.acting()
            row.started = time.monotonic()
            self.screen.begin(task.name)

    def skip_uptodate(self, task: Any) -> None:
        """Note that a task is up to date."""
        row = row_of(task)
        if row is not None:
            row.state = row.state or "cached"
            self.finish(row)

    def add_success(self, task: Any) -> None:
        """Note that a task succeeded."""
        row = row_of(task)
        if row is not None:
            self.screen.end(task.name)
            row.state = row.state or "done"
            row.seconds = row.seconds or time.monotonic() - row.started
            self.finish(row)

    def add_failure(self, task: Any, fail: Any) -> None:
        """Note that a task failed, or could not begin because another one failed."""
        unchanged.acting()
        row = row_of(task) or TaskRow(task.name)
        self.screen.end(task.name)
        row.state = "skipped" if type(fail).__name__ == "UnmetDependency" else "failed"
        row.seconds = time.monotonic() - row.started if row.started else 0.0
        error = getattr(fail, "error", None) or row.error
        row.error = error if isinstance(error, FactoryError) else None
        if row.state == "failed":
            self.failed.append(task.name)
            self.status = self.status or (row.error.exit_status if row.error is not None else 2)
        self.finish(row, "" if row.state == "skipped" else f"error: {row.error}" if row.error else fail.get_msg())

    def skip_ignore(self, task: Any) -> None:
        """Do nothing for a task that the user told doit to ignore."""

    def cleanup_error(self, exception: Any) -> None:
        """Report an error that occurred during clean-up."""
        unchanged.acting()
        self.screen.say(exception.get_msg())

    def runtime_error(self, msg: str) -> None:
        """Report an error of doit itself."""
        unchanged.acting()
        self.status = self.status or 2
        self.screen.say(msg)

    def teardown_task(self, task: Any) -> None:
        """Do nothing when a task cleans up."""

    def complete_run(self) -> None:
        """Print the summary; raise SystemExit with the status of the first failure, since doit itself knows only 0 to 3."""
        interrupted = isinstance(sys.exc_info()[1], KeyboardInterrupt)
        status = INTERRUPTED if interrupted else self.status
        if interrupted:
            self.screen.say("stopping")
            self.stop()
        self.summary(interrupted)
        if self.screen.problem is not None and not status:
            status = unwritten(self.screen.problem)
        if status:
            raise SystemExit(status)
        unchanged.answered([as_line(row) for row in self.rows if not row.quiet], sum(row.counted for row in self.rows))

    # --- appearance -----------------------------------------------------------------------------------

    def finish(self, row: TaskRow, trouble: str = "") -> None:
        """Print the line of a finished task."""
        with self.guard:
            self.rows.append(row)
        if not row.quiet or row.state == "failed":
            self.screen.line(as_line(row), self.out)
        if trouble:
            self.screen.say(trouble)

    def summary(self, interrupted: bool) -> None:
        """Print the last line."""
        text = summary_text(self.rows, self.failed, time.monotonic() - self.started)
        if interrupted:
            text = "interrupted: finished stages are kept; the same command continues from there"
        if text:
            self.screen.line(text, self.out)


class Events(Lines):
    """doit's reporter for machines: one JSON object a line on stdout."""

    desc = "one JSON object a task"

    def finish(self, row: TaskRow, trouble: str = "") -> None:
        """Write the event of a finished task."""
        event = {
            "event": "task",
            "name": row.name,
            "target": row.target,
            "key": row.key,
            "state": row.state,
            "seconds": round(row.seconds, 3),
            **({"error": trouble} if trouble else {}),
            **({"exit_status": row.error.exit_status} if row.error else {}),
        }
        with self.guard:
            self.rows.append(row)
        self._write(event)

    def summary(self, interrupted: bool) -> None:
        """Write the last event."""
        states = [row.state for row in self.rows if row.counted]
        self._write(
            {
                "event": "end",
                "interrupted": interrupted,
                "failed": self.failed,
                "built": states.count("built"),
                "pulled": states.count("pulled"),
                "cached": states.count("cached"),
                "seconds": round(time.monotonic() - self.started, 3),
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        self.screen.event(event, self.out)


def as_line(row: TaskRow) -> str:
    """Return the line of a finished task."""
    seconds = f"{row.seconds:8.1f} s" if row.state in ("built", "pulled", "done", "failed") else ""
    return f"{row.name:<28} {row.target:<10} {row.key[:12]:<12}  {row.state:<7}{seconds}".rstrip()


def summary_text(rows: list[TaskRow], failed: list[str], seconds: float) -> str:
    """Return the summary of a run; empty if no stage was concerned."""
    states = [row.state for row in rows if row.counted]
    built, pulled, cached = (states.count(state) for state in ("built", "pulled", "cached"))
    counts = f"{built} built, {f'{pulled} pulled, ' if pulled else ''}{cached} cached"
    if failed:
        return f"failed: {', '.join(failed)} ({counts}, {seconds:.1f} s)"
    if not states:
        return ""
    if built == pulled == 0 and all(row.state == "cached" for row in rows if not row.quiet):
        return unchanged.nothing_to_do(cached, seconds)
    return f"done: {counts} ({seconds:.1f} s)"
