# SPDX-License-Identifier: Apache-2.0
"""A home of its own, and an apk of Alpine where there is one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from tower.sshconf import Tower, tower_of_user


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


@pytest.fixture
def real_apk() -> list[str]:
    """The words that start an apk 3; what brings one with it has only to name it here."""
    words = shlex.split(os.environ.get("TOWER_TEST_APK", ""))
    return words or pytest.skip("no apk of Alpine is named by TOWER_TEST_APK")
