# SPDX-License-Identifier: Apache-2.0
"""Packages that we write: read back the same, made the same twice, and read by tarfile as well."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import resource
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.apk.format.package import Source, TarEntry, read_package, sign_package, tree_entries, write_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import KeyRing, Signer, generate_key
from pipeline.apk.format.writer import memory_member
from pipeline.base.errors import FormatError, VerifyError

INFO = PkgInfo("hello", "1.0-r0", "noarch", depends=("busybox",))
EPOCH = 1_700_000_000
NAME = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="/."), min_size=1, max_size=40)
PATH = st.lists(NAME, min_size=1, max_size=5).map("/".join)


class NamedPipe(io.BytesIO):
    """A stream that can be read once."""

    def seekable(self) -> bool:
        return False


def written(
    entries: list[tuple[TarEntry, Source]], signer: Signer | None = None, scripts: dict[str, bytes] | None = None
) -> bytes:
    out = io.BytesIO()
    write_package(out, INFO, scripts or {}, entries, epoch=EPOCH, signer=signer)
    return out.getvalue()


def contents(data: bytes, ring: KeyRing | None = None) -> dict[str, tuple[TarEntry, bytes]]:
    package = read_package(io.BytesIO(data), ring)
    return {entry.name: (entry, content.read()) for entry, content in package.iter_data()}


@given(st.dictionaries(PATH, st.tuples(st.binary(max_size=2000), st.sampled_from([0o644, 0o755, 0o4755])), max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip(files: dict[str, tuple[bytes, int]]) -> None:
    names = set(files)
    plain = {name: file for name, file in files.items() if not any(other.startswith(f"{name}/") for other in names)}
    entries: list[tuple[TarEntry, Source]] = [(TarEntry(name, mode=mode), data) for name, (data, mode) in plain.items()]
    package = written(entries)
    assert package == written(entries[::-1])
    found = contents(package)
    assert {name: (data, entry.mode) for name, (entry, data) in found.items() if entry.kind == "file"} == plain
    for name in plain:
        assert all(found[str(parent)][0].kind == "dir" for parent in list(Path(name).parents)[:-1])


def test_all_kinds(ring: KeyRing, signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(700_001))
    deep = f"usr/{'a' * 99}/{'b' * 200}"
    entries: list[tuple[TarEntry, Source]] = [
        (TarEntry("usr/hard", "hardlink", target="usr/z"), None),
        (TarEntry("usr/z", mode=0o4755), b"z"),
        (TarEntry("usr/l", "symlink", 0o777, target="../" + "t" * 150), None),
        (TarEntry("var/tmp", "dir", 0o1777, uid=3_000_000, gid=12, uname="nobody", gname="mail"), None),
        (TarEntry(deep), tmp_path / "big"),
        (TarEntry("usr/s"), lambda: io.BytesIO(b"stream")),
        (TarEntry("usr/cap", xattrs=(("security.capability", b"\1\0\0\2\n=\xff"),)), b""),
    ]
    scripts = {".trigger": b"#!/bin/sh\n", ".pre-install": b"#!/bin/sh\nexit 0\n"}
    data = written(entries, signer, scripts)
    package = read_package(io.BytesIO(data), ring)
    assert package.scripts == scripts
    assert package.info.builddate == EPOCH
    assert package.info.size == 700_001 + 1 + 6
    assert package.size is None
    assert package.verify_data() == len(data) == package.size
    found = contents(data, ring)
    assert found["usr/hard"][0].target == "usr/z"
    assert found["usr/l"][0].target == "../" + "t" * 150
    assert found["usr/l"][0].checksum == hashlib.sha1(found["usr/l"][0].target.encode()).hexdigest()
    assert (found["var/tmp"][0].uid, found["var/tmp"][0].uname, found["var/tmp"][0].mode) == (3_000_000, "nobody", 0o1777)
    assert found[deep][1] == (tmp_path / "big").read_bytes()
    assert found["usr/s"][1] == b"stream"
    assert found["usr/cap"][0].xattrs == (("security.capability", b"\1\0\0\2\n=\xff"),)
    assert {entry.mtime for entry, _data in found.values()} == {EPOCH}
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data)), ignore_zeros=True) as tar:
        listed = tar.getnames()
    assert listed[:4] == [".SIGN.RSA256.test-1.rsa.pub", ".PKGINFO", ".pre-install", ".trigger"]
    assert sorted(listed[4:]) == sorted(found)


def test_tree(tmp_path: Path) -> None:
    """A folder is packed the same whatever its times, its order and the umask's group bits of its files."""
    for root in (tmp_path / "one", tmp_path / "two"):
        (root / "etc/empty").mkdir(parents=True)
        for name in ["b", "a"] if root.name == "one" else ["a", "b"]:
            (root / "etc" / name).write_text(name)
            (root / "etc" / name).chmod(0o640)
        os.link(root / "etc/a", root / "etc/c")
        (root / "etc/l").symlink_to("a")
    os.utime(tmp_path / "one/etc/a", (1, 1))
    one, two = (written(list(tree_entries(tmp_path / name, {"etc/b": ("root", "wheel")}))) for name in ("one", "two"))
    assert one == two
    found = contents(one)
    assert {name: entry.kind for name, (entry, _data) in found.items()} == {
        "etc": "dir", "etc/a": "file", "etc/b": "file", "etc/c": "hardlink", "etc/empty": "dir", "etc/l": "symlink",
    }  # fmt: skip
    assert found["etc/b"][0].gname == "wheel"
    os.mkfifo(tmp_path / "one/pipe")
    with pytest.raises(FormatError, match="pipe: neither"):
        list(tree_entries(tmp_path / "one"))


