# SPDX-License-Identifier: Apache-2.0
"""Images that cannot be unpacked: the reason is what the unpacker says, wherever the image is read."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tower.base.errors import ImageProblemError
from tower.disk.flash import flash
from tower.disk.medium import opened
from tower.image import blockmap
from tower.image.blockmap import BlockMap
from tower.image.unpack import unpacked
from tower.image.verify import check_block_map

from pipeline.images.blockmap import dump, read_image

MIB = 1 << 20
RAW = bytes(range(256)) * 4096 + bytes(3 * MIB) + b"the end".ljust(4096, b".")


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True, timeout=60).stdout


BAD: dict[str, tuple[str, Callable[[], bytes], str, str]] = {
    "zst: garbage behind": (
        ".zst",
        lambda: zstd(RAW) + b"garbage",
        "cannot be unpacked: .*\n.*unsupported format",
        "again",
    ),
    "zst: zeros behind": (".zst", lambda: zstd(RAW) + bytes(512), "cannot be unpacked: .*\n.*unsupported format", "again"),
    "zst: another packing behind": (
        ".zst",
        lambda: zstd(RAW) + b"BZh9" + bytes(90),
        "cannot be unpacked: zstd",
        "trailing garbage",
    ),
    "zst: cut off": (".zst", lambda: zstd(RAW)[:-9], "cannot be unpacked: zstd: exit status 1\n.*premature end", "again"),
    "zst: empty": (".zst", lambda: b"", "cannot be unpacked: zstd: exit status 1\n.*unexpected end of file", "again"),
    "zst: is none": (".zst", lambda: RAW, "cannot be unpacked: zstd: exit status 1\n.*unsupported format", "again"),
    "zst: window too large": (".zst", lambda: zstd(RAW, "--long=31"), "Window size larger than maximum", "without --long"),
    "xz: garbage behind": (".xz", lambda: lzma.compress(RAW) + b"garbage!", "cannot be unpacked: .*\n.*xz: ", "again"),
    "xz: bad padding": (
        ".xz",
        lambda: lzma.compress(RAW) + bytes(3),
        "cannot be unpacked: .*\n.*Compressed data is corrupt",
        "again",
    ),
    "xz: cut off": (".xz", lambda: lzma.compress(RAW)[:-9], "cannot be unpacked: .*\n.*Unexpected end of input", "again"),
    "xz: is none": (".xz", lambda: RAW, "xz: exit status 1\n.*File format not recognized", "again"),
    "gzip": (".gz", lambda: gzip.compress(RAW), "is packed with gzip", "and keep its name"),
    "packed without saying so": ("", lambda: zstd(RAW), "is packed with zstd", "and keep its name"),
}


@pytest.fixture
def block_map(tmp_path: Path) -> BlockMap:
    (tmp_path / "raw").write_bytes(RAW)
    (tmp_path / "raw.bmap").write_bytes(dump(read_image(tmp_path / "raw")))
    return blockmap.parse((tmp_path / "raw.bmap").read_bytes(), "raw.bmap")


@pytest.mark.parametrize("kind", BAD)
def test_an_unpackers_own_words(tmp_path: Path, block_map: BlockMap, kind: str) -> None:
    suffix, make, words, hint = BAD[kind]
    image, medium = tmp_path / f"toweros.img{suffix}", tmp_path / "medium"
    image.write_bytes(make())

    def write() -> None:
        with opened(medium, size=len(RAW)) as out:
            flash(image, block_map, out)

    for use in (write, lambda: check_block_map(image, tmp_path / "raw.bmap")):
        with pytest.raises(ImageProblemError, match=words) as caught:
            use()
        assert str(image) in caught.value.message
        assert hint in caught.value.hint
        assert "install" not in caught.value.hint


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_inner_damage_is_reported_by_the_first_reader(tmp_path: Path, block_map: BlockMap, suffix: str) -> None:
    image = tmp_path / f"x{suffix}"
    data = bytearray(zstd(RAW, "--check") if suffix == ".zst" else lzma.compress(RAW))
    data[len(data) // 2] ^= 0xFF
    image.write_bytes(data)
    with opened(tmp_path / "medium", size=len(RAW)) as medium, pytest.raises(ImageProblemError) as caught:
        flash(image, block_map, medium)
    assert str(image) in caught.value.message
    assert "fetch or build the image again" in caught.value.hint


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_a_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tower.base.proc._SYSTEM", ())
    with pytest.raises(ImageProblemError, match="no such program") as caught, unpacked(tmp_path / f"x{suffix}"):
        pass
    assert caught.value.hint == f"install {suffix[1:].replace('zst', 'zstd')}"


def test_a_program_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_map: BlockMap) -> None:
    """By the system, when memory is short."""
    program = tmp_path / "bin/zstd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nkill -KILL $$\n")
    program.chmod(0o755)
    image = tmp_path / "x.zst"
    image.write_bytes(zstd(RAW))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    with opened(tmp_path / "medium", size=len(RAW)) as medium, pytest.raises(ImageProblemError, match=r"signal 9 \(Killed\)"):
        flash(image, block_map, medium)


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_faults_of_the_image_are_reported_as_such(tmp_path: Path, block_map: BlockMap, suffix: str) -> None:
    """Whole for its unpacker, and not what its map says."""
    image = tmp_path / f"x{suffix}"
    for data, words in ((RAW[:-4096], "ends too early"), (RAW + b"x", "is larger"), (RAW[:-1] + b"x", "sha256")):
        image.write_bytes(zstd(data) if suffix == ".zst" else lzma.compress(data))
        with opened(tmp_path / "medium", size=len(RAW)) as medium, pytest.raises(ImageProblemError, match=words):
            flash(image, block_map, medium)


GOOD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "several frames": (".zst", lambda: zstd(RAW[:MIB]) + zstd(RAW[MIB:])),
    "a frame to skip": (".zst", lambda: b"\x50\x2a\x4d\x18\x08\0\0\0pzstdxxx" + zstd(RAW)),
    "an empty frame behind": (".zst", lambda: zstd(RAW) + zstd(b"")),
    "several streams": (".xz", lambda: lzma.compress(RAW[:MIB]) + lzma.compress(RAW[MIB:])),
    "padded": (".xz", lambda: lzma.compress(RAW) + bytes(4)),
    "without a check": (".xz", lambda: lzma.compress(RAW, check=lzma.CHECK_NONE)),
}


@pytest.mark.parametrize("kind", GOOD)
def test_unusual_but_valid_packed_images_are_written(tmp_path: Path, block_map: BlockMap, kind: str) -> None:
    suffix, make = GOOD[kind]
    image = tmp_path / f"x{suffix}"
    image.write_bytes(make())
    with opened(tmp_path / "medium", size=len(RAW)) as medium:
        flash(image, block_map, medium)
    assert (tmp_path / "medium").read_bytes() == RAW
