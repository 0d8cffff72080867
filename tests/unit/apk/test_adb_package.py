# SPDX-License-Identifier: Apache-2.0
"""Packages of format 3: written, read back and verified; no bit of them can change unseen."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from pipeline.apk.__main__ import main
from pipeline.apk.adb.encoder import Packer
from pipeline.apk.adb.writer import convert_package, write_index, write_package
from pipeline.apk.format.index import package_entry, read_index
from pipeline.apk.format.package import Package, read_package
from pipeline.apk.format.package import write_package as write_second
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import KeyRing, Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import Source
from pipeline.base.errors import VerifyError

EPOCH = 1_700_000_000
INFO = PkgInfo(
    "hello", "1.0-r0", "x86_64", "Says hello", "address", "MIT", "hello", "Me <me>", 77, EPOCH, 20 * "a1",
    ("busybox>=1.2", "!foo", "so:libc.so.6", "b~2", "c><Q1aaaa"), ("cmd:hello=1.0-r0",), ("a", "b<~3"), ("old<2",), 5, 7,
    ("/usr/lib/*", "/etc"),
)  # fmt: skip
SCRIPTS = {".post-install": b"#!/bin/sh\ntrue\n", ".trigger": b"#!/bin/sh\nfalse\n"}
FILES: list[tuple[TarEntry, Source]] = [
    (TarEntry("usr/bin/hey", "hardlink", 0o755, target="usr/bin/hi"), None),
    (TarEntry("usr/bin/hi", "file", 0o4755, uname="me", gname="us"), b"hello hello hello hello\n"),
    (TarEntry("usr/bin/link", "symlink", 0o777, target="../hi"), None),
    (TarEntry("etc/empty", "file", 0o600), b""),
    (TarEntry("etc/caps", "file", 0o600, xattrs=(("user.x", b"\0\1"),)), b"12345678"),
    (TarEntry("var", "dir", 0o700, uname="me"), None),
]
Make = Callable[..., bytes]


def made(signer: Signer | None, level: int = 9, **changes: object) -> bytes:
    """A package with everything in it."""
    out = io.BytesIO()
    fields = {name: getattr(INFO, name) for name in PkgInfo.__slots__} | changes
    write_package(out, PkgInfo(**fields), SCRIPTS, FILES, epoch=EPOCH, signer=signer, level=level)
    return out.getvalue()


def with_zstd(signer: Signer) -> bytes:
    """The same, packed by zstd, which Alpine's apk is built without."""
    return b"ADBc" + bytes((2, 9)) + zstd.compress(made(signer, 0), level=9)


def opened(data: bytes, ring: KeyRing | None) -> Package:
    return read_package(io.BytesIO(data), ring, name="hello.apk")


def verify(data: bytes, ring: KeyRing) -> None:
    opened(data, ring).verify_data()


@pytest.fixture(scope="module", params=["none", "deflate", "level", "zstd"])
def packed(request: pytest.FixtureRequest, signer: Signer) -> bytes:
    """The package in each packing."""
    if request.param == "zstd":
        return with_zstd(signer)
    return made(signer, {"none": 0, "deflate": 9, "level": 6}[request.param])


def test_a_written_package_is_read_back_the_same(packed: bytes, ring: KeyRing) -> None:
    package = opened(packed, ring)
    assert (package.format, package.signer) == (3, "test-1.rsa.pub")
    assert sorted(package.info.depends) == sorted(INFO.depends)
    assert {name: getattr(package.info, name) for name in PkgInfo.__slots__ if name != "depends"} == {
        name: getattr(INFO, name) for name in PkgInfo.__slots__ if name != "depends"
    }
    assert package.scripts == SCRIPTS
    assert package.verify_data() == package.size == len(packed)
    assert {item.key_name for item in package.signatures} == {"test-1.rsa.pub"}
    found = {entry.name: (entry, content.read()) for entry, content in package.iter_data()}
    with pytest.raises(VerifyError, match="read already"):
        list(package.iter_data())
    assert list(found) == ["etc", "etc/caps", "etc/empty", "usr", "usr/bin", "usr/bin/hey", "usr/bin/hi", "usr/bin/link", "var"]
    hey, hi = found["usr/bin/hey"], found["usr/bin/hi"]
    assert (hey[0].kind, hey[1], hey[0].mode, hey[0].uname, hey[0].gname) == (
        "file",
        b"hello hello hello hello\n",
        0o4755,
        "me",
        "us",
    )
    assert (hi[0].kind, hi[0].target) == ("hardlink", "usr/bin/hey"), "the first of both names has the data"
    assert (found["usr/bin/link"][0].kind, found["usr/bin/link"][0].target) == ("symlink", "../hi")
    assert found["etc/caps"][0].xattrs == (("user.x", b"\0\1"),)
    assert (found["var"][0].kind, found["var"][0].mode, found["var"][0].uname) == ("dir", 0o700, "me")
    assert {entry.mtime for entry, _ in found.values() if entry.kind != "dir"} == {EPOCH}


