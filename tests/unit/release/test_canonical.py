# SPDX-License-Identifier: Apache-2.0
"""Canonical digests: the same whoever signs and however it is packed, and another for any other change."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipeline.apk.adb import writer as adb
from pipeline.apk.format.gzipstream import RawSource
from pipeline.apk.format.head import read_head
from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signature, Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from pipeline.base.errors import FormatError
from pipeline.release.image_digest import (
    canonical_digest,
    signature_name,
    signing_ids,
    without_signature,
    without_signatures_inside,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def signers(keys: Path) -> tuple[Signer, Signer]:
    private = [generate_key(keys, name, bits)[0] for name, bits in (("first", 2048), ("the-second", 4096))]
    return Signer(private[0], "first.rsa.pub"), Signer(private[1], "the-second.rsa.pub")


def package(signer: Signer | None, content: bytes = b"hello\n") -> bytes:
    out = io.BytesIO()
    entry = TarEntry("usr/bin/a", size=len(content), mode=0o755)
    write_package(out, PkgInfo(name="a", version="1-r0", arch="x86_64"), {}, [(entry, content)], epoch=0, signer=signer)
    return out.getvalue()


def index(signer: Signer | None, folder: Path) -> bytes:
    """The index of the package as the same key signed it: it names the size of the file."""
    path = folder / "a-1-r0.apk"
    path.write_bytes(package(signer))
    out = io.BytesIO()
    write_index(out, "v1", [entry_of(path)], signer=signer, epoch=0)
    return out.getvalue()


def third(signer: Signer | None, folder: Path, content: bytes = b"hello\n") -> tuple[bytes, bytes]:
    """A package and an index of format 3; the index names a package that nobody has signed."""
    info, entry = PkgInfo(name="a", version="1-r0", arch="x86_64"), TarEntry("usr/bin/a", size=len(content), mode=0o755)
    out, listed = io.BytesIO(), io.BytesIO()
    adb.write_package(out, info, {}, [(entry, content)], epoch=0, signer=signer)
    path = folder / "a-1-r0.apk"
    path.write_bytes(package(None, content))
    adb.write_index(listed, "v1", [entry_of(path)], signer)
    return out.getvalue(), listed.getvalue()


def archive(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive (newc)."""
    out = bytearray()
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        fields = (number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def iso(folder: Path, files: Mapping[str, bytes]) -> Path:
    program = shutil.which("xorriso")
    if program is None:
        pytest.skip("xorriso is not installed")
    for name, data in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    image = folder / "a.iso"
    subprocess.run([program, "-as", "mkisofs", "-quiet", "-r", "-o", image, folder / "in"], check=True, capture_output=True)
    return image


# --- packed images --------------------------------------------------------------------------------------------


def test_packing_makes_no_difference(tmp_path: Path) -> None:
    data = bytes(100_000) + b"disk" * 999
    (tmp_path / "a.img").write_bytes(data)
    (tmp_path / "b.img.xz").write_bytes(lzma.compress(data))
    assert canonical_digest(tmp_path / "a.img") == canonical_digest(tmp_path / "b.img.xz")
    (tmp_path / "b.img.xz").write_bytes(lzma.compress(data)[:-20])
    with pytest.raises(FormatError, match="cannot be unpacked"):
        canonical_digest(tmp_path / "b.img.xz")
    with pytest.raises(FormatError, match="No such file"):
        canonical_digest(tmp_path / "c.img")


# --- signatures inside ----------------------------------------------------------------------------------------


def test_packages_and_indexes(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    plain = package(None)
    assert without_signature(plain) == plain
    assert {without_signature(package(signer)) for signer in signers} == {plain}
    assert len({without_signature(index(signer, tmp_path)) for signer in signers}) == 1
    assert signature_name(index(signers[0], tmp_path)) == ".SIGN.RSA.first.rsa.pub"
    assert signature_name(b"text") == ""
    for odd in (b"", b"text", b"\x1f\x8b", gzip.compress(b"text"), gzip.compress(b"text") * 2):
        assert without_signature(odd) == odd


def test_packages_and_indexes_of_the_third_format(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    made = [third(signer, tmp_path) for signer in (None, *signers)]
    for kind in zip(*made, strict=True):
        assert len(set(kind)) == 3
        assert len({without_signature(data) for data in kind}) == 1
        assert [signing_ids(data) for data in kind] == [frozenset(), *({signer.key_id} for signer in signers)]
    for data, other in zip(made[0], third(None, tmp_path, b"HELLO\n"), strict=True):
        assert without_signature(data) != without_signature(other)
    with pytest.raises(FormatError):
        without_signature(made[1][0][:-20])


def test_a_key_shows_in_the_signature_members_alone(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    """Two keys of other sizes and names: packages and indexes are equal byte for byte but for their first members, which are
    of one length, so that what notes the size of a package (indexes, the database of what is installed) is equal too."""
    for make in (package, lambda signer: index(signer, tmp_path)):
        first, second = (make(signer) for signer in signers)
        length = len(first) - len(without_signature(first))
        assert len(first) == len(second) and first[length:] == second[length:]
        assert [read.key_name for read in read_package_or_index(first)] == ["first.rsa.pub"]


def read_package_or_index(data: bytes) -> tuple[Signature, ...]:
    return read_head(RawSource(io.BytesIO(data), "x"), None, "control", 1 << 20, 1 << 20).signatures


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_signature_of_the_modloop(pack: type[bytes]) -> None:
    files = {"init": b"#!/bin/sh\n", "etc/x": b"x"}
    signed = {"var/cache/misc/modloop-lts.SIGN.RSA.a.rsa.pub": b"signature", **files}
    here = without_signatures_inside(pack(archive(files)), "initramfs")
    assert without_signatures_inside(pack(archive(signed)), "initramfs") == here
    assert without_signatures_inside(pack(archive({**files, "etc/x": b"y"})), "initramfs") != here
    assert without_signatures_inside(pack(archive({**files, "etc/y": b""})), "initramfs") != here


def test_damaged_initramfs() -> None:
    with pytest.raises(FormatError, match="cannot be unpacked"):
        without_signatures_inside(gzip.compress(b"x")[:-3], "initramfs")
    with pytest.raises(FormatError, match="is cut off"):
        without_signatures_inside(archive({"a": bytes(9000)})[:3000], "initramfs")
    with pytest.raises(FormatError, match="is damaged"):
        without_signatures_inside(b"070701" + b"x" * 200, "initramfs")
    assert without_signatures_inside(b"anything", "initramfs") == b"anything"


def medium(signer: Signer | None, folder: Path, change: Mapping[str, bytes] | None = None) -> Path:
    folder.mkdir()
    inside = {"etc/apk/keys/alpine.rsa.pub": b"theirs", "init": b"go"}
    if signer:
        name = signer.key_name
        inside |= {f"etc/apk/keys/{name}": b"public", f"var/cache/misc/modloop-lts.SIGN.RSA.{name}": b"signature"}
    files = {
        "apks/x86_64/a-1-r0.apk": package(signer),
        "apks/x86_64/APKINDEX.tar.gz": index(signer, folder),
        "boot/initramfs-lts": gzip.compress(archive(inside)),
        "boot/modloop-lts": b"modules",
        **(change or {}),
    }
    return iso(folder, files)


def test_iso(signers: tuple[Signer, Signer], tmp_path: Path) -> None:
    first, second = (medium(signer, tmp_path / signer.key_name) for signer in signers)
    assert first.read_bytes() != second.read_bytes()
    digest = canonical_digest(first)
    assert canonical_digest(second) == digest
    changes: list[dict[str, bytes]] = [
        {"apks/x86_64/a-1-r0.apk": package(signers[0], b"evil\n")},
        {"boot/modloop-lts": b"Modules"},
        {"boot/initramfs-lts": gzip.compress(archive({"init": b"no"}))},
        # A further key that the medium would trust.
        {"boot/initramfs-lts": gzip.compress(archive({"init": b"go", "etc/apk/keys/alpine.rsa.pub": b"mine"}))},
        {
            "boot/initramfs-lts": gzip.compress(
                archive({"etc/apk/keys/alpine.rsa.pub": b"theirs", "etc/apk/keys/x": b"", "init": b"go"})
            )
        },
        {"more": b""},
    ]
    for number, change in enumerate(changes):
        assert canonical_digest(medium(signers[0], tmp_path / str(number), change)) != digest


def test_iso_with_an_index_of_the_third_format(signers: tuple[Signer, Signer], keys: Path, tmp_path: Path) -> None:
    """Its signature names its key by an identifier: the key's file may have any name, and no other key is left out."""

    def digest(signer: Signer, name: str, more: Mapping[str, bytes]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        inside = {"init": b"go", f"etc/apk/keys/{name}": (keys / signer.key_name).read_bytes(), **more}
        files = {
            "apks/x86_64/APKINDEX.tar.gz": third(signer, folder)[1],
            "boot/initramfs-lts": gzip.compress(archive(inside)),
        }
        return canonical_digest(iso(folder, files))

    first, second = signers
    expected = digest(first, "first.rsa.pub", {})
    assert digest(second, "the-second.rsa.pub", {}) == expected
    assert digest(first, "of-another-name.rsa.pub", {}) == expected
    other = (keys / second.key_name).read_bytes()
    assert digest(first, "first.rsa.pub", {"etc/apk/keys/another.rsa.pub": other}) != expected
    assert digest(first, "first.rsa.pub", {"etc/apk/keys/odd": b"no key"}) != expected
