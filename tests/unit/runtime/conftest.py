# SPDX-License-Identifier: Apache-2.0
"""What tests of the command `tower` share: a home of their own, a host's settings, a small image."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tower.base.names import HostName, UserName
from tower.hosts.env import InstallationType, TowerEnv
from tower.hosts.registry import Tower, tower_of_user

from tests.unit.runtime.disks import make_image

PUBLIC = "ssh-ed25519 " + "A" * 68 + " al@web"
HASH = "$6$salt$" + "a" * 86


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
def settings() -> TowerEnv:
    return TowerEnv(
        hostname=HostName("web"),
        username=UserName("al"),
        public_key=PUBLIC,
        password_hash=HASH,
        keyboard_layout="fr",
        keyboard_variant="fr-bepo",
        timezone="Europe/Paris",
        lang="fr_FR.UTF-8",
        online=True,
        wlan=None,
        address=IPv4Address("192.168.2.200"),
        installation_type=InstallationType.INSTALL,
        color="#4363d8",
        alpine_branch="v3.24",
    )


@pytest.fixture(scope="session")
def small_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of a host, 68 MiB, most of it empty."""
    return make_image(tmp_path_factory.mktemp("image"), compress="zstd")
