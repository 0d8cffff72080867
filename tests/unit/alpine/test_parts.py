# SPDX-License-Identifier: Apache-2.0
"""Lists of releases, archives of aports, the builder's tar: what is odd in them is refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pipeline.base.errors import FormatError, LockError, VerifyError
from pipeline.channels.alpine.aports import ref_of, repack
from pipeline.channels.alpine.builder import _FOLDERS, is_left_out
from pipeline.channels.alpine.media import find_medium, read_list
from pipeline.sandbox.rootform import one_form
from tests.unit.alpine.upstream import COMMIT, archive

SHA = "9bf70a7f18ea44094cbb5f70c58f9af129c8214745743db0e68e5502cc2ce773"
LIST = f"""---
-
  title: "Netboot"
  desc: |
    Kernel, initramfs and: modloop
    -
    flavor: alpine-minirootfs

  branch: v3.24
  arch: aarch64
  version: 3.24.2
  flavor: alpine-netboot
  file: alpine-netboot-3.24.2-aarch64.tar.gz
  size: 1
  sha256: {SHA}
- title: Mini root filesystem
  branch: v3.24
  arch: aarch64
  version: 3.24.2
  flavor: alpine-minirootfs
  file: alpine-minirootfs-3.24.2-aarch64.tar.gz
  date: 2026-09-17
  time: 10:11:12
  size: 4028030
  sha256: {SHA}
"""


def test_a_list_of_releases() -> None:
    rows = read_list(LIST, "list")
    assert [row["flavor"] for row in rows] == ["alpine-netboot", "alpine-minirootfs"]
    found = find_medium(rows, "alpine-minirootfs", "aarch64", "v3.24", "list")
    assert (found.name, found.version, found.size, found.sha256) == ("alpine-minirootfs-aarch64", "3.24.2", 4028030, SHA)
    assert found.location == "v3.24/releases/aarch64/alpine-minirootfs-3.24.2-aarch64.tar.gz"
    with pytest.raises(LockError, match="no alpine-rpi for aarch64") as caught:
        find_medium(rows, "alpine-rpi", "aarch64", "v3.24", "list")
    assert "alpine-netboot" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("file: alpine-minirootfs", "file: ../alpine-minirootfs"),
        ("file: alpine-minirootfs", "file: https://x/alpine-minirootfs"),
        ("file: alpine-minirootfs-3.24.2-aarch64.tar.gz", "file:"),
        (SHA, SHA[:-1]),
        (SHA, SHA.upper()),
        ("size: 4028030", "size: -1"),
        ("size: 4028030", "size: 4028030\n  size: 2"),
        ("branch: v3.24", "branch: v3.23"),
        ("version: 3.24.2", "version:"),
        ("flavor: alpine-netboot", "flavor: alpine-minirootfs"),
        ("---", "<html>"),
        ("  title: ", "\ttitle: "),
        ("  arch: aarch64", "  *anchor"),
        ("  arch: aarch64", " arch: aarch64"),
    ],
)
def test_odd_lists(old: str, new: str) -> None:
    with pytest.raises((FormatError, LockError)):
        find_medium(read_list(LIST.replace(old, new), "list"), "alpine-minirootfs", "aarch64", "v3.24", "list")


def test_the_commit_of_aports() -> None:
    assert ref_of("v3.19.1-643-gec825d20535") == "ec825d20535"
    assert ref_of("v3.24.0") == "v3.24.0"
    for odd in ("", "3.19.1", "main", "v3.19.1-643-gXYZ", "v3/../../x"):
        with pytest.raises(LockError, match="names no commit"):
            ref_of(odd)


def test_an_archive_gets_one_form() -> None:
    files = {"scripts/mkimage.sh": b"x", "scripts/mkimg.base.sh": b"y"}
    one, two = archive(files), archive(dict(reversed(files.items())), top="another-top")
    assert one != two
    assert repack(one, COMMIT[:11]) == repack(two, "v9.9.1")
    commit, data = repack(one, COMMIT[:11])
    assert commit == COMMIT
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert [(info.name, info.mode, info.mtime) for info in tar] == [
            ("scripts/mkimage.sh", 0o755, 0),
            ("scripts/mkimg.base.sh", 0o644, 0),
        ]


@pytest.mark.parametrize(
    ("data", "ref"),
    [
        (archive({"scripts/mkimage.sh": b"x"}), "ffff"),
        (archive({"scripts/mkimage.sh": b"x"}, comment="hello"), COMMIT[:11]),
        (archive({"scripts/other.sh": b"x"}), COMMIT[:11]),
        (archive({"scripts/mkimage.sh": b"x", "scripts/../../x": b""}), COMMIT[:11]),
        (archive({"scripts/mkimage.sh": b"x"})[:-20], COMMIT[:11]),
        (b"<html>", COMMIT[:11]),
    ],
)
def test_odd_archives(data: bytes, ref: str) -> None:
    with pytest.raises((FormatError, VerifyError)):
        repack(data, ref)


def root(path: Path, mtime: int, order: int) -> Path:
    entries = [
        "./",
        "./usr",
        "./usr/bin",
        "./usr/bin/apk",
        "./etc",
        "./etc/resolv.conf",
        "./dev/null",
        "./tmp/x",
        "./lib/apk/db/lock",
    ]
    with tarfile.open(path, "w") as tar:
        for name in entries[::order]:
            info = tarfile.TarInfo(name)
            info.type = tarfile.REGTYPE if name.count("/") > 2 or name.endswith("conf") else tarfile.DIRTYPE
            info.mtime, info.uname = mtime, f"user{mtime}"
            tar.addfile(info, io.BytesIO())
    return path


def test_the_builders_tar_has_one_form(tmp_path: Path) -> None:
    made = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for place, (mtime, order) in zip(made, ((100, 1), (200, -1)), strict=True):
        one_form(root(tmp_path / f"plain{mtime}.tar", mtime, order), place, 50, left_out=is_left_out, folders=_FOLDERS)
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as tar:
        found = {info.name: info for info in tar}
    assert {"dev", "tmp", "var/log", "usr/bin/apk"} <= set(found)
    assert not {"etc/resolv.conf", "dev/null", "tmp/x", "lib/apk/db/lock"} & set(found)
    assert (found["usr/bin/apk"].mtime, found["tmp"].mode) == (50, 0o1777)
