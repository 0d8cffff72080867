# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged packages: each is refused with the file, the member and the reason named."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib

import pytest

from pipeline.apk.format.hostile import Policy
from pipeline.apk.format.index import read_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import Signer
from pipeline.base.errors import FactoryError, FormatError, VerifyError
from tests.unit.apk.forge import END, Form, Item, gz, item, package, pkginfo, raw_tar, signature, stream

GOOD = [item("usr", type=tarfile.DIRTYPE, mode=0o755), item("usr/a", b"text")]
LINK = item("usr/l", type=tarfile.SYMTYPE, linkname="/etc")


def read(data: bytes, policy: Policy | None = None) -> list[str]:
    """Names of all entries of a package, which is read to its end."""
    found = read_package(stream(data), None, name="evil-1-r0.apk")
    return [entry.name for entry, content in found.iter_data(policy or Policy()) if content.read() is not None]


def refused(data: bytes, reason: str, policy: Policy | None = None, error: type[FactoryError] = FormatError) -> None:
    with pytest.raises(error, match=reason) as caught:
        read(data, policy)
    assert caught.value.message.startswith("evil-1-r0.apk: ")


def test_the_forge_makes_good_packages() -> None:
    assert read(package(GOOD)) == ["usr", "usr/a"]
    assert read(package([*GOOD, item("usr/b", type=tarfile.LNKTYPE, linkname="usr/a"), LINK])) == [
        "usr",
        "usr/a",
        "usr/b",
        "usr/l",
    ]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(form: Form) -> None:
    """Every way in which tar writes a long name is read."""
    name = f"usr/{'a' * 90}/{'b' * 60}"
    target = "c" * (100 if form == tarfile.USTAR_FORMAT else 180)
    items = [item(name, b"x"), item("usr/l", type=tarfile.SYMTYPE, linkname=target)]
    found = read_package(stream(package(data=gz(raw_tar(items, form) + END))), None)
    assert [(entry.name, entry.target) for entry, _content in found.iter_data()] == [(name, ""), ("usr/l", target)]