def test_no_bit_changes_unseen(packed: bytes, ring: KeyRing) -> None:
    """Of a package with a chosen level, the level itself may change: apk could have written that, too."""
    verify(packed, ring)
    unseen = []
    for bit in range(8 * len(packed)):
        if packed.startswith(b"ADBc") and bit // 8 == 5:
            continue
        bad = bytearray(packed)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            verify(bytes(bad), ring)
        except VerifyError as error:
            assert error.message.startswith("hello.apk: "), error
        else:
            unseen.append(bit)
    assert unseen == []


def test_no_end_is_missed(packed: bytes, ring: KeyRing) -> None:
    """Cut anywhere, or with anything behind it."""
    for size in range(len(packed)):
        with pytest.raises(VerifyError):
            verify(packed[:size], ring)
    for tail in (b"\0", bytes(8), b"ADB.", packed):
        with pytest.raises(VerifyError):
            verify(packed + tail, ring)


def test_large_packed_files_are_not_packed_again(signer: Signer, ring: KeyRing) -> None:
    """Only what is small is compared with what the packer would write; a large file is read and verified all the same."""
    out = io.BytesIO()
    body = b"".join(number.to_bytes(4, "big") for number in range(200_000))
    write_package(out, INFO, {}, [(TarEntry("big"), body)], epoch=EPOCH, signer=signer)
    assert [content.read() for _entry, content in opened(out.getvalue(), ring).iter_data()] == [body]


@pytest.mark.parametrize("size", [*range(98_000, 98_030, 4), *range(131_000, 131_072, 18), 200_000])
@pytest.mark.parametrize("kind", ["same", "random"])
def test_bits_after_the_end_of_large_packed_files_are_refused(signer: Signer, ring: KeyRing, size: int, kind: str) -> None:
    """Deflate ends within a byte; whatever the size, no bit of that byte may change, and the right ones are accepted."""
    out = io.BytesIO()
    body = bytes(size) if kind == "same" else random.Random(size).randbytes(size)
    write_package(out, PkgInfo("big", "1", "x86_64"), {}, [(TarEntry("big"), body)], epoch=EPOCH, signer=signer)
    good = out.getvalue()
    verify(good, ring)
    for bit in range(8):
        with pytest.raises(VerifyError):
            verify(good[:-1] + bytes((good[-1] ^ 1 << bit,)), ring)


@pytest.mark.parametrize(
    ("signed", "message"), [(False, "not signed"), (True, "no valid signature by a trusted key; signed by [0-9a-f]{32}$")]
)
def test_unsigned_and_untrusted_packages_are_refused_with_a_verifier(
    signed: bool, message: str, ring: KeyRing, tmp_path: Path
) -> None:
    generate_key(tmp_path, "other", bits=2048)
    data = made(Signer(tmp_path / "other.rsa", "other.rsa.pub") if signed else None)
    with pytest.raises(VerifyError, match=message):
        opened(data, ring)
    assert opened(data, None).info.name == "hello", "without a verifier it can be looked at"
    assert opened(data, None).verify_data() == len(data)


def test_names_of_keys_do_not_count(signer: Signer, key_folder: Path) -> None:
    """A signature names its key by its digest: the name of the file that holds the key is ours to choose."""
    key = (key_folder / "test-1.rsa.pub").read_bytes()
    package = opened(made(signer), KeyRing({"a.pub": b"no key", "b.pub": key}))
    assert package.signer == "b.pub"


def test_equal_input_gives_equal_bytes(signer: Signer) -> None:
    assert made(signer) == made(signer)
    out = io.BytesIO()
    write_package(out, INFO, SCRIPTS, FILES[::-1], epoch=EPOCH, signer=signer)
    assert out.getvalue() == made(signer)


