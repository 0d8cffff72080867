# SPDX-License-Identifier: Apache-2.0
"""`tower setup` after one that was killed, and beside one that is running."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tower.base.errors import DeviceError, StateError
from tower.base.files import locked
from tower.cli.commands import setup
from tower.cli.main import main
from tower.disk import device
from tower.installer import disks, live_medium

from tests.unit.runtime.test_installer import found_disks, row, text


def test_programs_that_are_left_in_the_new_system(tmp_path: Path) -> None:
    """Those that have their folder or an open file there; not those that work elsewhere."""
    inside, outside = tmp_path / "target", tmp_path / "target2"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "file").write_text("x")
    started = [
        subprocess.Popen(["sleep", "60"], cwd=inside),
        subprocess.Popen(["sleep", "60"], cwd="/", stdin=(inside / "file").open()),
        subprocess.Popen(["sleep", "60"], cwd=outside, stdin=(outside / "file").open()),
    ]
    try:
        # Popen is back when the program is there.
        assert set(disks.left_in(inside)) == {started[0].pid, started[1].pid}
    finally:
        for one in started:
            one.kill()
            one.wait()


@pytest.mark.parametrize("upgrade", [False, True], ids=["install", "upgrade"])
def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], upgrade: bool) -> None:
    """A second one would end the programs of the first."""
    released = []
    monkeypatch.setattr(setup, "_LOCK", tmp_path / "run/setup.lock")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(live_medium, "check_live", lambda _: None)
    monkeypatch.setattr(disks, "release", lambda: released.append(1))
    (tmp_path / "run").mkdir()
    answers = tmp_path / "answers"
    answers.write_bytes(text())
    argv = ["setup", *(["--upgrade"] if upgrade else ["--answers", str(answers)]), "--yes"]
    with locked(tmp_path / "run/setup.lock"):
        assert main(argv) == StateError.exit_status
    assert "another `tower setup` is running" in capfd.readouterr().err
    assert not released
    # Each gets as far as what it needs next, and is not there.
    monkeypatch.setattr(device, "list_disks", lambda: found_disks(row("sdz")))
    monkeypatch.setattr(live_medium, "find_medium", lambda: (_ for _ in ()).throw(StateError("no medium")))
    assert main(argv) == (StateError if upgrade else DeviceError).exit_status
    assert released == [1]
