# SPDX-License-Identifier: Apache-2.0
"""Packages and indexes of format 3 by Alpine's own apk 3: we read what it makes, it takes what we make, both refuse the same."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.apk.__main__ import main
from pipeline.apk.adb.packing import MOST_COMPARED
from pipeline.apk.adb.writer import convert_package, write_index, write_package
from pipeline.apk.format.index import entry_of, read_index
from pipeline.apk.format.package import Package, read_package, tree_entries
from pipeline.apk.format.package import write_package as write_second
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import KeyRing, Signer
from pipeline.base.errors import VerifyError

from .conftest import ARCH, EPOCH, Shop

INFO = PkgInfo(
    "hello", "1.0-r0", ARCH, "Says hello", "address", "MIT", "hello", "Me <me>", 0, EPOCH, 20 * "a1",
    ("busybox>=1.2", "!foo", "so:libc.so.6", "b~2"), ("cmd:hello=1.0-r0",), ("a", "b<~3"), ("old<2",), 5, 7, ("/usr/lib/*",),
)  # fmt: skip
FIELDS = {
    "name": "name", "version": "version", "arch": "arch", "description": "description", "url": "url", "license": "license",
    "origin": "origin", "maintainer": "maintainer", "commit": "repo-commit", "builddate": "build-time", "depends": "depends",
    "provides": "provides", "install_if": "install-if", "replaces": "replaces", "provider_priority": "provider-priority",
    "replaces_priority": "replaces-priority",
}  # fmt: skip
LEVELS = {"none": 0, "deflate": 9, "deflate:3": 3}


class Apk:
    """apk with our keys, in a folder."""

    def __init__(self, words: tuple[str, ...], keys: Path, folder: Path) -> None:
        self.words = words
        self.keys = keys
        self.folder = folder
        self.signer = Signer(keys.parent / "test.rsa", "test.rsa.pub")
        self.ring = KeyRing.load(keys)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Run a command."""
        argv = [*self.words, "--keys-dir", str(self.keys), *arguments]
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
        return subprocess.run(argv, cwd=self.folder, env=env, check=check, capture_output=True, timeout=60)

    def package(self, name: str, compression: str, info: PkgInfo = INFO) -> bytes:
        """Make a package of the folder `tree` by `mkpkg`."""
        options = ["--compression", compression, "--sign-key", str(self.keys.parent / "test.rsa"), "--files", "tree"]
        for field, word in FIELDS.items():
            value = getattr(info, field)
            text = " ".join(value) if isinstance(value, tuple) else str(value)
            options += ["--info", f"{word}:{text}"] if value else []
        options += [part for trigger in info.triggers for part in ("--trigger", trigger)]
        (self.folder / "post").write_bytes(b"#!/bin/sh\ntrue\n")
        self.run("mkpkg", *options, "--script", "post-install:post", "--output", name)
        return (self.folder / name).read_bytes()

    def accepts(self, data: bytes) -> bool:
        """Whether apk verifies a file."""
        (self.folder / "asked").write_bytes(data)
        return self.run("verify", "asked", check=False).returncode == 0


