# SPDX-License-Identifier: Apache-2.0
"""A new boot device for an installed thin client, and disks that are taken out or fail while they are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tower.base.errors import DeviceError, PackageError, StateError, TowerError, ValueRefusedError
from tower.base.view import View
from tower.cli.main import main
from tower.disk.device import identity_of
from tower.installer import disks, existing, installation, live_medium, system
from tower.installer.existing import Locked
from tower.installer.failing import DiskWatch
from tower.installer.plan import new_boot_device

from tests.unit.runtime.test_installer import disk, found_disks, plan_of, row, stick, watched

MIB = 1 << 20
VDA = "/dev/vda (Fast, serial VDA, sata, 68.7 GB)"
GONE = f"{VDA}: was taken out, or has lost its connection"


def watch(folder: Path, *names: str, said: str = "") -> tuple[DiskWatch, Path]:
    """DiskWatch disks of these names, which are there; what the kernel writes to is returned, too."""
    for name in names:
        (folder / "sys/block" / name).mkdir(parents=True)
    kernel = folder / "kmsg"
    kernel.write_text(said)
    return DiskWatch(tuple(disk(name) for name in names), kernel=kernel, root=folder), kernel


@pytest.mark.parametrize(
    "text",
    [
        "I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2",
        "blk_update_request: I/O error, dev vda, sector 2048 op 0x1:(WRITE)",
        "critical medium error, dev vda, sector 7 op 0x0:(READ) flags 0x0",
        "critical target error, dev vda, sector 7",
        "Buffer I/O error on dev vda1, logical block 3, lost async page write",
    ],
)
def test_an_error_of_the_kernel_names_the_disk(tmp_path: Path, text: str) -> None:
    found, kernel = watch(tmp_path, "vda", "sdb")
    assert found.trouble() == ""
    with kernel.open("a") as stream:
        stream.write(f"6,1,9,-;usb 1-1: new high-speed device\n SUBSYSTEM=usb\n3,812,123456,-;{text}\n SUBSYSTEM=block\n")
    assert found.trouble() == f"{VDA}: is failing: the kernel says: {text}"
    # It is not forgotten.
    assert found.trouble() != ""
    found.close()


@pytest.mark.parametrize(
    "text",
    [
        "I/O error, dev vdb, sector 2048",
        "I/O error, dev vdaa, sector 2048",
        "I/O error, dev sr0, sector 2048",
        "EXT4-fs (vda1): mounted filesystem",
        "vda: vda1",
    ],
)
def test_what_the_kernel_says_of_other_things_is_no_trouble(tmp_path: Path, text: str) -> None:
    found, kernel = watch(tmp_path, "vda")
    kernel.write_text(f"3,812,123456,-;{text}\n")
    assert found.trouble() == ""


def test_errors_from_before_do_not_count(tmp_path: Path) -> None:
    """Of a disk that has been replaced since, or that an earlier run has failed on."""
    found, _ = watch(tmp_path, "vda", said="3,1,1,-;I/O error, dev vda, sector 1\n")
    assert found.trouble() == ""


def test_a_disk_that_is_gone_is_named(tmp_path: Path) -> None:
    found, _ = watch(tmp_path, "vda", "sdb")
    (tmp_path / "sys/block/vda").rmdir()
    assert found.trouble() == GONE


def test_another_disk_in_its_place_is_not_the_same(tmp_path: Path) -> None:
    place = tmp_path / "sys/block/vda"
    place.mkdir(parents=True)
    (place / "diskseq").write_text("4\n")
    one = replace(disk("vda"), number="254:0", identity=identity_of("254:0", "4"))
    found = DiskWatch((one,), kernel=tmp_path / "none", root=tmp_path)
    assert found.trouble() == ""
    (place / "diskseq").write_text("5\n")
    assert found.trouble() == GONE


def fake_steps(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(installation, "LOG", folder / "log")
    monkeypatch.setattr(disks, "release", lambda: None)
    monkeypatch.setattr(live_medium, "check", lambda *_: None)
    monkeypatch.setattr(system, "add_tools", lambda: None)


def test_a_disk_pulled_out_ends_the_installation_after_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has failed by itself: what was written waits in memory."""
    fake_steps(monkeypatch, tmp_path)
    watched(tmp_path, monkeypatch, "sda", "sdb")
    monkeypatch.setattr(disks, "partition", lambda _: (Path("a"), Path("b")))
    monkeypatch.setattr(disks, "encrypt", lambda *_: (tmp_path / "sys/block/sdb").rmdir())
    with pytest.raises(DeviceError) as caught:
        installation.SystemInstallation(plan_of(row("sda"), stick()), tmp_path, View()).run()
    assert caught.value.message == "/dev/sdb (Stick, serial STICK, usb, 1.07 GB): was taken out, or has lost its connection"
    assert caught.value.hint.startswith("put it in again, or take another one; /dev/sda and /dev/sdb are wiped and hold no whole")


