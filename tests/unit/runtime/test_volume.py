# SPDX-License-Identifier: Apache-2.0
"""`tower volume`: what it shows and keeps, and what a window makes of that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tower.base.errors import StateError
from tower.cli import main
from tower.hosts.env import TowerEnv
from tower.hosts.registry import Tower
from tower.windows import loudness
from tower.windows.loudness import FULL, Knob, Loudness

from tests.unit.runtime.test_sshconf import add


@pytest.fixture
def hosts(tower: Tower, settings: TowerEnv) -> Tower:
    """A Tower with two hosts."""
    for name in ("web", "vault"):
        add(tower, settings, name)
    return tower


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main.main(["volume", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_volume_is_set_kept_and_shown(hosts: Tower, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "web", "40") == {"web": {"percent": 40, "muted": False}}
    assert said(capsys, "web", "mute") == {"web": {"percent": 40, "muted": True}}
    assert said(capsys) == {"vault": {"percent": 100, "muted": False}, "web": {"percent": 40, "muted": True}}
    path = hosts.folder / "sound.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert main.main(["volume", "web"]) == 0
    assert capsys.readouterr().out == "web  40 %, muted\n"
    assert said(capsys, "web", "unmute") == said(capsys, "web")
    said(capsys, "web", "100")
    assert loudness.read(path) == {}


@pytest.mark.parametrize("word", ["101", "-1", "+5", "5%", "", "loud", "٣", "9" * 5000])
def test_what_is_no_volume_is_refused(hosts: Tower, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert main.main(["volume", "--", "web", word]) == 10
    assert "is not a volume" in capsys.readouterr().err
    assert not (hosts.folder / "sound.json").exists()


def test_an_unknown_host_has_no_volume(hosts: Tower, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["volume", "nosuch", "5"]) != 0
    assert "nosuch" in capsys.readouterr().err
    assert not (hosts.folder / "sound.json").exists()


GOOD: dict[str, Any] = {"version": 1, "hosts": {"web": {"percent": 5, "muted": True}}}
BAD: list[object] = [
    [], {}, {**GOOD, "version": 2}, {**GOOD, "version": True}, {**GOOD, "more": 1}, {**GOOD, "hosts": []},
    *({"version": 1, "hosts": {"web": row}} for row in (
        5, {}, {"percent": 5}, {"percent": 101, "muted": True}, {"percent": -1, "muted": True}, {"percent": True, "muted": True},
        {"percent": "5", "muted": True}, {"percent": 5, "muted": 0}, {"percent": 5, "muted": True, "more": 1},
    )),
    {"version": 1, "hosts": {"../web": {"percent": 5, "muted": True}}},
]  # fmt: skip


def test_damaged_settings_are_refused_and_a_window_stays_as_loud_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "sound.json"
    knob, other = Knob(path, "web"), Knob(path, "vault")
    assert knob.now() == FULL
    path.write_text(json.dumps(GOOD))
    assert (knob.now(), other.now()) == (Loudness(5, muted=True), FULL)
    for number, row in enumerate((*map(json.dumps, BAD), "", "{", "\0\xff", "[" * 100_000)):
        path.write_text(row)
        os.utime(path, ns=(number, number))
        with pytest.raises(StateError, match=r"sound\.json") as caught:
            loudness.read(path)
        assert "rm " in caught.value.hint
        assert knob.now() == Loudness(5, muted=True), row
    path.unlink()
    assert knob.now() == FULL