@pytest.fixture
def third(apk: tuple[str, ...], keys: Path, tmp_path: Path) -> Apk:
    """apk, beside a tree to pack."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "etc/a-b").mkdir(parents=True)
    (tree / "etc/a").mkdir()
    (tree / "usr/bin/hello").write_bytes(b"#!/bin/sh\necho hello\n" * 20)
    (tree / "usr/bin/hello").chmod(0o755)
    (tree / "usr/bin/again").hardlink_to(tree / "usr/bin/hello")
    (tree / "usr/bin/link").symlink_to("../bin/hello")
    (tree / "etc/empty").touch()
    (tree / "etc/a/file").write_bytes(bytes(range(256)) * 3)
    (tree / "etc/a-b/file").write_bytes(b"x")
    return Apk(apk, keys, tmp_path)


@pytest.mark.parametrize("compression", list(LEVELS))
def test_both_write_the_same_bytes(third: Apk, compression: str) -> None:
    """A package by `mkpkg` is read whole, and our writer makes the same file of the same tree."""
    theirs = third.package("theirs.apk", compression)
    package = read_package(io.BytesIO(theirs), third.ring, name="theirs.apk")
    assert package.verify_data() == len(theirs)
    assert package.info.depends == ("b~2", "busybox>=1.2", "!foo", "so:libc.so.6"), "sorted by name"
    entries = {entry.name: entry for entry, _content in package.iter_data()}
    assert (entries["usr/bin/again"].kind, entries["usr/bin/hello"].kind) == ("file", "hardlink")
    assert entries["usr/bin/link"].target == "../bin/hello"
    out = io.BytesIO()
    scripts, tree = package.scripts, tree_entries(third.folder / "tree")
    write_package(out, INFO, scripts, tree, epoch=EPOCH, signer=third.signer, level=LEVELS[compression])
    assert third.accepts(out.getvalue())
    if compression == "none":
        assert out.getvalue() == theirs
    else:
        assert read_package(io.BytesIO(out.getvalue()), third.ring).checksum == package.checksum


def test_both_refuse_the_same(third: Apk) -> None:
    """Whatever apk refuses, we refuse; and we refuse every change, also of what apk does not look at."""
    chance = random.Random(13)
    for compression in ("none", "deflate"):
        good = third.package("good.apk", compression)
        assert third.accepts(good)
        accepted = 0
        for _ in range(120):
            bad = bytearray(good)
            place = chance.randrange(len(good))
            if chance.random() < 0.7:
                bad[place] ^= 1 << chance.randrange(8)
            elif chance.random() < 0.5:
                del bad[place:]
            else:
                bad[place:place] = bytes(chance.randrange(1, 9))
            accepted += third.accepts(bytes(bad))
            with pytest.raises(VerifyError):
                read_package(io.BytesIO(bytes(bad)), third.ring).verify_data()
        assert accepted < 40, "apk refuses most of them"


def test_bits_that_are_not_found_change_nothing(third: Apk) -> None:
    """Every bit of a large packed file: each is found, but for a few that change no content, and that apk does not see either.

    Those make deflate copy other, equal bytes. What finds them is the digest of the file in a lock:
    tests/unit/alpine/test_third_format.py.
    """
    (third.folder / "tree/etc/large").write_bytes((b"hello world, this is text\n" * 40 + b"0123456789" * 30 + b"hello\n") * 60)
    good = third.package("good.apk", "deflate")
    assert third.accepts(good)
    content = {entry: data.read() for entry, data in read_package(io.BytesIO(good), third.ring).iter_data()}
    assert sum(map(len, content.values())) > MOST_COMPARED
    unseen = []
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        package = read_or_none(bytes(bad), third.ring)
        if package is not None:
            assert {entry: data.read() for entry, data in package.iter_data()} == content, bit
            unseen.append(bytes(bad))
    assert 0 < len(unseen) < 8, "found are all but very few"
    assert all(third.accepts(bad) for bad in unseen)
    # apk leaves the bits after the end of deflate's data to themselves; here, they are found.
    last = [good[:-1] + bytes((good[-1] ^ 1 << bit,)) for bit in range(8)]
    assert any(third.accepts(bad) for bad in last)
    assert not set(last) & set(unseen)


def read_or_none(data: bytes, ring: KeyRing) -> Package | None:
    """Return a package that is accepted, to be read again."""
    try:
        package = read_package(io.BytesIO(data), ring)
        package.verify_data()
    except VerifyError:
        return None
    return package


def test_signatures_of_either(third: Apk, tmp_path: Path) -> None:
    """`adbsign` signs what we have packed, anew and in another packing; several signatures may stand beside each other."""
    out = io.BytesIO()
    write_package(out, INFO, {}, tree_entries(tmp_path / "tree"), epoch=EPOCH, signer=None)
    (tmp_path / "ours.apk").write_bytes(out.getvalue())
    assert not third.accepts(out.getvalue())
    third.run(
        "--allow-untrusted", "adbsign", "--sign-key", str(third.keys.parent / "test.rsa"), "--compression", "none", "ours.apk"
    )
    signed = (tmp_path / "ours.apk").read_bytes()
    assert signed.startswith(b"ADB.")
    assert read_package(io.BytesIO(signed), third.ring).signer == "test.rsa.pub"
    direct = io.BytesIO()
    write_package(direct, INFO, {}, tree_entries(tmp_path / "tree"), epoch=EPOCH, signer=third.signer, level=0)
    assert signed == direct.getvalue()


def test_indexes_of_either(third: Apk, tmp_path: Path) -> None:
    """`mkndx` and we write the same index of the same packages."""
    third.package("hello-1.0-r0.apk", "deflate")
    other = io.BytesIO()
    write_package(
        other, PkgInfo("other", "2-r1", ARCH, depends=("hello",), builddate=EPOCH + 5), {}, [], epoch=EPOCH, signer=third.signer
    )
    (tmp_path / "other-2-r1.apk").write_bytes(other.getvalue())
    names = ["hello-1.0-r0.apk", "other-2-r1.apk"]
    third.run(
        "mkndx", "--sign-key", str(third.keys.parent / "test.rsa"), "--description", "test 1", "--output", "Packages.adb", *names
    )
    theirs = read_index(io.BytesIO((tmp_path / "Packages.adb").read_bytes()), third.ring)
    entries = [entry_of(tmp_path / name, third.ring) for name in names]
    out = io.BytesIO()
    write_index(out, "test 1", entries, third.signer)
    assert third.accepts(out.getvalue())
    ours = read_index(io.BytesIO(out.getvalue()), third.ring)
    assert (theirs.description, theirs.entries, theirs.signer) == (ours.description, ours.entries, ours.signer)
    assert theirs.made == EPOCH + 5
    assert {entry.checksum for entry in theirs.entries} == {entry.checksum for entry in entries}


def test_apk_installs_what_we_convert(shop: Shop) -> None:
    """A repository of format 2, converted: apk installs from it, and names the package as we do."""
    shop.package(
        "base", files={"usr/share/base/a": b"content", "usr/bin/b": "../share/base/a"}, scripts={".post-install": b"#!/bin/sh\n"}
    )
    shop.package("top", "2.0-r0", {"usr/share/top/c": b"top"}, depends=("base",))
    ring, folder = KeyRing.load(shop.keys), shop.repository / ARCH
    for path in sorted(folder.glob("*.apk")):
        with path.open("rb") as stream:
            out = io.BytesIO()
            convert_package(read_package(stream, ring, name=path.name), out, shop.signer, io.BytesIO())
        path.write_bytes(out.getvalue())
    with (folder / "Packages.adb").open("wb") as out_file:
        write_index(out_file, "test 3", [entry_of(path, ring) for path in sorted(folder.glob("*.apk"))], shop.signer)
    shop.root.mkdir()
    (shop.root.parent / "list").write_text(f"v3 {shop.repository}\n")
    options = ("--repositories-file", str(shop.root.parent / "list"), "--no-scripts")
    where = ("--root", str(shop.root), "--keys-dir", str(shop.keys), "--arch", ARCH, "--no-cache")
    argv = [*shop.apk, *where, *options, "add", "--initdb", "top"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (shop.root / "usr/bin/b").read_bytes() == b"content"
    installed = shop.installed()
    assert set(installed) == {"base", "top"}
    for path in sorted(folder.glob("*.apk")):
        entry = entry_of(path, ring)
        with path.open("rb") as stream:
            package = read_package(stream, ring)
        assert installed[entry.name].entry.checksum in package.identities


def test_worlds_over_indexes_of_format_3(apk: tuple[str, ...], checkout: Path) -> None:
    """Random small repositories: what apk chooses, in its order (`ci/bench/solve.py` asks 10,000)."""
    argv = [
        sys.executable,
        "ci/bench/solve.py",
        "small",
        "--format",
        "3",
        "--apk",
        " ".join(apk),
        "--count",
        "150",
        "--seed",
        "tests",
    ]
    done = subprocess.run(argv, cwd=checkout, check=True, capture_output=True, text=True, timeout=300)
    *differences, total = done.stdout.splitlines()
    assert differences == []
    found = json.loads(total)
    assert found["asked"] == found["equal"] == found["in the same order"] == 150
    assert found["solved"] > 10


def test_the_tools_index(third: Apk, tmp_path: Path) -> None:
    """`python -m pipeline.apk index` writes an index of format 3 that apk verifies, of packages of both formats."""
    third.package("hello-1.0-r0.apk", "deflate")
    with (tmp_path / "second-1-r0.apk").open("wb") as out:
        write_second(out, PkgInfo("second", "1-r0", ARCH), {}, [], epoch=EPOCH, signer=third.signer)
    names = [str(tmp_path / name) for name in ("hello-1.0-r0.apk", "second-1-r0.apk")]
    options = ["--key", str(third.keys.parent / "test.rsa"), "--keys", str(third.keys), "-d", "x"]
    assert main(["index", *options, "-o", str(tmp_path / "Packages.adb"), *names]) == 0
    assert third.accepts((tmp_path / "Packages.adb").read_bytes())
    assert main(["index", *options, "-o", str(tmp_path / "APKINDEX.tar.gz"), *names]) == 13
    assert not (tmp_path / "APKINDEX.tar.gz").exists()
