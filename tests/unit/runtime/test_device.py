# SPDX-License-Identifier: Apache-2.0
"""Which disk may be written: what lsblk says, and what must never be chosen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower.base.errors import DeviceError
from tower.disk.device import Disk, check_same, choose, doubt, human_size, parse_disks
from tower.disk.ownnames import names

GB = 10**9


def row(name: str, **more: Any) -> dict[str, Any]:
    base = {
        "name": name, "path": f"/dev/{name}", "type": "disk", "size": 16 * GB, "rm": True, "hotplug": True, "ro": False,
        "serial": "S1", "model": "Stick", "tran": "usb", "mountpoints": [None], "uuid": None, "partuuid": None,
        "maj:min": "", "log-sec": 512,
    }  # fmt: skip
    return {**base, **more}


def disks(*rows: dict[str, Any], root: Path = Path("/nonexistent")) -> tuple[Disk, ...]:
    return parse_disks(json.dumps({"blockdevices": rows}).encode(), root)


def part(name: str, **more: Any) -> dict[str, Any]:
    return row(name, **{"type": "part", **more})


SYSTEM = row("nvme0n1", rm=False, hotplug=False, tran="nvme", children=[part("nvme0n1p1", mountpoints=["/"])])


def test_the_only_one_that_may_be() -> None:
    found = choose(disks(SYSTEM, row("sdb")), GB)
    assert found.path == Path("/dev/sdb")
    assert str(found) == "/dev/sdb (Stick, serial S1, usb, 16 GB)"


REFUSED = {
    "mounted": (row("sdb", children=[part("sdb1", mountpoints=["/media/usb"])]), "in use: /media/usb"),
    "swap": (row("sdb", mountpoints=["[SWAP]"]), "in use"),
    "mounted through LUKS and LVM": (
        row(
            "sdb", children=[part("sdb1", children=[row("c", type="crypt", children=[row("v", type="lvm", mountpoints=["/"])])])]
        ),
        "in use: /",
    ),
    "part of LVM": (
        row("sdb", children=[part("sdb1", children=[row("vg-lv", type="lvm", path="/dev/mapper/vg-lv")])]),
        r"in use: /dev/mapper/vg-lv \(lvm\) is built on it",
    ),
    "part of a RAID": (row("sdb", children=[row("md0", type="raid1")]), r"in use: /dev/md0 \(raid1\) is built on it"),
    "opened LUKS": (row("sdb", children=[part("sdb1", children=[row("c", type="crypt")])]), "in use: /dev/c"),
    "one of several paths": (row("sdb", children=[row("mpatha", type="mpath")]), "in use: /dev/mpatha"),
    "sectors of 4096 bytes": (row("sdb", **{"log-sec": 4096}), "has sectors of 4096 bytes"),
    "sectors, as older ones write it": (row("sdb", **{"log-sec": "2048"}), "has sectors of 2048 bytes"),
    "a little small": (row("sdb", size=GB - 512), f"has {GB - 512} bytes, {GB} are needed"),
    "built in": (row("sda", rm=False, hotplug=False, tran="sata"), "not removable"),
    "write-protected": (row("sdb", ro=True), "write-protected"),
    "small": (row("sdb", size=10**8), "has 100 MB, 1 GB are needed"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("named", [False, True])
def test_refused(name: str, named: bool) -> None:
    what, reason = REFUSED[name]
    with pytest.raises(DeviceError, match=reason):
        choose(disks(what), GB, wanted=Path(what["path"]) if named else None)


OWN = {
    "etc/fstab": "UUID=AB12-34CD /boot vfat noauto 0 0\n",
    "proc/cmdline": "root=/dev/vg/root cryptkey=PARTUUID=0001-02:vfat:/key\n",
    "etc/crypttab": "root /dev/sdb1 none\n",
}


@pytest.mark.parametrize("file", OWN)
def test_the_boot_device_of_this_system_is_no_choice_even_unmounted(tmp_path: Path, file: str) -> None:
    stick = row("sdb", children=[part("sdb1", uuid="ab12-34cd"), part("sdb2", partuuid="0001-02")])
    assert choose(disks(stick, root=tmp_path), GB).path == Path("/dev/sdb")
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(OWN[file])
    with pytest.raises(DeviceError, match="belongs to this system"):
        choose(disks(stick, root=tmp_path), GB)


def test_alpines_names_for_whatever_is_plugged_in_name_no_disk(tmp_path: Path) -> None:
    """Each Alpine has these lines; mdev makes /dev/usbdisk a link to the stick that came last."""
    (tmp_path / "etc").mkdir()
    fstab = "/dev/cdrom\t/media/cdrom\tiso9660\tnoauto,ro 0 0\n/dev/usbdisk\t/media/usb\tvfat\tnoauto\t0 0\n/dev/sda1 / ext4\n"
    (tmp_path / "etc/fstab").write_text(fstab)
    assert names(tmp_path).paths == {"/dev/sda1", os.path.realpath("/dev/sda1")}


def test_names_of_disks_in_the_systems_files(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "pci-0000:00:14.0-usb"
    link.symlink_to("/dev/sdz")
    fstab = f'LABEL=BOOT /boot vfat noauto,defaults 0 0\nPARTLABEL="root" / ext4 x\n{link} /x ext4 defaults\n'
    (tmp_path / "etc/fstab").write_text(fstab.replace(str(tmp_path), "/dev"))
    found = names(tmp_path)
    assert found.have([], ["BOOT"])
    assert found.have([], ["root"])
    assert found.have([], [], [f"/dev/{link.name}"])
    assert not found.have([], ["boot", "noauto", "defaults", "ext4"])
    assert not found.have([])


def test_cards_in_a_built_in_reader(tmp_path: Path) -> None:
    slot = row("mmcblk0", rm=False, hotplug=False, tran=None)
    kind = tmp_path / "sys/block/mmcblk0/device/type"
    kind.parent.mkdir(parents=True)
    kind.write_text("SD\n")
    assert choose(disks(slot, root=tmp_path), GB).kind == "card"
    kind.write_text("MMC\n")
    with pytest.raises(DeviceError, match="not removable"):
        choose(disks(slot, root=tmp_path), GB)


def test_the_serial_number_of_a_stick_without_udev(tmp_path: Path) -> None:
    """On a system without udev lsblk knows none."""
    stick = tmp_path / "sys/devices/usb1/1-1"
    place = stick / "1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb"
    place.mkdir(parents=True)
    (tmp_path / "sys/block").mkdir()
    (tmp_path / "sys/block/sdb").symlink_to(place)
    nameless = {**row("sdb"), "serial": None}
    assert disks(nameless, root=tmp_path)[0].serial == ""
    (stick / "idVendor").write_text("46f4\n")
    assert disks(nameless, root=tmp_path)[0].serial == ""
    (stick / "serial").write_text("ABC\n")
    assert disks(nameless, root=tmp_path)[0].serial == "ABC"


@pytest.mark.parametrize(
    ("name", "content"), [("serial", b"V1\n"), ("device/serial", b"V1  \n"), ("device/vpd_pg80", b"\0\x80\0\x08  V1    ")]
)
def test_serial_of_a_disk_that_is_built_in(tmp_path: Path, name: str, content: bytes) -> None:
    """Of virtio, NVMe and SATA, where there is no udev that tells lsblk."""
    place = tmp_path / "sys/block/vda" / name
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    assert disks(row("vda", serial=None), root=tmp_path)[0].serial == "V1"


def test_several_are_not_guessed_at() -> None:
    found = disks(row("sdb"), row("sdc"))
    with pytest.raises(DeviceError, match="2 disks"):
        choose(found, GB)
    assert choose(found, GB, wanted=Path("/dev/sdc")).path == Path("/dev/sdc")


def test_a_loop_device_must_be_named() -> None:
    found = disks(row("loop0", type="loop", rm=False, hotplug=False, tran=None))
    with pytest.raises(DeviceError, match="no disk"):
        choose(found, GB)
    assert choose(found, GB, wanted=Path("/dev/loop0")).kind == "loop"


@pytest.mark.parametrize("wanted", ["/dev/sdb1", "/dev/null", "/etc/passwd", "/dev/none"])
def test_a_path_that_is_not_a_disk_is_refused(wanted: str) -> None:
    with pytest.raises(DeviceError, match="not a disk"):
        choose(disks(row("sdb", children=[part("sdb1")])), GB, wanted=Path(wanted))


def test_a_link_to_a_disk_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "usb-stick"
    link.symlink_to("/dev/sdb")
    assert choose(disks(row("sdb")), GB, wanted=link).path == Path("/dev/sdb")


def test_a_device_is_found_by_its_number(tmp_path: Path) -> None:
    """Whatever it is called."""
    number = f"{os.major(Path('/dev/null').stat().st_rdev)}:{os.minor(Path('/dev/null').stat().st_rdev)}"
    found = disks(row("sdb", **{"maj:min": number}))
    with pytest.raises(DeviceError, match="not a disk"):
        choose(found, GB, wanted=Path("/dev/null"))  # a character device of the same number
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    node = tmp_path / "node"
    os.mknod(node, 0o060600, os.makedev(240, 77))
    for rows, here in ((row("sdb", **{"maj:min": "240:77"}), True), (row("sdb", path=str(node), **{"maj:min": "240:78"}), False)):
        if here:
            assert choose(disks(rows), GB, wanted=node).number == "240:77"
        else:
            with pytest.raises(DeviceError, match="not a disk"):
                choose(disks(rows), GB, wanted=node)


def test_another_disk_at_the_same_place_is_noticed() -> None:
    (one,) = disks(row("sdb"))
    check_same(one, one)
    for other in disks(row("sdb", serial="S2"), row("sdb", size=17 * GB), row("sdb", model="Other")):
        with pytest.raises(DeviceError, match="not the disk"):
            check_same(one, other)


def test_a_disk_is_counted_when_it_comes() -> None:
    rows = json.dumps({"blockdevices": [row("sdb", **{"maj:min": "8:16"})]}).encode()
    seen = {parse_disks(rows, Path("/nonexistent"), sequences)[0].identity for sequences in ({"sdb": "3"}, {"sdb": "4"}, {})}
    assert len(seen) == 3
    assert all(" 8:16 " in identity for identity in seen)


DOUBTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "none": ([row("sdb"), row("sdc", serial="S2")], ""),
    "no number": ([row("sdb", serial=None)], "/dev/sdb has no serial number: tower could not tell another disk of 16 GB"),
    "twins": ([row("sdb", serial=None), row("sdc", serial="")], "/dev/sdb and /dev/sdc have the same size and no serial number"),
    "one number for all": ([row("sdb"), row("sdc")], "/dev/sdb and /dev/sdc have the same size and the same serial number"),
    "one in use": ([row("sdb"), row("sdc", mountpoints=["/"])], "/dev/sdb and /dev/sdc have the same size"),
    "of another size": ([row("sdb", serial=None), row("sdc", serial=None, size=GB)], "/dev/sdb has no serial number"),
}


@pytest.mark.parametrize("kind", DOUBTS)
def test_disks_that_cannot_be_told_apart(kind: str) -> None:
    rows, words = DOUBTS[kind]
    found = disks(*rows)
    said = doubt(found[0], found)
    assert said.startswith(words)
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"blockdevices": [{}]}', b'{"blockdevices": [1]}', b"\xff", b'{"blockdevices": null}']
)
def test_odd_lists(data: bytes) -> None:
    with pytest.raises(DeviceError, match="lsblk"):
        parse_disks(data)


_LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
_ANY = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(row("x"))), _ANY) | _ANY)
def test_any_json_is_refused_or_read(value: object) -> None:
    try:
        parse_disks(json.dumps({"blockdevices": [value]}).encode(), Path("/nonexistent"))
    except DeviceError:
        pass


def test_names_of_disks_cannot_play_with_the_terminal() -> None:
    (found,) = disks(row("sdb", model="\x1b[2JStick", serial="a\nb"))
    assert str(found).isprintable()


@pytest.mark.parametrize(
    ("size", "text"), [(999, "999 bytes"), (16 * GB, "16 GB"), (1_500_000, "1.5 MB"), (999_999_488, "1 GB"), (2 * 10**12, "2 TB")]
)
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text
