# SPDX-License-Identifier: Apache-2.0
"""Reading `.deb` files: honest ones, damaged ones, hostile ones."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import FormatError, VerifyError
from pipeline.channels.lab.deb import open_verified, read_control, unpack
from pipeline.channels.lab.package_tree import PackageTree
from tests.unit.lab.debs import Member, ar, control_text, deb, file, folder, link, locked, node, tar


def unpacked(data: bytes) -> PackageTree:
    tree = PackageTree(io.BytesIO())
    unpack(io.BytesIO(data), "hello", tree)
    return tree


@pytest.mark.parametrize("compress", ["xz", "gz", ""])
def test_an_honest_package(compress: str, tmp_path: Path) -> None:
    data = deb(
        folder("./usr"),
        file("./usr/bin/hello", b"#!/bin/sh\n", 0o755),
        file("./lib/libhello.so.1", b"lib"),
        link("./usr/bin/hi", "hello"),
        link("./usr/bin/hard", "./usr/bin/hello", tarfile.LNKTYPE),
        folder("./var/lib/hello"),
        compress=compress,
    )
    tree = unpacked(data)
    assert {node.path: node.kind for node in tree.finish()} == {
        "usr": "dir",
        "usr/bin": "dir",
        "usr/bin/hard": "file",
        "usr/bin/hello": "file",
        "usr/bin/hi": "link",
        "usr/lib": "dir",
        "usr/lib/libhello.so.1": "file",
        "var": "dir",
        "var/lib": "dir",
        "var/lib/hello": "dir",
    }
    assert tree.content("usr/bin/hard") == b"#!/bin/sh\n"
    assert tree.nodes["usr/bin/hello"].mode == 0o755


def test_control_fields() -> None:
    control = read_control(
        io.BytesIO(deb(control=control_text(Depends="libc6 (>= 2.38), a | b [amd64],\n c:any", Pre_Depends="dpkg (>= 1)"))),
        "hello",
    )
    assert (control.name, control.version, control.architecture) == ("hello", "1:2.10-3+b1", "amd64")
    assert control.relations("Pre-Depends", "Depends") == (("dpkg",), ("libc6",), ("a", "b"), ("c",))


@pytest.mark.parametrize(
    "member",
    [
        file("../etc/passwd"),
        file("/etc/passwd"),
        file("./usr/../../etc/passwd"),
        file("./usr//x"),
        file("./a\nb"),
        file("./" + "a/" * 600 + "x"),
        link("./usr/bin/x", "./etc/shadow", tarfile.LNKTYPE),
        link("./usr/bin/x", "../../etc/shadow", tarfile.LNKTYPE),
        node("./dev/sda", tarfile.BLKTYPE),
        node("./dev/null", tarfile.CHRTYPE),
        node("./run/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: ascii(member[0].name[:20]),
)
def test_hostile_members_are_refused(member: Member, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="hello"):
        unpacked(deb(member))


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with pytest.raises(FormatError, match="not a folder"):
        unpacked(deb(link("./usr/x", str(outside)), file("./usr/x/y")))
    assert not any(outside.iterdir())


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="folder"):
        unpacked(deb(file("./usr/x/y"), folder("./usr/x"), file("./usr/x")))


def _flip(data: bytes) -> bytes:
    middle = data.index(b"data.tar") + 200
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[:100],
        lambda data: data[:-200],
        lambda data: b"PK" + data[2:],
        lambda data: data.replace(b"debian-binary", b"debian-banary"),
        lambda data: data.replace(b"data.tar.xz ", b"dota.tar.xz "),
        lambda data: data.replace(b"data.tar.xz ", b"data.tar.rar"),
        lambda data: data.replace(b"data.tar.xz ", b"data.tar.gz "),
        _flip,
        lambda data: ar(("debian-binary", b"9.0\n"), ("control.tar", b"")),
        lambda data: ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(tar(file("./other"))))),
        lambda data: ar(("debian-binary", b"2.0\n"), ("control.tar.xz", lzma.compress(tar(file("./control", b"Package: x\n"))))),
    ],
)
def test_damaged_packages_are_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = damage(deb(file("./usr/bin/x", bytes(range(256)) * 40)))
    with pytest.raises(FormatError, match="hello"):
        read_control(io.BytesIO(data), "hello")
        unpacked(data)


def test_the_digest_is_checked_before_a_byte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb())
    row = locked(path)
    with open_verified(path, row.sha256) as stream:
        assert read_control(stream, "x").name == "hello"
    path.write_bytes(_flip(deb(file("./x"))))
    with pytest.raises(VerifyError, match="sha256"), open_verified(path, row.sha256):
        pass
    with pytest.raises(VerifyError, match="not in the download cache"), open_verified(tmp_path / "none.deb", row.sha256):
        pass
