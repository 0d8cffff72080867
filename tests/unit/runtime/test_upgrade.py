# SPDX-License-Identifier: Apache-2.0
"""Upgrades: in which order a boot device is written, and what a host may say about it."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base import proc
from tower.base.errors import DeviceError, GarbageError, HangsError, HostError, ImageProblemError
from tower.base.names import HostName
from tower.base.proc import Done
from tower.base.view import View
from tower.disk import receipt
from tower.disk.make import HostDisk, make_disk, read_boot_file
from tower.disk.medium import opened
from tower.disk.partition import UNIT, Partition, partitions
from tower.disk.receipt import Receipt, Stage, Target
from tower.hosts.registry import Host
from tower.image.blockmap import BlockMap
from tower.image.source import ImageSource, read_source
from tower.ssh.sessions import SYSTEM_PATH
from tower.upgrade import inplace, upgrade
from tower.upgrade.inplace import Found, Piece, pieces, plan_of

from tests.unit.runtime.disks import BOOT, MIB, ROOT, check_disk, garbage

NEW = (Partition(1, BOOT[0], BOOT[1]), Partition(2, ROOT[0], ROOT[1]))


@pytest.fixture(scope="module")
def made(small_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of 96 MiB with a host's files, as it is made before it is sent."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tower-receipt.json").write_text('{"id": "x", "host": "web"}')
    job = HostDisk(read_source(small_image), {"tower-receipt.json": folder / "tower-receipt.json"}, folder)
    with opened(folder / "disk", size=96 * MIB) as medium:
        make_disk(job, medium, resume=False, view=View())
    return folder / "disk"


@pytest.mark.parametrize("boot_size", [BOOT[1] // 2, BOOT[1], BOOT[1] * 3 // 2])
def test_the_old_system_starts_until_shortly_before_the_end(made: Path, tmp_path: Path, boot_size: int) -> None:
    """Whatever size the old boot partition has: it, and the table of partitions, change after all else."""
    old = (Partition(1, BOOT[0], boot_size), Partition(2, BOOT[0] + boot_size, 8 * MIB))
    with made.open("rb") as stream:
        rows = pieces(made, stream, old, NEW)
    disk = bytearray(garbage(96 * MIB, seed=9))
    end = BOOT[0] + max(boot_size, BOOT[1])
    behind = [row.place * UNIT >= end for row in rows]
    assert behind == sorted(behind, reverse=True)
    assert boot_size > BOOT[1] or True in behind
    assert (rows[-1].place, rows[-1].units) == (0, 1)
    data = made.read_bytes()
    for row in rows:
        disk[row.place * UNIT : (row.place + row.units) * UNIT] = data[row.place * UNIT : (row.place + row.units) * UNIT]
    (tmp_path / "copy").write_bytes(disk)
    assert check_disk(tmp_path / "copy", tmp_path)["size"] == 96 * MIB - ROOT[0]


def test_a_disk_that_had_no_partitions(made: Path) -> None:
    with made.open("rb") as stream:
        assert pieces(made, stream, (), NEW) == pieces(made, stream, NEW, NEW)


class Hostile:
    """A host whose program says what it likes while the pieces are sent, by a real process with pipes."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.host = SimpleNamespace(name="web")

    def popen(self, argv: object) -> Any:
        return proc.running(("sh", "-c", self.code), stdin=proc.PIPE, stderr=proc.PIPE)

    def alive(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("exec cat /dev/zero", GarbageError, "not a digest"),
        ("yes", GarbageError, "another piece"),
        ("exec >&-; echo 'no \033[2J room' >&2; sleep 60", DeviceError, r"no  \[2J room"),
        ("sleep 60", HangsError, "silent for"),
    ],
)
def test_a_host_that_does_not_read_its_input(
    made: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr(inplace, "_SILENT", 0.5)
    with made.open("rb") as stream:
        rows = pieces(made, stream, NEW, NEW)
    with pytest.raises(error, match=message):
        inplace._send(Hostile(code), made, list(rows), lambda _: None)  # type: ignore[arg-type]


def test_pieces_are_small_and_never_overlap(made: Path) -> None:
    with made.open("rb") as stream:
        rows = pieces(made, stream, NEW, NEW)
    places = sorted((row.place, row.place + row.units) for row in rows)
    assert all(0 < end - start <= inplace.PIECE_UNITS for start, end in places)
    assert all(left[1] <= right[0] for left, right in pairwise(places))
    assert plan_of(rows[:1]) == f"{rows[0].place} {rows[0].units} {rows[0].sha256}\n".encode()


def test_a_file_of_the_boot_partition_is_read(made: Path, tmp_path: Path) -> None:
    with opened(made) as medium:
        assert json.loads(read_boot_file(medium, "tower-receipt.json", tmp_path))["host"] == "web"
        assert read_boot_file(medium, "nothing", tmp_path) == b""
        assert len(read_boot_file(medium, "vmlinuz", tmp_path)) == 300_008
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [BOOT[0] + 11, BOOT[0] + 36, BOOT[0] + 510, 446 + 12, 510])
@hypothesis.settings(max_examples=12, deadline=None)
@given(data=st.binary(min_size=4, max_size=16))
def test_any_other_medium_has_no_such_file(made: Path, tmp_path_factory: pytest.TempPathFactory, place: int, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("odd")
    with made.open("rb") as stream, (folder / "disk").open("wb") as out:
        head = bytearray(stream.read(BOOT[0] + UNIT))
        head[place : place + len(data)] = data
        out.write(head)
        out.truncate(96 * MIB)
    with opened(folder / "disk") as medium:
        try:
            found = read_boot_file(medium, "tower-receipt.json", folder)
        except ImageProblemError:
            return
    assert found in (b"", b'{"id": "x", "host": "web"}')


def test_two_disks_made_at_once_are_kept_apart(small_image: Path, tmp_path: Path) -> None:
    """Two hosts upgraded at the same time, beside what a killed one left: none gets the keys of the other."""
    (tmp_path / ".upgrade-killed00").mkdir()
    (tmp_path / ".partition-killed00").mkdir()
    (tmp_path / ".partition-killed00" / "partition1").write_bytes(b"a private key")
    found = Found("/dev/sda", 96 * MIB, 1 << 30, NEW, b"", "nothing")
    with ExitStack() as stack:
        places = []
        for name in ("web", "db"):
            (tmp_path / name).write_bytes(name.encode())
            job = HostDisk(read_source(small_image), {"host": tmp_path / name}, tmp_path)
            places.append((name, stack.enter_context(inplace.made(job, found, tmp_path, View()))[0]))
        for name, path in places:
            with opened(path) as medium:
                assert read_boot_file(medium, "host", tmp_path) == name.encode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["db", "web"]


# --- what a host says -------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A host that answers what it is told to."""

    host: Host
    said: bytes

    def root(self, argv: object, **how: object) -> Done:
        return Done(0, self.said, b"")


HERE = "7d0c0e3e-0000/8:0-3/100663296"


def said(**rows: object) -> bytes:
    sector = bytearray(512)
    sector[446 + 4], sector[462 + 4], sector[510:] = 0x0C, 0x83, b"\x55\xaa"
    for place, row in ((446, NEW[0]), (462, NEW[1])):
        sector[place + 8 : place + 16] = (row.start // 512).to_bytes(4, "little") + (row.size // 512).to_bytes(4, "little")
    assert partitions(bytes(sector), "x") == NEW
    whole = {"device": "/dev/sda", "size": 96 * MIB, "free": 1 << 20, "state": "nothing", "receipt": "", "identity": HERE}
    whole |= {"table": base64.b64encode(sector).decode()} | rows
    return "".join(f"{name}={value}\n" for name, value in whole.items()).encode()


@pytest.fixture
def host(settings: Any, tmp_path: Path) -> Host:
    return Host(tmp_path, settings)


FIRST = Receipt(
    "1" * 32, "web", Stage.ANSWERED, "/x/toweros-host-1.1.0-lab-rpi.img.zst", "0" * 64, "1.1.0", "lab",
    Target("/dev/sdb", 1 << 30, "S", "M", "usb"), "",
)  # fmt: skip
IMAGE = ImageSource(Path("/x/new.img"), "1.2.0", "lab", "lab", False, "0" * 64, BlockMap(68 * MIB, ()))


def on_boot(identifier: str, name: str = "web") -> str:
    return base64.b64encode(json.dumps({"id": identifier, "host": name}).encode()).decode()


def test_the_boot_device_that_tower_wrote(host: Host) -> None:
    found = upgrade.look(Session(host, said(receipt=on_boot("1" * 32))), FIRST, IMAGE, named=None)  # type: ignore[arg-type]
    assert found == Found("/dev/sda", 96 * MIB, 1 << 30, NEW, base64.b64decode(on_boot("1" * 32)), "nothing", HERE)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ({}, DeviceError, "no receipt"),
        ({"receipt": on_boot("2" * 32)}, DeviceError, "a provisioning of web"),
        ({"receipt": on_boot("1" * 32, "db")}, DeviceError, "a provisioning of db"),
        ({"receipt": base64.b64encode(b"[" * 5000).decode()}, DeviceError, "no receipt"),
        ({"receipt": "*"}, GarbageError, "is not valid"),
        ({"size": "much"}, GarbageError, "is not valid"),
        ({"device": "/dev/sda\x1b[31m"}, GarbageError, "is not valid"),
        ({"identity": "x; reboot"}, GarbageError, "is not valid"),
        ({"identity": ""}, GarbageError, "is not valid"),
        ({"size": 67 * MIB}, DeviceError, "the image needs"),
        ({"size": 68 * MIB - 1}, DeviceError, "the image needs"),
        ({"size": 1 << 62}, GarbageError, "is not valid"),
        ({"size": 1 << 70}, GarbageError, "is not valid"),
        ({"size": -4096}, GarbageError, "is not valid"),
        ({"free": -1}, GarbageError, "is not valid"),
        ({"table": base64.b64encode(bytes(512)).decode()}, DeviceError, "no partition table"),
    ],
)
def test_a_device_that_is_not_the_hosts_boot_device_is_refused(
    host: Host, rows: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        upgrade.look(Session(host, said(**rows)), FIRST, IMAGE, named=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("identity", "receipt_there", "taken"),
    [
        (HERE, "", True),
        ("other/8:0-4/1", on_boot("1" * 32), True),
        ("other/8:0-4/1", on_boot("3" * 32), True),
        ("other/8:0-4/1", on_boot("2" * 32), False),
        ("other/8:0-4/1", on_boot("1" * 32, "db"), False),
        ("other/8:0-4/1", "", False),
        ("", "", False),
    ],
)
def test_the_device_of_a_continued_upgrade(host: Host, identity: str, receipt_there: str, taken: bool) -> None:
    """The very device, or one that shows that it is the host's: names change when a host is started anew."""
    receipt.write(host.file("receipt.json"), FIRST)
    target = Target("/dev/sda", 96 * MIB, "", "", upgrade.IN_PLACE, identity)
    one = upgrade.Upgrade(host, replace(FIRST, id="3" * 32, target=target))
    there = inplace.look(Session(host, said(receipt=receipt_there)), "/dev/sda")  # type: ignore[arg-type]
    if taken:
        upgrade._check_still(one, there)
        return
    with pytest.raises(DeviceError, match="not the device that was there") as caught:
        upgrade._check_still(one, there)
    assert "--boot-device" in caught.value.hint


@given(st.binary(max_size=300))
def test_any_answer_of_a_host_is_refused_by_our_errors(data: bytes) -> None:
    host: Any = SimpleNamespace(name="web")
    with pytest.raises((DeviceError, GarbageError)):
        inplace.look(Session(host, data), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "done"),
    [
        (b"done\n", True),
        (b"writing 3 9", False),
        (b"checking\n", False),
        (b"\xff", False),
        (b"writing x y", False),
        (b"writing \xc2\xb2 \xc2\xb2", False),
        (b"writing " + b"9" * 4000 + b" 9", False),
    ],
)
def test_states_of_a_host(host: Host, data: bytes, done: bool) -> None:
    assert inplace._is_done(host, data, lambda *_: None) is done


