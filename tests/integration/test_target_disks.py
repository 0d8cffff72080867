# SPDX-License-Identifier: Apache-2.0
"""Disks that must not be written: refused by every command that writes, before a byte is.

Loop devices stand for disks; the machine's own are never named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.base.errors import DeviceError
from tower.disk import receipt
from tower.disk.device import identity_of_open, list_disks
from tower.disk.receipt import Target
from tower.disk.target import open_target

from tests.integration.disks import AGAIN, COMMON, Refusals, begun, disk, make_builds, newer, provisioned, run, seen
from tests.unit.runtime.disks import MIB, check_disk, tool, write_manifest

RESUME = ("provision", "--resume", "vault", "--unsigned", "--no-wait")


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    return folder


# --- the same rules for every command that writes -----------------------------------------------------------------------


@dataclass(frozen=True)
class Writers:
    """A user whose every command that writes a disk or a file can be called, without the disk."""

    place: Path
    commands: dict[str, tuple[str, ...]]

    @property
    def home(self) -> Path:
        return self.place / "home"


@pytest.fixture(scope="module")
def made_writers(builds: Path, tmp_path_factory: pytest.TempPathFactory) -> Writers:
    place = tmp_path_factory.mktemp("writers")
    home = place / "home"
    home.mkdir()
    for name in ("vm", "db"):
        provisioned(home, builds, place, name, used=False)
    begun(home, "provision", "half", *COMMON, *newer(builds), "--device-file", str(place / "half.img"))
    begun(home, "upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(place / "vm.img"))
    _, image = newer(builds)
    iso = place / "media/toweros-thinclient-1.3.0-lab-x86_64.iso"
    iso.parent.mkdir()
    tool("zstd", "-q", "-d", image, "-o", iso)
    shutil.copyfile(f"{image}.bmap", f"{iso}.bmap")
    write_manifest(iso)
    commands = {
        "provision": ("provision", "new", *COMMON, "--image", image),
        "provision --resume": ("provision", "--resume", "half", *AGAIN),
        "upgrade": ("upgrade", "db", *AGAIN, "--other-device", "--image", image),
        "upgrade --resume": ("upgrade", "--resume", "vm", *AGAIN, "--other-device"),
        "upgrade thinclient": ("upgrade", "thinclient", "--unsigned", "--yes", "--image", str(iso)),
    }
    return Writers(place, commands)


@pytest.fixture
def writers(made_writers: Writers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    """What is tried must change nothing of theirs."""
    monkeypatch.setenv("HOME", str(made_writers.home))
    monkeypatch.chdir(made_writers.home)
    before = seen(made_writers.place)
    yield made_writers
    assert seen(made_writers.place) == before


@pytest.fixture
def refusals(writers: Writers, capsys: pytest.CaptureFixture[str]) -> Refusals:
    return Refusals(writers.home, capsys)


def test_files(refusals: Refusals, builds: Path, writers: Writers, subtests: pytest.Subtests) -> None:
    _, other = newer(builds)
    link, before = writers.place / "vm-2.img", seen(builds)
    for name, argv in writers.commands.items():
        image = Path(argv[-1] if "--image" in argv else other)
        link.hardlink_to(image)
        with subtests.test(name):
            for target in (image, f"{image}.bmap", writers.home / ".local/tower/hosts/db/tower.env", "/dev/none", "/proc/none"):
                refusals(*argv, "--device-file", target)
            refusals(*argv, "--device-file", link)
        link.unlink()
    assert seen(builds) == before


def test_sectors_that_are_not_those_of_images(
    refusals: Refusals, writers: Writers, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """The table of partitions would say other places, and the machine would not start."""
    for sector in (1024, 2048, 4096):
        with disk(tmp_path / "backing", 96 * MIB, "--sector-size", str(sector)) as device:
            before = seen(tmp_path / "backing")
            for name, argv in writers.commands.items():
                with subtests.test(name, sector=sector):
                    assert f"has sectors of {sector} bytes" in refusals(*argv, "--device", device)
            assert seen(tmp_path / "backing") == before


def test_a_disk_in_use(refusals: Refusals, writers: Writers, tmp_path: Path, subtests: pytest.Subtests) -> None:
    (tmp_path / "point").mkdir()
    with disk(tmp_path / "backing") as device:
        tool("mke2fs", "-q", "-F", "-t", "ext4", device)
        try:
            tool("mount", "-o", "ro", device, tmp_path / "point")
        except subprocess.CalledProcessError:
            pytest.skip("this machine mounts nothing")
        try:
            before = seen(tmp_path / "backing")
            for name, argv in writers.commands.items():
                with subtests.test(name):
                    assert f"is in use: {tmp_path / 'point'}" in refusals(*argv, "--device", device)
            assert seen(tmp_path / "backing") == before
        finally:
            tool("umount", tmp_path / "point")


def test_a_part_of_something_larger(refusals: Refusals, writers: Writers, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """What LVM writes onto the disks that it is made of, even while nothing is made of them."""
    with disk(tmp_path / "backing") as device:
        with device.open("r+b") as stream:
            stream.write(bytes(512) + b"LABELONE".ljust(24, b"\0") + b"LVM2 001")
        before = seen(tmp_path / "backing")
        for name, argv in writers.commands.items():
            with subtests.test(name):
                assert "is part of an LVM" in refusals(*argv, "--device", device)
        assert seen(tmp_path / "backing") == before


# --- swapped between the look and the writing ---------------------------------------------------------------------------

SWAP = """
import subprocess
from tower.cli import main as cli; from tower.disk import target
whole = target.opened_disk
def swapped(path, *args, **more):
    subprocess.run(["losetup", "--detach", {device!r}], check=True)
    subprocess.run(["losetup", *{options!r}, {device!r}, {other!r}], check=True)
    return whole(path, *args, **more)
