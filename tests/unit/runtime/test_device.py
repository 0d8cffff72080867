# SPDX-License-Identifier: Apache-2.0
"""Which disk may be written: what lsblk says, and what must never be chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tower.device import Disk, check_same, choose, human_size, parse_disks
from tower.errors import DeviceError

GB = 10**9


def row(name: str, **more: Any) -> dict[str, Any]:
    base = {
        "name": name, "path": f"/dev/{name}", "type": "disk", "size": 16 * GB, "rm": True, "hotplug": True, "ro": False,
        "serial": "S1", "model": "Stick", "tran": "usb", "mountpoints": [None], "uuid": None, "partuuid": None,
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


def test_the_boot_device_of_this_system_is_no_choice_even_unmounted(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc").mkdir()
    stick = row("sdb", children=[part("sdb1", uuid="AB12-34CD"), part("sdb2", partuuid="0001-02")])
    for file, text in (
        ("etc/fstab", "UUID=AB12-34CD /boot vfat noauto 0 0\n"),
        ("proc/cmdline", "root=/dev/vg/root cryptkey=PARTUUID=0001-02:vfat:/key\n"),
        ("etc/crypttab", "root /dev/sdb1 none\n"),
    ):
        path = tmp_path / file
        path.write_text(text)
        with pytest.raises(DeviceError, match="belongs to this system"):
            choose(disks(stick, root=tmp_path), GB)
        path.unlink()
    assert choose(disks(stick, root=tmp_path), GB).path == Path("/dev/sdb")


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


def test_several_are_not_guessed_at() -> None:
    found = disks(row("sdb"), row("sdc"))
    with pytest.raises(DeviceError, match="2 disks"):
        choose(found, GB)
    assert choose(found, GB, wanted=Path("/dev/sdc")).path == Path("/dev/sdc")


def test_a_loop_device_is_for_who_names_it() -> None:
    found = disks(row("loop0", type="loop", rm=False, hotplug=False, tran=None))
    with pytest.raises(DeviceError, match="no disk"):
        choose(found, GB)
    assert choose(found, GB, wanted=Path("/dev/loop0")).kind == "loop"


@pytest.mark.parametrize("wanted", ["/dev/sdb1", "/dev/null", "/etc/passwd", "/dev/none"])
def test_what_is_no_disk(wanted: str) -> None:
    with pytest.raises(DeviceError, match="not a disk"):
        choose(disks(row("sdb", children=[part("sdb1")])), GB, wanted=Path(wanted))


def test_a_link_to_a_disk_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "usb-stick"
    link.symlink_to("/dev/sdb")
    assert choose(disks(row("sdb")), GB, wanted=link).path == Path("/dev/sdb")


def test_another_disk_at_the_same_place_is_noticed() -> None:
    (one,), (other,) = disks(row("sdb")), disks(row("sdb", serial="S2"))
    check_same(one, one)
    with pytest.raises(DeviceError, match="not the disk"):
        check_same(one, other)


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


@pytest.mark.parametrize(("size", "text"), [(999, "999 bytes"), (16 * GB, "16 GB"), (1_500_000, "1.5 MB"), (2 * 10**12, "2 TB")])
def test_sizes(size: int, text: str) -> None:
    assert human_size(size) == text
