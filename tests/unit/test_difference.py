# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.release.difference import differences

Pack = Callable[[dict[str, bytes]], bytes]


def tar(files: dict[str, bytes], **changes: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in changes.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def cpio(files: dict[str, bytes]) -> bytes:
    out = b""
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        fields = [number, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out + bytes(-len(out) % 512)


def packed_zip(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def disk(files: dict[str, bytes]) -> bytes:
    """A disk whose only partition holds a tar."""
    content = tar(files)
    content += bytes(-len(content) % 512)
    table = bytearray(512)
    table[446 + 4] = 0x83
    struct.pack_into("<II", table, 446 + 8, 1, len(content) // 512)
    table[510:] = b"\x55\xaa"
    return bytes(table) + content


def said(tmp_path: Path, one: bytes, two: bytes) -> list[str]:
    for name, data in (("one", one), ("two", two)):
        (tmp_path / name).write_bytes(data)
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    lines = differences(tmp_path / "one", tmp_path / "two", "image", scratch=scratch)
    assert not list(scratch.iterdir())
    return lines


FILES = {"etc/motd": b"hello", "etc/issue": b"same"}
OTHER = FILES | {"etc/motd": b"hallo"}


@pytest.mark.parametrize(
    ("pack", "inner"),
    [
        (tar, "image: etc/motd: "),
        (packed_zip, "image: etc/motd: "),
        (cpio, "image: etc/motd: "),
        (disk, "image: partition 1: etc/motd: "),
        (lambda files: gzip.compress(tar(files), mtime=0), "image: etc/motd: "),
        (lambda files: lzma.compress(tar(files)), "image: etc/motd: "),
        (lambda files: tar({"boot/initramfs": gzip.compress(cpio(files), mtime=0)}), "image: boot/initramfs: etc/motd: "),
    ],
)
def test_the_member_inside_is_named(tmp_path: Path, pack: Pack, inner: str) -> None:
    assert said(tmp_path, pack(FILES), pack(FILES)) == []
    lines = said(tmp_path, pack(FILES), pack(OTHER))
    assert lines == [inner + "5 bytes, the first difference is at 1"]


def test_differences_of_metadata_and_order_are_named(tmp_path: Path) -> None:
    (line,) = said(tmp_path, tar({"a": b""}, mtime=1), tar({"a": b""}, mtime=2))
    assert "time 1" in line
    assert "time 2" in line
    (line,) = said(tmp_path, gzip.compress(b"x", mtime=1), gzip.compress(b"x", mtime=2))
    assert "gzip header" in line
    (line,) = said(tmp_path, tar({"a": b"", "b": b""}), tar({"b": b"", "a": b""}))
    assert "the order of its members differs" in line
    assert said(tmp_path, tar(FILES), tar(FILES | {"new": b""})) == ["image: new: is only in the second"]


def test_plain_files(tmp_path: Path) -> None:
    assert said(tmp_path, b"abc", b"abd") == ["image: 3 bytes, the first difference is at 2"]
    assert said(tmp_path, b"abc", b"abcd") == ["image: 3 / 4 bytes, the first difference is at 3"]
    assert said(tmp_path, b"", b"x") == ["image: 0 / 1 bytes, the first difference is at 0"]


@pytest.mark.parametrize("head", [b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"070701", b"hsqs"])
def test_rubbish_behind_a_magic_number_is_compared_as_a_plain_file(tmp_path: Path, head: bytes) -> None:
    (line, *_) = said(tmp_path, head + b"rubbish1", head + b"rubbish2")
    assert line.startswith("image: ")


def test_two_formats(tmp_path: Path) -> None:
    (line,) = said(tmp_path, tar(FILES), gzip.compress(b""))
    assert "the first difference is at 0" in line


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def tree(tmp_path: Path, files: dict[str, bytes]) -> Path:
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1))
    return root


def ext4(tmp_path: Path, files: dict[str, bytes]) -> bytes:
    need("mke2fs", "debugfs")
    out = tmp_path / "fs"
    out.unlink(missing_ok=True)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree(tmp_path, files), out, "4M"], check=True)
    return out.read_bytes()


def squashfs(tmp_path: Path, files: dict[str, bytes]) -> bytes:
    need("mksquashfs", "unsquashfs")
    out = tmp_path / "fs"
    out.unlink(missing_ok=True)
    subprocess.run(["mksquashfs", tree(tmp_path, files), out, "-quiet", "-no-progress"], check=True, stdout=subprocess.DEVNULL)
    return out.read_bytes()


def iso(tmp_path: Path, files: dict[str, bytes]) -> bytes:
    need("xorriso")
    out = tmp_path / "fs"
    out.unlink(missing_ok=True)
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", out, tree(tmp_path, files)], check=True, stderr=subprocess.DEVNULL
    )
    return out.read_bytes()


def fat(tmp_path: Path, files: dict[str, bytes]) -> bytes:
    need("mkfs.vfat", "mcopy")
    out = tmp_path / "fs"
    out.unlink(missing_ok=True)
    subprocess.run(["mkfs.vfat", "--invariant", "-F", "32", "-C", out, "40000"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["mcopy", "-s", "-m", "-i", out, tree(tmp_path, files) / "etc", "::/"], check=True)
    return out.read_bytes()


@pytest.mark.parametrize("make", [ext4, squashfs, iso, fat])
def test_file_systems(tmp_path: Path, make: Callable[[Path, dict[str, bytes]], bytes]) -> None:
    odd = tmp_path / 'it\'s "a", b @@1 [c] #%41'  # programs take a name for more than a name
    odd.mkdir()
    lines = said(odd, make(tmp_path, FILES), make(tmp_path, OTHER))
    assert any(line == "image: etc/motd: 5 bytes, the first difference is at 1" for line in lines), lines