target.opened_disk = swapped
"""


@pytest.mark.parametrize(
    ("size", "options"),
    [(96 * MIB, ()), (80 * MIB, ()), (112 * MIB, ()), (96 * MIB, ("--sector-size", "4096")), (96 * MIB, ("--read-only",))],
    ids=["same size", "smaller", "larger", "other sectors", "write-protected"],
)
def test_a_disk_that_is_swapped(home: Path, builds: Path, tmp_path: Path, size: int, options: tuple[str, ...]) -> None:
    """After it was looked at, and before it is opened: neither of them has a serial number."""
    first, other = tmp_path / "first", tmp_path / "other"
    other.write_bytes(b"another")
    os.truncate(other, size)
    with disk(first) as device:
        before = seen(tmp_path)
        code = SWAP.format(device=str(device), other=str(other), options=options)
        err = run(home, "provision", "vault", *COMMON, *newer(builds), "--device", str(device), status=14, code=code)
        assert "--resume vault" in err
        assert {name: data for name, data in seen(tmp_path).items() if name in before} == before
        if size == 96 * MIB and not options:
            # What was chosen can be written when it is back.
            tool("losetup", "--detach", device)
            tool("losetup", device, first)
            run(home, *RESUME, "--yes")
            check_disk(first, tmp_path)
    assert other.read_bytes().rstrip(b"\0") == b"another"


def test_a_device_that_leads_to_another_disk(builds: Path, tmp_path: Path) -> None:
    """By number: both disks stay, and the path leads to the other one."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    node = tmp_path / "node"
    with disk(tmp_path / "a") as one, disk(tmp_path / "b") as two:
        os.mknod(node, 0o600 | 0o060000, one.stat().st_rdev)
        found = next(found for found in list_disks() if found.path == one)
        with one.open("rb") as stream:
            assert identity_of_open(stream.fileno()) == found.identity
        target = Target(str(node), found.size, found.serial, found.model, found.kind, found.identity)
        _, image = newer(builds)
        with open_target(target, Path(image)) as medium:
            assert medium.size == 96 * MIB
        node.unlink()
        os.mknod(node, 0o600 | 0o060000, two.stat().st_rdev)
        with pytest.raises(DeviceError, match="is not the disk that was there"), open_target(target, Path(image)):
            pass
        node.unlink()
        node.write_bytes(b"no device any more")
        with pytest.raises(DeviceError, match="no longer a block device"), open_target(target, Path(image)):
            pass
        assert node.read_bytes() == b"no device any more"


