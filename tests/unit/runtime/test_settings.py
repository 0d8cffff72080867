# SPDX-License-Identifier: Apache-2.0
"""The thin client's own settings, from files as Alpine and Debian leave them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.hosts.settings import Settings, current_user, read_settings


@pytest.fixture(autouse=True)
def no_lang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANG", raising=False)


def lay(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_alpine(tmp_path: Path) -> None:
    root = lay(tmp_path, etc__conf_d="")
    (root / "etc/conf_d").unlink()
    (root / "etc/conf.d").mkdir()
    (root / "etc/conf.d/loadkmap").write_text("KEYMAP=/etc/keymap/fr-bepo.bmap.gz\n")
    (root / "etc/localtime").symlink_to("/etc/zoneinfo/Europe/Paris")
    (root / "etc/profile.d").mkdir()
    (root / "etc/profile.d/20locale.sh").write_text("export CHARSET=${CHARSET:-UTF-8}\nexport LANG=${LANG:-fr_FR.UTF-8}\n")
    assert read_settings(root) == Settings("fr", "fr-bepo", "Europe/Paris", "fr_FR.UTF-8")


def test_debian(tmp_path: Path) -> None:
    root = lay(
        tmp_path,
        etc__default__keyboard='XKBMODEL="pc105"\nXKBLAYOUT="de"\nXKBVARIANT="neo"\n',
        etc__timezone="America/New_York\n",
        etc__default__locale="LANG=de_DE.UTF-8\n",
    )
    assert read_settings(root) == Settings("de", "de-neo", "America/New_York", "de_DE.UTF-8")


def test_missing_files_give_the_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path) == Settings("us", "us", "UTC", "C.UTF-8")


def test_odd_files_give_the_defaults(tmp_path: Path) -> None:
    root = lay(tmp_path, etc__default__keyboard='XKBLAYOUT="$(reboot)"\n', etc__timezone="../../etc/shadow\n")
    (root / "etc/localtime").symlink_to("/etc/zoneinfo/../passwd")
    assert read_settings(root) == Settings("us", "us", "UTC", "C.UTF-8")


def test_root_provisions_for_who_became_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setenv("DOAS_USER", "al")
    assert current_user() == "al"
    for name in ("john.doe", "Alice", "0xneo"):
        monkeypatch.setenv("DOAS_USER", name)
        assert current_user() == name
    monkeypatch.setenv("DOAS_USER", "DOM\\alice")
    with pytest.raises(ValueRefusedError, match="the host gets your user name") as raised:
        current_user()
    assert raised.value.hint == "give another name: --username alice"
    monkeypatch.delenv("DOAS_USER")
    monkeypatch.delenv("SUDO_USER", raising=False)
    with pytest.raises(ValueRefusedError, match="root"):
        current_user()
