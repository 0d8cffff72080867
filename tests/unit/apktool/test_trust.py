# SPDX-License-Identifier: Apache-2.0
"""What must not get in: unsigned and altered indexes, packages that are not what the index says, hostile archives."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest

from pipeline.apk.index import entry_of, write_index
from pipeline.apk.package import TarEntry
from pipeline.apk.signature import Signer
from tests.unit.apk import forge
from tests.unit.apktool.conftest import EPOCH, Lab


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def nothing_installed(lab: Lab) -> bool:
    return not (lab.root / "usr/bin/app").exists() and not list(lab.root.rglob(".apk.*"))


@pytest.fixture
def shop(lab: Lab) -> Lab:
    """A repository with one package."""
    lab.package("app", files={"usr/bin/app": b"good" * 5000})
    lab.publish()
    return lab


def test_index_by_a_stranger(shop: Lab) -> None:
    shop.publish(signer=Signer(shop.keys.parent / "stranger.rsa", "stranger.rsa.pub"))
    assert f"WARNING: opening {shop.repository}: UNTRUSTED signature" in shop.add("app", status=1)
    # The stranger's key under the trusted name.
    shop.publish(signer=Signer(shop.keys.parent / "stranger.rsa", "test.rsa.pub"))
    out = shop.add("app", status=1)
    assert "UNTRUSTED signature" in out
    assert "app (no such package):\n    required by: world[app]" in out
    assert nothing_installed(shop)


def test_index_without_signature(shop: Lab) -> None:
    with (shop.repository / "x86_64/APKINDEX.tar.gz").open("wb") as out:
        write_index(out, "", [entry_of(path) for path in shop.repository.glob("x86_64/*.apk")], None, EPOCH)
    assert "UNTRUSTED signature" in shop.add("app", status=1)


def test_index_with_one_flipped_bit(shop: Lab) -> None:
    index = shop.publish()
    whole = index.read_bytes()
    for at in range(12, len(whole), max(1, len(whole) // 9)):
        index.write_bytes(whole)
        flip(index, at)
        assert "WARNING: opening" in shop.add("app", status=1), f"bit flipped in byte {at}"
    assert nothing_installed(shop)


def test_no_trusted_keys(shop: Lab, tmp_path: Path) -> None:
    assert "UNTRUSTED signature" in shop.add("app", "--keys-dir", str(tmp_path / "none"), status=1)
    assert "unrecognized option: allow-untrusted" in shop.add("app", "--allow-untrusted", status=1)


@pytest.mark.parametrize("part", ["control", "data", "end"])
def test_package_with_one_flipped_bit(shop: Lab, part: str) -> None:
    path = shop.repository / "x86_64/app-1.0-r0.apk"
    size = path.stat().st_size
    flip(path, {"control": 500, "data": size - 120, "end": size - 6}[part])
    out = shop.add("app", status=1)
    assert "ERROR: app-1.0-r0: " in out
    assert nothing_installed(shop)
    assert shop.versions() == {}


def test_other_package_under_the_name(shop: Lab) -> None:
    other = shop.package("evil", files={"usr/bin/app": b"evil"})
    shutil.copy(other, shop.repository / "x86_64/app-1.0-r0.apk")
    assert "ERROR: app-1.0-r0: control is Q1" in shop.add("app", status=1)
    assert nothing_installed(shop)
    assert "is not what the signed index names" in shop.run("fetch", "--output", str(shop.keys.parent), "app", status=1)
    assert not (shop.keys.parent / "app-1.0-r0.apk").exists()
    assert "is not what the signed index names" in shop.run("fetch", "--stdout", "app", status=1)


def test_data_of_another_package(shop: Lab) -> None:
    """Signature and control are right, only the data is not."""
    path = shop.repository / "x86_64/app-1.0-r0.apk"
    other = shop.package("app2", files={"usr/bin/app": b"evil" * 5000})
    from pipeline.apk.package import read_package

    def offset(package: Path) -> int:
        with package.open("rb") as stream:
            return read_package(stream, None).data_offset

    path.write_bytes(path.read_bytes()[: offset(path)] + other.read_bytes()[offset(other) :])
    assert "sha256" in shop.add("app", status=1)
    assert nothing_installed(shop)


def test_package_file_needs_its_own_signature(shop: Lab, tmp_path: Path) -> None:
    shop.signer = Signer(shop.keys.parent / "stranger.rsa", "stranger.rsa.pub")
    path = shop.package("foreign", files={"usr/bin/app": b"evil"})
    assert "no signature by a trusted key holds" in shop.add(str(path), status=1)
    assert nothing_installed(shop)


def test_replayed_older_index_does_not_downgrade(shop: Lab) -> None:
    old = shop.publish().read_bytes()
    shop.package("app", "2.0-r0", {"usr/bin/app": b"new"})
    index = shop.publish()
    shop.add("app")
    index.write_bytes(old)
    for command in ("upgrade", "fix"):
        shop.run(command)
        assert shop.versions() == {"app": "2.0-r0"}
    shop.add("app")
    assert (shop.root / "usr/bin/app").read_bytes() == b"new"


HOSTILE = {
    "absolute": [forge.item("/etc/evil", b"x")],
    "parent": [forge.item("../evil", b"x")],
    "through a link": [forge.item("usr", None, type=b"2", linkname="/tmp"), forge.item("usr/evil", b"x")],
    "hard link out": [forge.item("evil", None, type=b"1", linkname="../../etc/passwd")],
    "device": [forge.item("evil", None, type=b"4", devmajor=8)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives(lab: Lab, name: str) -> None:
    """Signed by a trusted key, and still refused."""
    path = lab.repository / "x86_64/evil-1-r0.apk"
    path.write_bytes(forge.package(HOSTILE[name], signer=lab.signer))
    from pipeline.apk.index import IndexEntry
    from pipeline.apk.package import read_package

    checksum = read_package(io.BytesIO(path.read_bytes()), None).checksum
    with (lab.repository / "x86_64/APKINDEX.tar.gz").open("wb") as out:
        entry = IndexEntry(checksum, "evil", "1-r0", "x86_64", path.stat().st_size)
        write_index(out, "", [entry], lab.signer, EPOCH)
    before = sorted(lab.root.parent.iterdir())
    assert "ERROR: evil-1-r0: " in lab.add("evil", status=1)
    assert lab.versions() == {}
    assert sorted(lab.root.parent.iterdir()) == before or lab.root in lab.root.parent.iterdir()
    assert not [path for path in lab.root.parent.rglob("evil") if path.is_file()]


def test_link_of_an_installed_package_is_not_left(lab: Lab, tmp_path: Path) -> None:
    """One package lays a link out of the root, the next writes through it: it lands inside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    lab.package("one", files={"data": f"{'../' * 40}{str(outside).lstrip('/')}"})
    lab.package("two", files={"data/evil": b"x"})
    lab.publish()
    lab.add("one", "two", status=None)
    assert list(outside.iterdir()) == []


def test_owner_names_are_looked_up_in_the_root(lab: Lab) -> None:
    entry = TarEntry("file", "file", 0o644, uid=0, gid=0, uname="daemon", gname="daemon")
    import os

    if os.geteuid() != 0:
        pytest.skip("only root changes owners")
    lab.package("app", extra=[(entry, b"x")])
    lab.publish()
    lab.add("app")
    assert (lab.root / "file").stat().st_uid == 0, "the machine's passwd does not count"
