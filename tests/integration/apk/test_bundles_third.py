# SPDX-License-Identifier: Apache-2.0
"""`tower install` with repositories of apk's third format: a host's own apk 3 takes what the thin client chose and fetched."""

from __future__ import annotations

import io
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tower.base.errors import PackageError
from tower.install.apkindex import control_checksum, read_index
from tower.install.choose import Copy, copy_of
from tower.install.fetch import Downloads
from tower.install.repository import HostState, parse_repositories
from tower.ssh.way import Way

from pipeline.apk.adb.writer import convert_package
from pipeline.apk.format.package import TarEntry, read_package, write_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import KeyRing, Signer, generate_key

from .conftest import ARCH, EPOCH, Shop

FOR_ALL = ("all-third", "all-second")
"""Packages whose architecture is `noarch`."""


@pytest.fixture
def third(shop: Shop) -> Shop:
    """Two packages, converted, one of the second format, and two for all architectures, one of each format.

    apk's own `mkpkg` has made the one of the third format, and its `mkndx` the index.
    """
    shop.package("base", files={"usr/share/base/a": b"content " * 5000})
    shop.package("top", "2.0-r0", {"usr/share/top/c": b"top"}, depends=("base",))
    shop.package("old", files={"usr/share/old/o": b"old"})
    ring, folder = KeyRing.load(shop.keys), shop.repository / ARCH
    for name in ("base-1.0-r0.apk", "top-2.0-r0.apk"):
        out = io.BytesIO()
        with (folder / name).open("rb") as stream:
            convert_package(read_package(stream, ring, name=name), out, shop.signer, io.BytesIO())
        (folder / name).write_bytes(out.getvalue())
    key = ("--keys-dir", str(shop.keys), "--sign-key", str(shop.keys.parent / "test.rsa"))
    tree = shop.repository.parent / "tree"
    (tree / "usr/share/all").mkdir(parents=True)
    (tree / "usr/share/all/f").write_bytes(b"for all " * 9000)
    words = [f"name:{FOR_ALL[0]}", "version:1.0-r0", "arch:noarch", "depends:base", f"build-time:{EPOCH}"]
    options = [part for word in words for part in ("--info", word)]
    argv = [*shop.apk, "mkpkg", *key, "--files", str(tree), *options, "--output", f"{FOR_ALL[0]}-1.0-r0.apk"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=60)
    with (folder / f"{FOR_ALL[1]}-1.0-r0.apk").open("wb") as second:
        content = [(TarEntry("usr/share/n", "file", 0o644, uname="root", gname="root"), b"n")]
        info = PkgInfo(FOR_ALL[1], "1.0-r0", "noarch", "test package")
        write_package(second, info, {}, content, epoch=EPOCH, signer=shop.signer)
    files = sorted(path.name for path in folder.glob("*.apk"))
    argv = [*shop.apk, "mkndx", *key, "--description", "test 3", "--output", "Packages.adb", *files]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=60)
    return shop


