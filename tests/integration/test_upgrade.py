# SPDX-License-Identifier: Apache-2.0
"""`tower upgrade` with the boot device in this machine, and the medium of the thin client.

Over the network: tests/network/test_upgrade.py; what a host writes by itself: test_boot_devices.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tower.disk import receipt
from tower.disk.receipt import Stage

from tests.integration.disks import AGAIN, make_builds, newer, provisioned, run
from tests.unit.runtime.disks import BOOT, MIB, check_disk, garbage, write_manifest


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def vm(home: Path, builds: Path, tmp_path: Path) -> Path:
    """The disk of host `vm`, of version 1.2.0, which answered."""
    return provisioned(home, builds, tmp_path, "vm")


def check(home: Path, disk: Path, tmp_path: Path) -> None:
    check_disk(disk, tmp_path)
    folder = home / ".local/tower/hosts/vm"
    for name in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json"):
        argv = ("mcopy", "-i", f"{disk}@@{BOOT[0]}", f"::{name}", "-")
        assert subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout == (folder / name).read_bytes(), name
    assert "INSTALLATION_TYPE='upgrade'" in (folder / "tower.env").read_text()
    found = receipt.read(folder / "receipt.json")
    assert (found.stage, found.version) == (Stage.WRITTEN, "1.3.0")


KEPT = ("crypto_keyfile.bin", "id_ed25519", "id_ed25519.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "world")


def test_a_boot_device_in_this_machine(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    folder = home / ".local/tower/hosts/vm"
    before = {name: (folder / name).read_bytes() for name in KEPT}
    settings, config = (folder / "tower.env").read_text(), (home / ".local/tower/config").read_bytes()
    disk = vm.read_bytes()
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(vm))
    assert json.loads(run(home, *argv, "--dry-run"))["version"] == "1.2.0 becomes 1.3.0"
    assert vm.read_bytes() == disk
    found = json.loads(run(home, *argv))
    assert (found["state"], found["version"], found["next"]) == ("written", "1.3.0", "tower upgrade --resume vm")
    check(home, vm, tmp_path)
    assert {name: (folder / name).read_bytes() for name in KEPT} == before
    assert (folder / "tower.env").read_text() == settings.replace("'install'", "'upgrade'")
    assert (home / ".local/tower/config").read_bytes() == config


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("disk.make._grow", signal.SIGKILL),
        ("disk.flash._fill", signal.SIGINT),
        ("upgrade.upgrade.adopt", signal.SIGKILL),
        ("upgrade.upgrade.write_file", signal.SIGTERM),
    ],
)
def test_stopped_and_continued(home: Path, builds: Path, vm: Path, tmp_path: Path, step: str, number: signal.Signals) -> None:
    module, _, name = step.rpartition(".")
    code = (
        f"import os, signal\nfrom tower.cli import main as cli; import tower.{module} as module\nwhole = module.{name}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def stop(*a, **k):\n    os.kill(os.getpid(), {int(number)})\n    return whole(*a, **k)\nmodule.{name} = stop"
    )
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(vm))
    run(home, *argv, status=-9 if number is signal.SIGKILL else 128 + number, code=code)
    assert "has already begun" in run(home, *argv, status=11)
    run(home, "upgrade", "--resume", "vm", *AGAIN)
    check(home, vm, tmp_path)


def test_the_disk_of_another_host_is_refused(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    other = provisioned(home, builds, tmp_path, "db")
    before = other.read_bytes()
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file")
    assert "that of host db" in run(home, *argv, str(other), status=14)
    nothing = tmp_path / "nothing"
    nothing.write_bytes(garbage(96 * MIB))
    assert "no host's receipt" in run(home, *argv, str(nothing), status=14)
    assert other.read_bytes() == before
    assert not (home / ".local/tower/hosts/vm/upgrade").exists()
    moved = tmp_path / "moved"
    shutil.copyfile(vm, moved)
    run(home, *argv, str(moved))
    assert vm.read_bytes() != moved.read_bytes()
    check(home, moved, tmp_path)


def test_risky_upgrades_are_refused_or_ask_for_an_option(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    path = home / ".local/tower/hosts/vm/receipt.json"
    found = receipt.read(path)
    (old,) = builds.glob("*.img.zst")
    argv = ("upgrade", "vm", *AGAIN, "--device-file", str(vm), "--dry-run", "--image")
    assert "very image" in json.loads(run(home, *argv, str(old)))["next"]
    assert json.loads(run(home, *argv, str(old), "--again"))["version"] == "1.2.0 becomes 1.2.0"
    receipt.write(path, found.at(Stage.WRITTEN))
    assert "never answered" in run(home, *argv, str(old), status=11)
    receipt.write(path, found)
    settings = home / ".local/tower/hosts/vm/tower.env"
    settings.write_text(settings.read_text().replace("'required'", "'none'"))
    assert "--lose-files" in run(home, *argv, str(old), status=11)
    run(home, *argv, str(old), "--lose-files")
    assert "no upgrade has begun" in run(home, "upgrade", "--resume", "vm", status=11)


def test_a_medium_for_the_thin_client(home: Path, builds: Path, tmp_path: Path) -> None:
    (image,) = builds.glob("*.img.zst")
    folder = tmp_path / "media"
    folder.mkdir()
    iso = folder / "toweros-thinclient-1.3.0-lab-x86_64.iso"
    with iso.open("wb") as out:
        subprocess.run(["zstd", "-dcq", image], stdout=out, check=True, timeout=30)
    shutil.copyfile(f"{image}.bmap", f"{iso}.bmap")
    write_manifest(iso)
    stick = tmp_path / "stick.img"
    argv = ("upgrade", "thinclient", "--image", str(iso), "--device-file", str(stick), "--yes", "--json")
    assert "not signed" in run(home, *argv, status=13)
    found = json.loads(run(home, *argv, "--unsigned", "--dry-run"))
    assert not stick.exists()
    found = json.loads(run(home, *argv, "--unsigned"))
    assert f"start from {stick}" in found["next"]
    assert "tower setup --upgrade" in found["next"]
    assert stick.read_bytes() == iso.read_bytes()
    data = bytearray(iso.read_bytes())
    data[-1] ^= 1
    iso.write_bytes(data)
    assert "sha256" in run(home, *argv, "--unsigned", status=13)
