# SPDX-License-Identifier: Apache-2.0
"""A home of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tower.hosts.registry import Tower, tower_of_user


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tower(home: Path) -> Tower:
    return tower_of_user()
