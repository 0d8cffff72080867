# SPDX-License-Identifier: Apache-2.0
"""The lab's cache of converted packages: what is signed is what was converted, whatever lay there under its name."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.apk.format.index import read_index
from pipeline.apk.format.package import TarEntry, read_package, write_package
from pipeline.apk.format.signature import KeyRing
from pipeline.base.progress import Screen
from pipeline.channels.lab.assemble import Conversion
from pipeline.channels.lab.conversions import Workshop, convert_all
from pipeline.channels.lab.mirror import write_repository
from pipeline.channels.lab.third import write_third_repository
from pipeline.supply.signing import checkout_key
from tests.unit.lab.test_convert import EPOCH, Lab


@dataclass(frozen=True)
class Downloads:
    """Where the one Debian package is."""

    deb: Path

    def path(self, _file: object) -> Path:
        return self.deb


class Shop:
    """The lab of one package, with its cache of conversions."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder)
        self.key = checkout_key(folder / "keys", "lab")
        self.said: list[str] = []
        self.shop = Workshop(folder, cast(Any, Downloads(self.lab.deb)), folder / "apk", EPOCH, self.said.append)
        self.job: Conversion = self.lab.job()
        self.made = 0

    def repository(self) -> bytes:
        """The signed package."""
        self.made += 1
        folder = self.lab.folder / f"repository-{self.made}"
        unsigned = convert_all(self.shop, [self.job], Screen(quiet=True))
        packages = {f"{name}-{self.job.version}.apk": file for (name, _), file in unsigned.items()}
        write_repository(packages, folder, "x86_64", signer=self.key.signer(), epoch=EPOCH, title="test")
        (package,) = folder.glob("*.apk")
        return package.read_bytes()

    def third(self) -> Path:
        """The folder of the same repository in format 3."""
        self.made += 1
        folder = self.lab.folder / f"repository-{self.made}"
        unsigned = convert_all(self.shop, [self.job], Screen(quiet=True))
        packages = {f"{name}-{self.job.version}.apk": file for (name, _), file in unsigned.items()}
        write_third_repository(packages, folder, "x86_64", signer=self.key.signer(), epoch=EPOCH, title="test")
        return folder

    @property
    def cached(self) -> Path:
        (path,) = (self.lab.folder / "apk").glob("hello.*.apk")
        return path


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def with_one_file_more(path: Path) -> None:
    """A good package of the same name, that holds more."""
    with path.open("rb") as stream:
        package = read_package(stream, None)
        entries = [(entry, content.read() if entry.kind == "file" else b"") for entry, content in package.iter_data()]
    out = io.BytesIO()
    more = (TarEntry("usr/bin/zz-more", "file", 0o4755, 0, 0), b"#!/bin/sh\n")
    write_package(
        out, package.info, {}, [(entry, data if entry.kind == "file" else None) for entry, data in (*entries, more)], epoch=EPOCH
    )
    info = path.stat()
    path.write_bytes(out.getvalue())
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one file more": with_one_file_more,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "no package": lambda path: path.write_bytes(b"hello"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_changed_conversion_is_made_again(shop: Shop, damage: str) -> None:
    right = shop.repository()
    assert shop.repository() == right
    assert not shop.said
    DAMAGES[damage](shop.cached)
    assert shop.repository() == right
    assert len(shop.said) == 1
    assert "was changed since it was made" in shop.said[0]
    assert shop.repository() == right
    assert len(shop.said) == 1
    with io.BytesIO(right) as stream:
        read_package(stream, KeyRing({shop.key.name: shop.key.public_pem()})).verify_data()


def test_one_file_more_is_a_package_that_would_be_signed(shop: Shop) -> None:
    """So that the test above tries what it says."""
    right = shop.repository()
    with_one_file_more(shop.cached)
    with shop.cached.open("rb") as stream:
        names = [entry.name for entry, _ in read_package(stream, None).iter_data()]
    assert "usr/bin/zz-more" in names
    assert b"zz-more" not in right


def test_conversions_that_were_not_used_for_long_go(shop: Shop) -> None:
    shop.repository()
    folder = shop.cached.parent
    old = [folder / f"hello.x86_64.{digit * 64}.apk" for digit in "123"]
    for path in old:
        path.touch()
        path.with_name(f"{path.name}.record").touch()
        os.utime(path.with_name(f"{path.name}.record"), ns=(1, 1))
    shop.repository()
    assert len(list(folder.glob("hello.x86_64.*.apk"))) == 3
    assert len(list(folder.glob("*.record"))) == 3


def test_the_third_format(tmp_path: Path) -> None:
    """On request the mirror has the same packages in format 3, and equal bytes each time."""
    shop = Shop(tmp_path)
    ring = KeyRing({shop.key.name: shop.key.public_pem()})
    second = read_package(io.BytesIO(shop.repository()), ring)
    first, again = shop.third(), shop.third()
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }
    assert sorted(path.suffix for path in first.iterdir()) == [".adb", ".apk"]
    index = read_index(io.BytesIO((first / "Packages.adb").read_bytes()), ring)
    (entry,) = index.entries
    data = (first / entry.file_name).read_bytes()
    third = read_package(io.BytesIO(data), ring)
    assert (third.format, entry.size, entry.checksum, index.description) == (3, len(data), third.checksum, "test")
    assert (third.info.name, third.info.size, sorted(third.info.provides)) == (
        second.info.name,
        second.info.size,
        sorted(second.info.provides),
    )
    assert {item.name for item, _ in third.iter_data()} == {item.name for item, _ in second.iter_data()}
