# SPDX-License-Identifier: Apache-2.0
"""The first command of `tower`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tower.base.version import read_os_release
from tower.cli import main
from tower.cli.commands import version


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "os-release"
    path.write_text(
        '# comment\nPRETTY_NAME="TowerOS thin client 1 (lab)"\nVERSION_ID=1\nVARIANT_ID=thinclient\nTOWER_CHANNEL=lab\nodd "\n'
    )
    monkeypatch.setattr(version, "OS_RELEASE", path)
    return path


def test_version_for_people(system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("tower ")
    assert second == "TowerOS thin client 1 (lab)"


def test_version_for_programs(system: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["channel"] == "lab"
    assert found["variant"] == "thinclient"


def test_no_os_release_is_no_error(tmp_path: Path) -> None:
    assert read_os_release(tmp_path / "none") == {}


@pytest.mark.parametrize("argv", [[], ["nothing"], ["version", "--odd"]])
def test_a_wrong_command_line_has_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(argv)
    assert raised.value.code == 2
    assert "usage: tower" in capsys.readouterr().err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main.main(["--help"])
    assert raised.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in main.COMMANDS)


def test_a_command_is_imported_when_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tower.cli.commands.version")
    with pytest.raises(SystemExit):
        main.main(["--help"])
    assert "tower.cli.commands.version" not in sys.modules