def test_the_hosts_side_finds_its_programs_by_itself() -> None:
    script = inplace.script().replace(b"\ncase ${1:-} in", b'\necho "$PATH"; exit 0\ncase ${1:-} in')
    done = proc.run(["/usr/bin/env", "-i", "PATH=/none", "/bin/sh", "-s"], stdin=script, timeout=20)
    assert done.stdout == f"{SYSTEM_PATH['PATH']}\n".encode()


@pytest.mark.parametrize("data", [b"failed it is \x1b[31mred", b"stopped", b"nothing"])
def test_failed_and_unknown_states_end_the_upgrade(host: Host, data: bytes) -> None:
    with pytest.raises(DeviceError, match=r"failed|red|stopped|nothing") as found:
        inplace._is_done(host, data, lambda *_: None)
    assert "\x1b" not in found.value.message


def test_the_kind_of_machine_is_that_of_the_first_image() -> None:
    assert upgrade.target_of(FIRST) == "rpi"
    with pytest.raises(ImageProblemError, match="--target"):
        upgrade.target_of(replace(FIRST, image="/x/mine.img"))


@pytest.mark.parametrize(("installed", "refused"), [("1.2.0", False), ("1.1.9", False), ("1.10.0", True), ("", False)])
def test_an_older_version_needs_the_option_older(installed: str, refused: bool) -> None:
    if not refused:
        upgrade.check_version(installed, IMAGE, "web", older=False)
        return
    with pytest.raises(ImageProblemError, match="--older"):
        upgrade.check_version(installed, IMAGE, "web", older=False)
    upgrade.check_version(installed, IMAGE, "web", older=True)


def test_an_upgrade_that_has_begun_is_found_again(host: Host) -> None:
    with pytest.raises(HostError, match="no upgrade has begun"):
        upgrade.begun(host)
    one = upgrade.begin(host, FIRST, IMAGE, Target("/dev/sda", 96 * MIB, "", "", upgrade.IN_PLACE))
    assert upgrade.begun(host) == one
    assert one.in_place
    files = upgrade.boot_files(one)
    assert files["tower.env"].parent == files["tower-receipt.json"].parent == one.folder
    assert files["crypto_keyfile.bin"] == host.file("crypto_keyfile.bin")
    assert receipt.read(one.folder / "receipt.json").host == HostName("web")
    upgrade.forget(one)
    assert not list(host.folder.iterdir())


def test_a_piece_is_a_place_and_a_digest() -> None:
    assert plan_of((Piece(1, 2, "a"), Piece(0, 1, "b"))) == b"1 2 a\n0 1 b\n"
