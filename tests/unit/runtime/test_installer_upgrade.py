# SPDX-License-Identifier: Apache-2.0
"""An upgrade of an installed thin client: which system is meant, what is carried over, what a cut-off run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tower.base.errors import DeviceError, StateError, TowerError, ValueRefusedError
from tower.base.view import View
from tower.cli.main import main
from tower.disk.device import Disk
from tower.installer import disks, existing, installation, live_medium

from tests.unit.runtime.test_installer import disk, found_disks, row, stick, text, watched


def an_account(root: Path, *rows: str, shadow: str = "root:!::0:::::\nal:$6$x:19000:0:99999:7:::\n") -> existing.Account:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/passwd").write_text("".join(f"{row}\n" for row in ("root:x:0:0:root:/root:/bin/sh", *rows)))
    (root / "etc/shadow").write_text(shadow)
    return existing.read_account(root)


def test_the_user_of_an_installed_system(tmp_path: Path) -> None:
    rows = ("guest:x:405:100:guest:/dev/null:/sbin/nologin", "nobody:x:65534:65534:nobody:/:/sbin/nologin")
    found = an_account(tmp_path, *rows, "al:x:1000:1000::/home/al:/bin/sh")
    assert found == existing.Account("al", 1000, "$6$x")


@pytest.mark.parametrize(
    ("rows", "shadow"),
    [
        ((), None),
        (("al:x:1000:1000::/home/al:/bin/sh", "bo:x:1001:1001::/home/bo:/bin/sh"), None),
        (("al:x:1000:1000::/home/al:/bin/sh",), "root:!::0:::::\n"),
        (("al:x:1000",), None),
    ],
)
def test_a_system_without_exactly_one_valid_user_is_refused(tmp_path: Path, rows: tuple[str, ...], shadow: str | None) -> None:
    with pytest.raises(StateError, match="an installed TowerOS has one"):
        an_account(tmp_path, *rows, **({} if shadow is None else {"shadow": shadow}))
    with pytest.raises(StateError):
        existing.read_account(tmp_path / "empty")


def laid_aside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing, "TARGET", root)
    monkeypatch.setattr(existing, "KEPT", root / "home/.tower-upgrade")
    (root / "home").mkdir(parents=True, exist_ok=True)


def test_settings_of_the_user_are_carried_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: what an upgrade that was cut off has laid aside is not replaced by what is left of the old system."""
    laid_aside(tmp_path, monkeypatch)
    an_account(tmp_path, "al:x:1000:1000::/home/al:/bin/sh")
    (tmp_path / "etc/keymap").mkdir()
    (tmp_path / "etc/keymap/fr.bmap.gz").write_bytes(b"map")
    (tmp_path / "etc/localtime").symlink_to("/etc/zoneinfo/Europe/Paris")
    assert existing.keep().name == "al"
    assert (tmp_path / "home/.tower-upgrade").stat().st_mode & 0o777 == 0o700
    shutil.rmtree(tmp_path / "etc")
    assert existing.keep().password_hash == "$6$x"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").write_bytes(b"UTC")
    (tmp_path / "etc/apk").mkdir()
    (tmp_path / "etc/apk/repositories").write_text(NEW_SERVERS)
    existing.restore()
    assert (tmp_path / "etc/keymap/fr.bmap.gz").read_bytes() == b"map"
    assert (tmp_path / "etc/localtime").readlink() == Path("/etc/zoneinfo/Europe/Paris")
    existing.forget()
    assert not list((tmp_path / "home").iterdir())