@pytest.mark.parametrize(
    "items, reason",
    [
        ([item("/etc/passwd", b"x")], "data: name '/etc/passwd' is an absolute path"),
        ([item("../etc/passwd", b"x")], r"data: name '\.\./etc/passwd' has an empty, '\.' or '\.\.' component"),
        ([item("usr/../../etc/passwd", b"x")], "component"),
        ([item("usr/..", type=tarfile.DIRTYPE)], "component"),
        ([item("./usr/a", b"x")], "component"),
        ([item("usr//a", b"x")], "component"),
        ([item("usr/a/", b"x")], "component"),
        ([item("", b"x")], "empty name"),
        ([item("usr/a\nR:b", b"x")], "control character"),
        ([item("usr/a\x1b[2J", b"x")], "control character"),
        ([item("usr/a\x85", b"x")], "control character"),
        ([item("usr/" + "a" * 256, b"x")], "more than 255 bytes"),
        ([item("/".join(["a" * 250] * 20), b"x")], "4096 are allowed"),
        ([item("usr/a", b"x", uname="ro\not")], "owner of usr/a"),
        ([*GOOD, item("usr/a", b"other")], "usr/a occurs twice"),
        ([*GOOD, item("usr", b"")], "usr occurs twice"),
        ([item("usr/\udcff", b""), item("usr/\udcff", b"")], r"usr/\\xff occurs twice"),
        ([LINK, item("usr/l/passwd", b"x")], "its folder usr/l is a symlink"),
        ([LINK, item("usr/l/a/b/c", b"x")], "its folder usr/l is a symlink"),
        ([LINK, item("usr/l", type=tarfile.DIRTYPE)], "usr/l occurs twice"),
        ([item("usr/a", b""), item("usr/a/b", b"x")], "its folder usr/a is a file"),
        ([item("usr/a/b", b"x"), item("usr/a", type=tarfile.SYMTYPE, linkname="/etc")], "usr/a occurs twice"),
        ([item("usr/h", type=tarfile.LNKTYPE, linkname="/etc/passwd")], "target of usr/h '/etc/passwd' is an absolute path"),
        ([item("usr/h", type=tarfile.LNKTYPE, linkname="../etc/passwd")], "component"),
        ([item("usr/h", type=tarfile.LNKTYPE, linkname="etc/passwd")], "not a file before it"),
        ([item("usr/h", type=tarfile.LNKTYPE, linkname="usr/a"), GOOD[1]], "not a file before it"),
        ([LINK, item("usr/h", type=tarfile.LNKTYPE, linkname="usr/l")], "not a file before it"),
        ([item("usr/h", type=tarfile.LNKTYPE, linkname="usr/h")], "not a file before it"),
        ([item("usr/l", type=tarfile.SYMTYPE, linkname="")], "empty or overlong target"),
        ([item("usr/l", type=tarfile.SYMTYPE, linkname="a" * 5000)], "empty or overlong target"),
        ([item("usr/l", type=tarfile.SYMTYPE, linkname="a\nb")], "target of usr/l"),
        ([item("dev/sda", type=tarfile.BLKTYPE, devmajor=8)], r"device node or pipe \(block\)"),
        ([item("dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1)], r"device node or pipe \(char\)"),
        ([item("run/p", type=tarfile.FIFOTYPE)], r"device node or pipe \(fifo\)"),
        ([item(".PKGINFO", b"pkgname = other")], "belongs in the control member"),
        ([item(".post-install", b"rm -rf /")], "belongs in the control member"),
        ([item(".SIGN.RSA.x.rsa.pub", b"")], "belongs in the control member"),
        ([item("usr/s", type=tarfile.GNUTYPE_SPARSE)], "type 'S' of tar entry is not allowed"),
        ([item("usr/c", type=tarfile.CONTTYPE)], "type '7' of tar entry is not allowed"),
        ([item("usr/d", b"x", type=tarfile.DIRTYPE)], "a dir with content"),
        ([item("usr/l", b"x", type=tarfile.SYMTYPE, linkname="a")], "a symlink with content"),
        ([item("usr/a", b"x", pax_headers={"APK-TOOLS.checksum.SHA1": "0" * 40})], "content differs from the checksum"),
        ([item("usr/a", b"", pax_headers={"APK-TOOLS.checksum.SHA1": "0" * 40})], "content differs from the checksum"),
        ([item("usr/a", b"x", pax_headers={"APK-TOOLS.checksum.SHA1": "Z"})], "is not a SHA-1"),
        ([item("usr/a", b"x", pax_headers={"GNU.sparse.major": "1"})], "of tar entry is not allowed"),
        ([item("usr/a", b"x", pax_headers={"size": "-1"})], "not a number"),
        ([item("usr/a", b"x", pax_headers={"path": "../x"})], "component"),
        ([item("usr/a", b"x", pax_headers={"path": "usr/a\0.txt"})], "control character"),
        ([item("usr/a", b"x", pax_headers={"comment": "c" * (1 << 20)})], "extended header of"),
    ],
)  # fmt: skip
def test_entries(items: list[Item], reason: str) -> None:
    refused(package(items), reason)


def test_device_nodes_need_a_policy() -> None:
    data = package([item("dev/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)])
    entries = list(read_package(stream(data), None).iter_data(Policy(devices=True)))
    assert [(entry.kind, entry.device) for entry, _content in entries] == [("char", (1, 3))]


@pytest.mark.parametrize(
    "policy, reason",
    [
        (Policy(max_entries=1), "more than the 1 entries"),
        (Policy(max_file=3), "usr/a: 4 bytes"),
        (Policy(max_total=3), "usr/a: 4 bytes"),
    ],
)
def test_bounds_of_the_policy(policy: Policy, reason: str) -> None:
    refused(package(GOOD), reason, policy)


def test_too_many_path_names_or_extended_headers_are_refused() -> None:
    """Of deep paths each folder above is a path of its own; of many heads all are read before their file."""
    deep = [item("/".join([f"{number:04}", *"a" * 2000]), b"") for number in range(40)]
    refused(package(deep), "more paths than are allowed", Policy(max_names=8 << 20))
    assert len(read(package(deep[:1]), Policy(max_names=8 << 20))) == 1
    heads = raw_tar([item("usr/a", b"", pax_headers={"comment": "x" * 100})])[:1024] * 9
    refused(member(heads + ONE + END), "more than 8 extended headers")


def member(raw: bytes) -> bytes:
    """A package with this tar as its data."""
    return package(data=gz(raw))


def changed(raw: bytes, at: int, new: bytes) -> bytes:
    """`raw` with its first header changed, and the header's checksum made right again."""
    block = bytearray(raw[:512])
    block[at : at + len(new)] = new
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + raw[512:]


ONE = raw_tar([item("usr/a", b"text")])


@pytest.mark.parametrize(
    "raw, reason",
    [
        (ONE[:700], "truncated tar, 324 bytes are missing"),
        (ONE[:300], "truncated tar"),
        (ONE[:514], "archive ends 2 bytes before the file does"),
        (ONE + END + b"garbage", "garbage after the end of the tar"),
        (ONE[:600] + b"x" + ONE[601:] + END, "garbage between two files"),
        (b"\xff" + ONE[1:] + END, "damaged tar header"),
        (ONE[:148] + b"zzzzzz\0 " + ONE[156:], "bad checksum"),
        (changed(ONE, 124, b"99999999999\0"), "bad size"),
        (changed(ONE, 124, b"\x80" + b"\xff" * 11), "more than is allowed"),
        (changed(ONE, 100, b"07x5   \0"), "bad mode"),
        (raw_tar([item("usr/a", b"text", pax_headers={"comment": "x"})])[:1024] + END, "header of a file that is not there"),
        (changed(raw_tar([item("@", b"9 a=b\n\0\0\0")]), 156, b"x") + ONE, "damaged pax header"),
        (changed(raw_tar([item("@", b"99 a=b\n")]), 156, b"x") + ONE, "damaged pax header"),
        (changed(raw_tar([item("@", b"6 a=b\n6 a=c\n")]), 156, b"x") + ONE, "twice"),
        (changed(raw_tar([item("@", b"a=b\n")]), 156, b"x") + ONE, "damaged pax header"),
        (changed(raw_tar([item("@", b"0 a=b\n")]), 156, b"x") + ONE, "damaged pax header"),
        (changed(raw_tar([item("@", b"7 \xff=b\n")]), 156, b"x") + ONE, "damaged pax|not UTF-8"),
    ],
)
def test_damaged_tar(raw: bytes, reason: str) -> None:
    refused(member(raw), reason)


def test_members() -> None:
    good = package(GOOD)
    refused(b"", "control: truncated gzip member, it ends after 0 bytes")
    refused(b"hello world", "control: damaged gzip member")
    refused(good[:40], "control: truncated gzip member")
    refused(good[:-1], "data: truncated gzip member")
    refused(good[:-8] + bytes(8), "data: damaged gzip member")
    refused(good + b"\0", "bytes after the data member")
    refused(good + b"garbage", "bytes after the data member")
    refused(good + gz(raw_tar(GOOD)), "bytes after the data member")
    refused(package(data=b""), "ends after control, data is missing")
    refused(package(GOOD, data=gz(ONE + END)[:-3] + b"xyz"), "data: damaged gzip member")


def test_control() -> None:
    good = item(".PKGINFO", pkginfo("0" * 64))
    for control, reason in [
        ([], "control: no .PKGINFO"),
        ([item(".post-install", b"x")], "control: no .PKGINFO"),
        ([good, good], "control: .PKGINFO occurs twice"),
        ([good, item("usr/a", b"x")], "'usr/a' .file. does not belong in the control"),
        ([good, item(".a/../../b", b"x")], "does not belong in the control"),
        ([good, item(".trigger", type=tarfile.SYMTYPE, linkname="/bin/sh")], "does not belong in the control"),
        ([good, item(".SIGN.RSA.k.rsa.pub", b"x")], "does not belong in the control"),
        ([item(".PKGINFO", b"pkgname = evil\npkgver = 1-r0\narch = noarch\n")], "no datahash"),
        ([item(".PKGINFO", b"pkgname = \xff\xfe\n")], "control: .PKGINFO:1: pkgname is not UTF-8"),
    ]:
        refused(package(GOOD, control=control), reason)


def test_data_of_another_package() -> None:
    control = [item(".PKGINFO", pkginfo(hashlib.sha256(b"").hexdigest()))]
    refused(package(GOOD, control=control), "data: sha256 is [0-9a-f]{64}, the signed control says e3b0", error=VerifyError)


def bomb(megabytes: int) -> bytes:
    """A gzip member that unpacks to zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()])


def test_bombs(signer: Signer) -> None:
    """A small file that unpacks to much is given up early."""
    refused(bomb(17), "control: unpacks to more than the 16777216 bytes allowed")
    refused(package(GOOD, control=[item(".PKGINFO", bytes(1 << 20))] * 17), "control: unpacks to more than")
    big = gz(raw_tar([item(signer.member_name, bytes(1 << 20))]))
    refused(big + package(GOOD), "signature of 1049088 bytes, 262144 are allowed")
    refused(
        package(data=bomb(8)), "data: unpacks to more than the 1052672 bytes allowed", Policy(max_total=1 << 20, max_entries=1)
    )


def test_signature_members(signer: Signer) -> None:
    good = package(GOOD)
    mine = signature(good, signer)
    assert read(mine + good) == ["usr", "usr/a"]
    refused(mine, "ends after the signature")
    refused(mine + mine + good, "more than one signature member")
    for name, reason in [
        (".SIGN.RSA", "algorithm and key"),
        (".SIGN.RSA.", "not the file name of a key"),
        (".SIGN.RSA.../../k.pub", "not the file name of a key"),
        (".SIGN.R/A.k", "algorithm and key"),
    ]:
        with pytest.raises(FormatError, match=reason):
            read(gz(raw_tar([item(name, b"x")])) + good)
    refused(gz(raw_tar([item(".SIGN.RSA.k", b"x")] * 2)) + good, "twice")
    refused(gz(raw_tar([item(f".SIGN.RSA.k{number}", b"x") for number in range(17)])) + good, "too many")
    refused(gz(raw_tar([item(".SIGN.RSA.k", b"x"), item("usr/a", b"x")])) + good, "does not belong in the signature")
    refused(gzip.compress(raw_tar([item(".SIGN.RSA.k", b"x")]), mtime=1) + good, "gzip header with a name, a time")


@pytest.mark.parametrize("start", [b"ADB.", b"ADBd", b"ADBc", b"ADBx"])
def test_the_third_format_is_known_by_its_beginning(start: bytes) -> None:
    for read in (read_package, read_index):
        with pytest.raises(FormatError, match=r"a\.apk: "):
            read(stream(start + b"pckg" + bytes(200)), None, name="a.apk")