@pytest.fixture
def copied(third: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Copy]:
    """The copy of the state of a host with that repository, on a thin client whose `apk` is the real one."""
    programs = tmp_path / "programs"
    programs.mkdir()
    words = " ".join(f"'{word}'" for word in third.apk)
    (programs / "apk").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (programs / "apk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    repositories, left_out = parse_repositories("v3 http://packages.test/main\n")
    assert (len(repositories), left_out) == (1, ())
    key = (third.keys / "test.rsa.pub").read_bytes()
    state = HostState(ARCH, repositories, (), {"test.rsa.pub": key}, b"", b"", "0" * 64, 1)
    with copy_of(state, "web") as copy:
        yield copy


def test_all_packages_of_the_index_are_read(third: Shop) -> None:
    index = read_index(third.repository / ARCH / "Packages.adb")
    assert index.made == EPOCH
    assert {name for name, package in index.packages.items() if package.for_all} == {(name, "1.0-r0") for name in FOR_ALL}
    names = {("base", "1.0-r0"), ("old", "1.0-r0"), ("top", "2.0-r0"), *((name, "1.0-r0") for name in FOR_ALL)}
    assert set(index.packages) == names
    assert index.odd == {}
    for package in index.packages.values():
        path = third.repository / ARCH / package.file_name
        assert path.stat().st_size == package.size
        assert control_checksum(path) == package.checksum
        assert len(package.checksum) == (40 if package.name in ("old", "all-second") else 64)
    assert index.packages["base", "1.0-r0"].installed_size >= 40000


def test_a_host_installs_offline_what_was_chosen_here(third: Shop, copied: Copy) -> None:
    """Index and packages are verified with the host's keys; then its apk takes them from a folder like that of a bundle."""
    source = third.repository / ARCH
    index = copied.check_index(0, source / "Packages.adb", {})
    choice = copied.choose(["top", "old", *FOR_ALL], [index])
    names = ("all-second (1.0-r0)", "all-third (1.0-r0)", "base (1.0-r0)", "old (1.0-r0)", "top (2.0-r0)")
    assert choice.steps == tuple(f"Installing {name}" for name in names)
    files = [source / package.file_name for _, package in choice.packages]
    copied.check_packages(files)
    for path in files:
        (copied.index_place(0).parent / path.name).write_bytes(path.read_bytes())
    third.repository = copied.index_place(0).parent.parent
    (third.repository / "noarch").symlink_to(ARCH)  # as `bundle` lays it on a host
    third.add("top", "old", *FOR_ALL)
    installed = third.installed()
    assert set(installed) == {"base", "old", "top", *FOR_ALL}
    assert (third.root / "usr/share/all/f").read_bytes() == b"for all " * 9000
    assert (third.root / "usr/share/base/a").read_bytes() == b"content " * 5000
    # The same host once more: its database names packages of both formats, and is read.
    database = (third.root / "lib/apk/db/installed").read_bytes()
    world = (third.root / "etc/apk/world").read_bytes()
    state = HostState(ARCH, copied.state.repositories, (), copied.state.keys, world, database, "0" * 64, 2)
    with copy_of(state, "web") as again:
        index = again.check_index(0, source / "Packages.adb", {})
        assert again.choose(["top"], [index]).steps == ()


def test_a_package_signed_by_an_untrusted_key_is_refused(third: Shop, copied: Copy, tmp_path: Path) -> None:
    generate_key(tmp_path, "other", bits=2048)
    source = third.repository / ARCH
    name = "base-1.0-r0.apk"
    out = io.BytesIO()
    with (source / name).open("rb") as stream:
        signer = Signer(tmp_path / "other.rsa", "other.rsa.pub")
        convert_package(read_package(stream, None, name=name), out, signer, io.BytesIO())
    (source / name).write_bytes(out.getvalue())
    with pytest.raises(PackageError, match="is not signed by a key that web trusts"):
        copied.check_packages([source / name])


def test_changed_files_are_refused(third: Shop, copied: Copy, tmp_path: Path) -> None:
    """apk, or the comparison with the index, refuses each change that matters, and none ends in another kind of error."""
    chance = random.Random(13)
    source = third.repository / ARCH
    package = read_index(source / "Packages.adb").packages["top", "2.0-r0"]
    for name in ("Packages.adb", "top-2.0-r0.apk"):
        good = (source / name).read_bytes()
        for _ in range(60):
            bad = bytearray(good)
            place = chance.randrange(len(good))
            if chance.random() < 0.7:
                bad[place] ^= 1 << chance.randrange(8)
            else:
                del bad[place:]
            path = tmp_path / name
            path.write_bytes(bytes(bad))
            try:
                if name == "Packages.adb":
                    found = copied.check_index(0, path, {}).packages
                    assert found == read_index(source / name).packages, "the change made no difference"
                else:
                    if control_checksum(path) == package.checksum and len(bad) == package.size:
                        copied.check_packages([path])
            except PackageError as error:
                assert error.message


def test_the_cache_knows_both_formats(third: Shop, tmp_path: Path) -> None:
    """A package in the cache is the one that the index names, whichever format it has."""
    way = cast("Way", SimpleNamespace())
    downloads = Downloads(tmp_path / "cache", way)
    for package in read_index(third.repository / ARCH / "Packages.adb").packages.values():
        place = downloads.place(package)
        assert not downloads.has(package)
        data = (third.repository / ARCH / package.file_name).read_bytes()
        place.write_bytes(data)
        assert downloads.has(package)
        place.write_bytes(data[:-1] + b"x")
        other = read_index(third.repository / ARCH / "Packages.adb").packages["base", "1.0-r0"]
        if package.name != "base":
            place.write_bytes((third.repository / ARCH / other.file_name).read_bytes())
            assert not downloads.has(package)