def test_a_failing_disk_is_named_instead_of_the_program_that_met_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps(monkeypatch, tmp_path)
    kernel = watched(tmp_path, monkeypatch, "sda", "sdb")

    def failing(_: object) -> None:
        kernel.write_text("3,9,9,-;I/O error, dev sda, sector 9\n")
        raise TowerError("sfdisk: ended with 1")

    monkeypatch.setattr(disks, "partition", failing)
    with pytest.raises(
        DeviceError, match=r"/dev/sda \(.*\): is failing: the kernel says: I/O error, dev sda, sector 9"
    ) as caught:
        installation.SystemInstallation(plan_of(row("sda"), stick()), tmp_path, View()).run()
    assert "are wiped" in caught.value.hint
    # What the program said is in the log.
    assert "failed: sfdisk: ended with 1" in (tmp_path / "log").read_text()


# --- a new boot device ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--repair",), "--repair needs a key and a disk"),
        (("--repair", "--key-file", "k"), "--repair needs a key and a disk"),
        (("--repair", "--boot-device", "sdb"), "--repair needs a key and a disk"),
        (("--key-file", "k", "--boot-device", "sdb"), "apply to --repair alone"),
        (("--upgrade", "--key-file", "k"), "apply to --repair alone"),
        (("--repair", "--upgrade", "--key-file", "k", "--boot-device", "sdb"), "exclude each other"),
        (("--repair", "--answers", "a", "--key-file", "k", "--boot-device", "sdb"), "--answers does not apply to a repair"),
    ],
)
def test_options_that_do_not_belong_together(argv: tuple[str, ...], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["setup", *argv]) == ValueRefusedError.exit_status
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(("size", "said"), [(0, "has no bytes"), (existing.KEY_MOST + 1, "it is no key file")])
def test_a_file_that_is_no_key(tmp_path: Path, size: int, said: str) -> None:
    path = tmp_path / "key"
    with path.open("wb") as stream:
        stream.truncate(size)
    with pytest.raises(StateError, match=said):
        existing.read_key(path)
    with pytest.raises(StateError, match="No such file"):
        existing.read_key(tmp_path / "none")
    path.write_bytes(b"\0\n key")
    assert existing.read_key(path) == b"\0\n key"


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ({"sda1"}, ""),
        (set(), "/dev/sda .*, /dev/sdd .*: this key does not open it"),
        ({"sda1", "sdd1"}, "the key opens /dev/sda .* and /dev/sdd"),
    ],
)
def test_the_root_disk_is_the_one_that_the_key_opens(monkeypatch: pytest.MonkeyPatch, opened: set[str], said: str) -> None:
    monkeypatch.setattr(disks, "parts_named", lambda one, _: [Path(f"{one.path}1")] if one.path.name in ("sda", "sdd") else [])
    monkeypatch.setattr(disks, "opens", lambda part, _: part.name in opened)
    found = found_disks(row("sda"), stick(), row("sdd"))
    if said:
        with pytest.raises(DeviceError, match=said):
            existing.find_root(found, b"secret key")
        return
    one = existing.find_root(found, b"secret key")
    assert (one.root.path, one.part) == (Path("/dev/sda"), Path("/dev/sda1"))
    assert "secret" not in repr(one)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("STICK", ""),
        ("/dev/sda", "has the system"),
        ("SDD", "is not removable"),
        ("/dev/sde", "has 134 MB, 268 MB are needed"),
        ("/dev/sdz", "--boot-device: /dev/sdz is not a disk"),
    ],
)
def test_a_disk_for_the_new_boot_device(text: str, said: str) -> None:
    found = found_disks(row("sda", rm=True), stick(), row("sdd"), stick("sde", serial="SMALL", size=128 * MIB))
    if not said:
        assert new_boot_device(text, found[0], found).path == Path("/dev/sdb")
        return
    with pytest.raises(DeviceError, match=said) as caught:
        new_boot_device(text, found[0], found)
    if text != "/dev/sdz":
        assert "/dev/sdb" in caught.value.hint
        assert "/dev/sda (" not in caught.value.hint