def test_a_disk_that_is_gone_leaves_no_file(home: Path, builds: Path, tmp_path: Path) -> None:
    """A path below /dev that is no device any more is not made a file."""
    with disk(tmp_path / "a") as device:
        begun(home, "provision", "vault", *COMMON, *newer(builds), "--device", str(device))
    path = home / ".local/tower/hosts/vault/receipt.json"
    found = receipt.read(path)
    gone = "/dev/tower-test-none"
    path.write_text(path.read_text().replace(found.target.path, gone))
    assert "not a disk of this machine" in run(home, *RESUME, "--yes", status=14)
    with pytest.raises(DeviceError, match="No such file"), open_target(receipt.read(path).target, Path(found.image)):
        pass
    assert not Path(gone).exists()


# --- disks that cannot be told apart ------------------------------------------------------------------------------------


def said(home: Path, *argv: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    command = [sys.executable, "-P", "-m", "tower", *argv]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=120, check=True).stderr


@contextmanager
def taken_out(device: Path, backing: Path) -> Iterator[bytes]:
    """Take a disk out and put it back: `tower` cannot know that it is the same one."""
    tool("losetup", "--detach", device)
    tool("losetup", device, backing)
    yield backing.read_bytes()


def test_disks_of_one_size_without_serial_numbers(home: Path, builds: Path, tmp_path: Path) -> None:
    argv = ("provision", "vault", *COMMON, *newer(builds), "--device")
    size = 96 * MIB + 4096 * (os.getpid() % 4096)  # other loop devices of this machine have another one
    with disk(tmp_path / "a", size) as one, disk(tmp_path / "b", size + MIB) as other:
        assert f"{one} has no serial number: tower could not tell" in said(home, *argv, str(one), "--dry-run")
        with disk(tmp_path / "c", size) as twin:
            err = said(home, *argv, str(one), "--dry-run")
            assert f"{twin}" in err
            assert f"{other}" not in err
            assert "have the same size and no serial number: they cannot be told apart" in err
        begun(home, *argv, str(one))
        run(home, *RESUME)  # the very disk that was there before
        begun(home, "provision", "db", *argv[2:], str(other))
        resume = ("provision", "--resume", "db", "--unsigned", "--no-wait")
        with taken_out(other, tmp_path / "b") as before:
            err = run(home, *resume, status=10)
            assert "no serial number" in err
            assert "tower cannot know" in err
            assert (tmp_path / "b").read_bytes() == before
            run(home, *resume, "--yes")
            check_disk(tmp_path / "b", tmp_path)


def test_a_receipt_of_an_older_tower(home: Path, builds: Path, tmp_path: Path) -> None:
    """An old receipt does not name the disk, so `tower` asks about a disk without a serial number."""
    with disk(tmp_path / "a") as device:
        begun(home, "provision", "vault", *COMMON, *newer(builds), "--device", str(device))
        path = home / ".local/tower/hosts/vault/receipt.json"
        rows = json.loads(path.read_text())
        del rows["target"]["identity"]
        path.write_text(json.dumps(rows))
        assert "no serial number" in run(home, *RESUME, status=10)
        run(home, *RESUME, "--yes")
        check_disk(tmp_path / "a", tmp_path)


# --- whose disk it is ---------------------------------------------------------------------------------------------------


def test_a_disk_that_became_another_hosts(home: Path, builds: Path, tmp_path: Path) -> None:
    """At the path of the disk that was written lies another host's by now."""
    first, second = (provisioned(home, builds, tmp_path, name, used=False) for name in ("vm", "db"))
    second.replace(first)
    before = seen(tmp_path)
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(first))
    assert "that of host db" in run(home, *argv, status=14)
    assert seen(tmp_path) == before


def test_looking_changes_nothing(home: Path, builds: Path, tmp_path: Path) -> None:
    """A plan does not even make a file larger."""
    target = provisioned(home, builds, tmp_path, "vm", used=False)
    os.truncate(target, 60 * MIB)
    before = seen(tmp_path)
    run(home, "upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(target), "--dry-run")
    assert seen(tmp_path) == before
