# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import json
from types import SimpleNamespace

import pytest

from pipeline.base.errors import StageError
from pipeline.base.progress import Screen
from pipeline.cli.report import Events, Lines, TaskRow
from pipeline.cli.tasks import FailedTask


class UnmetDependency:
    """doit's own is told by its name."""

    def get_msg(self) -> str:
        return "unmet"


def fake(row: TaskRow) -> SimpleNamespace:
    return SimpleNamespace(name=f"stage:{row.name}", meta={"row": row})


def reporter(kind: type[Lines] = Lines) -> tuple[Lines, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    made = type("R", (kind,), {"screen": Screen(stream=err)})(out, {})
    return made, out, err


def test_a_run_with_nothing_to_do() -> None:
    made, out, _ = reporter()
    made.skip_uptodate(fake(TaskRow("root", "pc", "ab" * 32, counted=True)))
    made.skip_uptodate(fake(TaskRow("pack", "pc", "cd" * 32, counted=True)))
    made.complete_run()
    first, _, last = out.getvalue().splitlines()
    assert first.split() == ["root", "pc", "abababababab", "cached"]
    assert last.startswith("nothing to do: 2 stages cached (")


def test_a_run_that_built() -> None:
    made, out, _ = reporter()
    made.skip_uptodate(fake(TaskRow("root", "pc", "ab", counted=True)))
    row = TaskRow("pack", "pc", counted=True)
    made.execute_task(fake(row))
    row.state, row.seconds, row.key = "built", 1.25, "cd" * 32
    made.add_success(fake(row))
    made.complete_run()
    lines = out.getvalue().splitlines()
    assert lines[1].split() == ["pack", "pc", "cdcdcdcdcdcd", "built", "1.2", "s"]
    assert lines[2].startswith("done: 1 built, 1 cached (")


def test_a_run_that_pulled() -> None:
    made, out, _ = reporter()
    row = TaskRow("pack", "pc", counted=True)
    made.execute_task(fake(row))
    row.state, row.seconds, row.key = "pulled", 0.25, "cd" * 32
    made.add_success(fake(row))
    made.complete_run()
    first, last = out.getvalue().splitlines()
    assert first.split() == ["pack", "pc", "cdcdcdcdcdcd", "pulled", "0.2", "s"]
    assert last.startswith("done: 0 built, 1 pulled, 0 cached (")


def test_a_failure_ends_with_its_own_status() -> None:
    made, out, err = reporter()
    row = TaskRow("root", "pc", counted=True)
    made.execute_task(fake(row))
    made.add_failure(fake(row), FailedTask(StageError("root: exit status 7", hint="whole log: x")))
    made.add_failure(fake(TaskRow("pack", "pc", counted=True)), UnmetDependency())
    with pytest.raises(SystemExit) as ended:
        made.complete_run()
    assert ended.value.code == StageError.exit_status
    assert err.getvalue() == "error: root: exit status 7\n  hint: whole log: x\n"
    lines = out.getvalue().splitlines()
    assert "failed" in lines[0]
    assert lines[1].split() == ["pack", "pc", "skipped"]
    assert lines[2].startswith("failed: stage:root (0 built, 0 cached")


def test_an_interruption() -> None:
    made, out, _ = reporter()
    stopped: list[bool] = []
    type(made).stop = staticmethod(lambda: stopped.append(True))  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as ended:
        try:
            raise KeyboardInterrupt
        finally:
            made.complete_run()
    assert ended.value.code == 130
    assert stopped == [True]
    assert "finished stages are kept" in out.getvalue()


def test_commands_are_quiet_unless_they_fail() -> None:
    made, out, err = reporter()
    row = TaskRow("gc", quiet=True)
    made.execute_task(fake(row))
    made.add_success(fake(row))
    made.complete_run()
    assert out.getvalue() == ""
    made.add_failure(fake(row), FailedTask(StageError("no")))
    assert "failed" in out.getvalue()
    assert "error: no" in err.getvalue()


def test_events_for_machines() -> None:
    made, out, _ = reporter(Events)
    made.skip_uptodate(fake(TaskRow("root", "pc", "ab", counted=True)))
    row = TaskRow("pack", "pc", counted=True)
    made.execute_task(fake(row))
    made.add_failure(fake(row), FailedTask(StageError("no")))
    with pytest.raises(SystemExit):
        made.complete_run()
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert events[0] == {"event": "task", "name": "root", "target": "pc", "key": "ab", "state": "cached", "seconds": 0.0}
    assert (events[1]["state"], events[1]["error"], events[1]["exit_status"]) == ("failed", "error: no", 15)
    assert (events[2]["event"], events[2]["failed"], events[2]["cached"]) == ("end", ["stage:pack"], 1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_status_line_makes_way_for_lines() -> None:
    stream = Terminal()
    screen = Screen(stream=stream)
    screen.begin("stage:root")
    screen.say("a line")
    screen.end("stage:root")
    assert stream.getvalue().split("\r\x1b[2K") == ["", "at work: stage:root", "a line\n", "at work: stage:root", ""]


def test_bars_without_a_terminal_are_one_line() -> None:
    stream = io.StringIO()
    with Screen(stream=stream).bar("packages", 3 << 20) as bar:
        bar.advance(5)
    assert stream.getvalue() == "packages: 3.0 MiB\n"


def test_bars_on_a_terminal() -> None:
    stream = Terminal()
    with Screen(stream=stream).bar("packages", 10, "files") as bar:
        bar.advance(5)
    assert "packages" in stream.getvalue()