def installed(root: Path, *rows: str) -> None:
    (root / "lib/apk/db").mkdir(parents=True)
    (root / "lib/apk/db/installed").write_text("\n\n".join(rows) + "\n\n")


def test_the_version_of_an_installed_package(tmp_path: Path) -> None:
    rows = (
        "C:Q1x\nP:linux-lts-doc\nV:1-r0\nA:x86_64",
        "C:Q1y\nP:linux-lts\nV:6.12.5-r0\nA:x86_64\nF:boot\nR:vmlinuz-lts",
        "P:zlib\nV:2",
    )
    installed(tmp_path, *rows)
    assert system.installed_version(tmp_path, "linux-lts") == "6.12.5-r0"
    assert system.installed_version(tmp_path, "zlib") == "2"
    assert system.installed_version(tmp_path, "linux") == ""
    assert system.installed_version(tmp_path / "none", "zlib") == ""


def test_the_kernel_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules are not in the system."""
    monkeypatch.setattr(system, "TARGET", tmp_path)
    installed(tmp_path, "P:linux-lts\nV:6.12.5-r0")
    with pytest.raises(PackageError, match=r"the system has linux-lts 6\.12\.5-r0, the medium none") as caught:
        system.add_kernel(tmp_path / "medium/toweros")
    assert "tower setup --upgrade" in caught.value.hint


def test_the_new_boot_device_replaces_the_old_one_in_fstab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "TARGET", tmp_path)
    (tmp_path / "etc").mkdir()
    kept = "# /boot is on the boot device\n/dev/tower/root\t/\text4\trw\t0 1\nnas:/x /mnt nfs ro 0 0\n\n"
    (tmp_path / "etc/fstab").write_text(f"{kept}UUID=AAAA-BBBB\t/boot\tvfat\trw\t0 0\n")
    system.boot_mount(disks.Made("luks", "1A2B-3C4D"))
    new = "UUID=1A2B-3C4D\t/boot\tvfat\trw,nodev,nosuid,noexec,umask=0077\t0 0\n"
    assert (tmp_path / "etc/fstab").read_text() == f"{kept}{new}"


def test_an_interrupted_repair_says_what_the_boot_device_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps(monkeypatch, tmp_path)
    watched(tmp_path, monkeypatch, "sda", "sdb")
    monkeypatch.setattr(disks, "boot_file_system", lambda _: "1A2B-3C4D")
    monkeypatch.setattr(disks, "mount", lambda _: None)
    monkeypatch.setattr(disks, "sync_boot", lambda: None)

    def failing(*_: object) -> None:
        raise TowerError("it broke")

    old = Locked(disk("sda"), Path("/dev/sda1"), b"secret key")
    places = [
        (disks, "open_root", "no disk was changed"),
        (disks, "partition_boot", "/dev/sdb is wiped, the root disk is as it was"),
        (system, "write_key", "/dev/sdb is wiped"),
        (system, "add_kernel", "/dev/sdb has the key, but starts nothing yet; the root disk is as it was"),
    ]
    for place, name, said in places:
        monkeypatch.setattr(place, name, failing)
        with pytest.raises(TowerError) as caught:
            installation.BootDeviceRepair(old, disk("sdb"), tmp_path, View()).run()
        assert caught.value.message == "it broke"
        assert said in caught.value.hint
        monkeypatch.setattr(place, name, lambda *_: "x")
    assert "secret" not in (tmp_path / "log").read_text()