NEW_SERVERS = "http://a.test/v3.24/main\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", NEW_SERVERS),
        ("# none\n\n", NEW_SERVERS),
        ("http://a.test/v3.23/main\n", NEW_SERVERS),
        # Those that the user has added stay.
        (
            "http://b.test/alpine/v3.9/main\n@edge http://b.test/alpine/edge/testing\n/mnt/own\n",
            "http://b.test/alpine/v3.24/main\n@edge http://b.test/alpine/edge/testing\n/mnt/own\n",
        ),
    ],
)
def test_package_servers_are_kept_and_their_branch_is_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    laid_aside(tmp_path, monkeypatch)
    an_account(tmp_path, "al:x:1000:1000::/home/al:/bin/sh")
    (tmp_path / "etc/apk").mkdir()
    (tmp_path / "etc/apk/repositories").write_text(old)
    existing.keep()
    (tmp_path / "etc/apk/repositories").write_text(NEW_SERVERS)
    existing.restore()
    assert (tmp_path / "etc/apk/repositories").read_text() == new


PARTS = {"sda": {"tower-crypt": ["sda1"]}, "sdb": {"tower-boot": ["sdb1"]}, "sdc": {"tower-boot": ["sdc1"]}}


@pytest.mark.parametrize(
    ("keys", "opening", "said"),
    [
        ({}, set(), "locked, and no boot device of a TowerOS is here"),
        ({"sdb1": b"other"}, {b"right"}, "the key on /dev/sdb .* does not open it"),
        ({"sdb1": b""}, {b""}, "the key on /dev/sdb .* does not open it"),
        ({"sdb1": b"right", "sdc1": b"right"}, {b"right"}, "there is more than one: /dev/sda .* with /dev/sdb .*; /dev/sda"),
        ({"sdb1": b"other", "sdc1": b"right"}, {b"right"}, ""),
    ],
)
def test_the_boot_device_is_found_by_the_key_that_opens_the_root_disk(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, bytes], opening: set[bytes], said: str
) -> None:
    def named(one: Disk, name: str) -> list[Path]:
        parts = PARTS.get(one.path.name, {}).get(name, [])
        return [Path("/dev", part) for part in parts if name == "tower-crypt" or part in keys]

    monkeypatch.setattr(disks, "parts_named", named)
    monkeypatch.setattr(disks, "opens", lambda _, key: key in opening)
    monkeypatch.setattr(existing, "_key", lambda part: keys[part.name])
    found = found_disks(row("sda"), stick("sdb"), stick("sdc"))
    if said:
        with pytest.raises(DeviceError, match=said):
            existing.find_existing(found)
        return
    one = existing.find_existing(found)
    assert (one.root.path, one.boot.path, one.key) == (Path("/dev/sda"), Path("/dev/sdc"), b"right")
    assert "right" not in repr(one)


def test_no_installed_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "parts_named", lambda *_: [])
    with pytest.raises(StateError, match="no disk of this machine holds an installed TowerOS"):
        existing.find_existing(found_disks(row("sda"), stick()))


def test_an_upgrade_takes_no_answers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers"
    path.write_bytes(text())
    assert main(["setup", "--upgrade", "--answers", str(path)]) == ValueRefusedError.exit_status
    assert "--answers does not apply to an upgrade" in capfd.readouterr().err


def test_an_interrupted_upgrade_says_that_home_is_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "LOG", tmp_path / "log")
    watched(tmp_path, monkeypatch, "sda", "sdb")
    monkeypatch.setattr(disks, "release", lambda: None)
    monkeypatch.setattr(live_medium, "check", lambda *_: None)
    monkeypatch.setattr(disks, "mount_old", lambda: None)
    monkeypatch.setattr(disks, "open_volumes", lambda *_: (disks.Made("a", "b"), True))

    def failing(*_: object) -> None:
        raise TowerError("it broke")

    old = existing.Existing(disk("sda"), disk("sdb"), Path("/dev/sda1"), Path("/dev/sdb1"), b"secret key")
    for place, name, said in [
        (existing, "keep", "the system is as it was"),
        (disks, "empty_root", "/home and the key are whole"),
    ]:
        monkeypatch.setattr(place, name, failing)
        with pytest.raises(TowerError) as caught:
            installation.SystemUpgrade(old, tmp_path, View()).run()
        assert said in caught.value.hint
        monkeypatch.setattr(place, name, lambda *_: existing.Account("al", 1000, "$6$x"))
    assert "secret" not in (tmp_path / "log").read_text()