def test_conversion_keeps_everything(signer: Signer, ring: KeyRing) -> None:
    """A package of format 2 as one of format 3: the same metadata, scripts, files."""
    second, third = io.BytesIO(), io.BytesIO()
    write_second(second, INFO, SCRIPTS, FILES, epoch=EPOCH, signer=signer)
    before = opened(second.getvalue(), ring)
    convert_package(before, third, signer, io.BytesIO())
    after = opened(third.getvalue(), ring)
    assert sorted(after.info.depends) == sorted(before.info.depends)
    assert (after.info.name, after.info.size, after.info.triggers) == ("hello", 77, INFO.triggers)
    assert after.scripts == before.scripts
    contents = {entry.name: content.read() for entry, content in opened(second.getvalue(), ring).iter_data()}
    found = {entry.name: content.read() for entry, content in after.iter_data()}
    assert found.pop("usr/bin/hey") == contents.pop("usr/bin/hi")
    assert found.pop("usr/bin/hi") == contents.pop("usr/bin/hey") == b""
    assert found == contents


def test_index(signer: Signer, ring: KeyRing) -> None:
    """An index names packages by the SHA-256 of their metadata; the latest build stands for its own time."""
    out, data = io.BytesIO(), made(signer)
    package = opened(data, ring)
    entry = package_entry(package, len(data))
    write_index(out, "main v1", [entry], signer)
    index = read_index(io.BytesIO(out.getvalue()), ring, name="Packages.adb")
    assert (index.description, index.signer, index.made) == ("main v1", "test-1.rsa.pub", EPOCH)
    (found,) = index.entries
    assert (found.name, found.version, found.arch, found.size, found.checksum) == (
        "hello",
        "1.0-r0",
        "x86_64",
        len(data),
        entry.checksum,
    )
    assert found.checksum.startswith("Q2")
    package.check_identity(found.checksum, "")
    with pytest.raises(VerifyError, match=r"hello\.apk: checksum is Q2.*, the index says Q1x"):
        package.check_identity("Q1x", "")
    good = out.getvalue()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerifyError):
            read_index(io.BytesIO(bytes(bad)), ring)
    for size in range(len(good)):
        with pytest.raises(VerifyError):
            read_index(io.BytesIO(good[:size]), ring)
    with pytest.raises(VerifyError, match="is a package, not an index"):
        read_index(io.BytesIO(data), ring)
    with pytest.raises(VerifyError, match="is an index, not a package"):
        opened(good, ring)


def test_command(signer: Signer, key_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`info` and `verify` take either format."""
    (tmp_path / "hello.apk").write_bytes(made(signer))
    (tmp_path / "damaged.apk").write_bytes(made(signer)[:-1])
    assert main(["info", str(tmp_path / "hello.apk"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["format"], row["name"], row["signatures"]) == (3, "hello", ["RSA512:" + signer.key_id.hex()])
    assert [item["path"] for item in row["files"]][:2] == ["etc", "etc/caps"]
    assert main(["verify", "--keys", str(key_folder), str(tmp_path / "hello.apk"), str(tmp_path / "damaged.apk")]) == 13
    good, bad = capsys.readouterr().out.splitlines()
    assert good.endswith("hello.apk: ok")
    assert "truncated" in bad


def test_the_third_format_needs_no_level(signer: Signer) -> None:
    """The default level is not written, as in apk."""
    out = io.BytesIO()
    Packer(out, 9).close()
    assert out.getvalue().startswith(b"ADBd")
    assert made(signer, 6).startswith(b"ADBc\1\6")


def test_convert(signer: Signer, key_folder: Path, tmp_path: Path) -> None:
    """`convert` writes a package of format 2 as one of format 3, twice the same."""
    with (tmp_path / "hello.apk").open("wb") as out:
        write_second(out, INFO, SCRIPTS, FILES, epoch=EPOCH, signer=signer)
    made_now = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        options = ["--key", str(key_folder / "test-1.rsa"), "-o", str(tmp_path / name)]
        assert main(["convert", *options, str(tmp_path / "hello.apk")]) == 0
        made_now.append((tmp_path / name / "hello.apk").read_bytes())
    assert made_now[0] == made_now[1]
    assert main(["verify", "--keys", str(key_folder), str(tmp_path / "one/hello.apk")]) == 0
    assert main(["convert", "-o", str(tmp_path / "one"), str(tmp_path / "missing.apk")]) == 1