def test_sign_later(ring: KeyRing, signer: Signer, tmp_path: Path) -> None:
    entries: list[tuple[TarEntry, Source]] = [(TarEntry("usr/a"), b"x" * 100_000)]
    bare, at_once = written(entries), written(entries, signer)
    with pytest.raises(VerifyError, match="not signed"):
        read_package(io.BytesIO(bare), ring)
    for package in (bare, at_once):
        out = io.BytesIO()
        sign_package(io.BytesIO(package), out, signer)
        assert out.getvalue() == at_once
    generate_key(tmp_path, "other", bits=2048)
    out = io.BytesIO()
    sign_package(io.BytesIO(at_once), out, Signer(tmp_path / "other.rsa", "other.rsa.pub"))
    assert KeyRing.load(tmp_path).names == ("other.rsa.pub",)
    assert (
        read_package(io.BytesIO(out.getvalue()), KeyRing.load(tmp_path)).checksum == read_package(io.BytesIO(bare), None).checksum
    )
    with pytest.raises(VerifyError, match=r"no valid signature by a trusted key; signed by other\.rsa\.pub"):
        read_package(io.BytesIO(out.getvalue()), ring)
    with pytest.raises(FormatError, match="read twice"), NamedPipe(bare) as pipe:
        sign_package(pipe, io.BytesIO(), signer)
    with pytest.raises(FormatError, match="truncated"):
        sign_package(io.BytesIO(bare[:-5]), io.BytesIO(), signer)


def test_packages_that_would_be_refused_are_not_written() -> None:
    for entries in (
        [(TarEntry("../x"), b"")],
        [(TarEntry("dev/null", "char", device=(1, 3)), None)],
        [(TarEntry("a"), b""), (TarEntry("a/b"), b"")],
        [(TarEntry("a"), b""), (TarEntry("a"), b"")],
        [(TarEntry("a", "hardlink", target="b"), None)],
    ):
        with pytest.raises(FormatError):
            written(list(entries))
    with pytest.raises(FormatError, match=r"no script is called \.post-remove"):
        written([], scripts={".post-remove": b""})


def test_file_that_changes(tmp_path: Path) -> None:
    calls = iter([b"first", b"other"])
    with pytest.raises(FormatError, match="a: changed while it was being packed"):
        written([(TarEntry("a"), lambda: io.BytesIO(next(calls)))])


def test_data_is_read_once() -> None:
    package = read_package(io.BytesIO(written([(TarEntry("a"), b"x")])), None)
    package.verify_data()
    assert len(list(package.iter_data())) == 1
    with pytest.raises(FormatError, match="read already"):
        list(package.iter_data())


def test_not_from_the_start_of_the_file(ring: KeyRing, signer: Signer) -> None:
    stream = io.BytesIO(b"before" + written([(TarEntry("a"), b"x" * 200_000)], signer))
    stream.seek(6)
    package = read_package(stream, ring)
    package.verify_data()
    assert [content.read() for _entry, content in package.iter_data()] == [b"x" * 200_000]


def test_every_flipped_byte_is_found(ring: KeyRing, signer: Signer) -> None:
    good = written(
        [(TarEntry("usr/a"), b"x" * 1000), (TarEntry("usr/l", "symlink", target="a"), None)], signer, {".trigger": b"x"}
    )
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        with pytest.raises(VerifyError):
            read_package(io.BytesIO(bytes(bad)), ring).verify_data()
    for size in range(0, len(good), 7):
        with pytest.raises(VerifyError):
            read_package(io.BytesIO(good[:size]), ring).verify_data()


@pytest.mark.parametrize("level", [0, 9])
def test_every_bit_of_a_signature_is_found(ring: KeyRing, signer: Signer, level: int) -> None:
    """Nothing signs the signature's member: stored as we write it, or packed as abuild does, none of its bits is free."""
    plain = written([(TarEntry("a", size=4), b"data")])
    control = read_package(io.BytesIO(plain), None).data_offset
    member = memory_member({signer.member_name: signer.sign(plain[:control])}, 0, end=False, level=level)
    assert read_package(io.BytesIO(member + plain), ring).verify_data() == len(member + plain)
    for bit in range(len(member) * 8):
        flipped = bytearray(member + plain)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(VerifyError):
            read_package(io.BytesIO(bytes(flipped)), ring)


def test_large_files_are_not_held_in_memory(tmp_path: Path) -> None:
    """150 MB of zeros go in and out with little memory."""
    big = tmp_path / "big"
    with big.open("wb") as stream:
        stream.truncate(150 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (tmp_path / "big.apk").open("w+b") as stream:
        write_package(stream, INFO, {}, [(TarEntry("big"), big)], epoch=0, level=1)
        stream.seek(0)
        read_package(stream, None).verify_data()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("fast", [True, False])
def test_verified_data_is_unpacked_by_either_library(
    monkeypatch: pytest.MonkeyPatch, ring: KeyRing, signer: Signer, fast: bool
) -> None:
    """What is hashed first and then unpacked by isal, or by zlib where that is not there, is the same."""
    if not fast:
        monkeypatch.setitem(sys.modules, "isal", None)
    content = bytes(range(250)) * 1200
    good = written([(TarEntry("a", size=len(content)), content)], signer)
    package = read_package(io.BytesIO(good), ring)
    assert package.verify_data() == len(good)
    assert [(entry.name, found.read()) for entry, found in package.iter_data()] == [("a", content)]
    for bad, reason in ((good + b"x", "trailing garbage"), (good[:-9], "truncated"), (good[:-1] + b"\1", "damaged gzip member")):
        with pytest.raises(VerifyError, match=reason):
            read_package(io.BytesIO(bad), ring).verify_data()
