# SPDX-License-Identifier: Apache-2.0
"""Everybody who reads a tar that others made: a cut, a changed bit and an odd archive are errors of ours, and soon."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from pipeline.base.errors import FactoryError
from pipeline.channels.alpine.aports import repack
from pipeline.channels.alpine.vouched import read_root
from pipeline.channels.lab import deb, package_tree
from pipeline.images.elf.root_tree import RootTree, add_tar
from pipeline.sandbox.rootform import one_form
from tests.unit.lab import debs
from tests.unit.tars import END, HOSTILE, flipped, header, headers, padded, record

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_COMMENT = record("comment", COMMIT.encode())
SOUND = (
    header("pax_global_header", len(_COMMENT), b"g")
    + padded(_COMMENT)
    + b"".join(
        header(f"aports-1/{name}", len(name), mode=b"0000755\0") + padded(name.encode())
        for name in ("scripts/mkimage.sh", "scripts/other.sh", f"scripts/{'long' * 30}/last.sh")
    )
    + END
)
"""As git packs a folder: all of them read it."""


def by_aports(data: bytes, _folder: Path) -> None:
    repack(gzip.compress(data), COMMIT)


def by_elf(data: bytes, _folder: Path) -> None:
    add_tar(RootTree(), data)


def by_vouched(data: bytes, folder: Path) -> None:
    (folder / "root.tar").write_bytes(data)
    read_root(folder / "root.tar")


def by_rootform(data: bytes, folder: Path) -> None:
    (folder / "root.tar").write_bytes(data)
    one_form(folder / "root.tar", folder / "made.tar", 0, left_out=lambda _path: False, folders={})


def by_deb(data: bytes, folder: Path) -> None:
    deb.unpack(
        io.BytesIO(debs.ar(("debian-binary", b"2.0\n"), ("data.tar", data))), "a.deb", package_tree.PackageTree(io.BytesIO())
    )


READERS: dict[str, Callable[[bytes, Path], None]] = {
    "aports": by_aports, "elf": by_elf, "vouched": by_vouched, "rootform": by_rootform, "deb": by_deb,
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_sound_tar_is_read(tmp_path: Path, reader: str) -> None:
    READERS[reader](SOUND, tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tars_are_refused(tmp_path: Path, reader: str, kind: str) -> None:
    with pytest.raises(FactoryError):
        READERS[reader](HOSTILE[kind], tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_cuts(tmp_path: Path, reader: str) -> None:
    for place in range(0, len(SOUND), 512):
        for length in {max(place - 1, 0), place, place + 1}:
            with pytest.raises(FactoryError):
                READERS[reader](SOUND[:length], tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_changed_bits(tmp_path: Path, reader: str) -> None:
    """Of the second file, whose damage would once end the archive without a word. test_tarstream changes all bits."""
    second = list(headers(SOUND))[2]
    for changed in islice(flipped(SOUND, iter([second])), 0, None, 7):
        with pytest.raises(FactoryError):
            READERS[reader](changed, tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_a_hard_link_to_nothing(tmp_path: Path, reader: str) -> None:
    """Never a KeyError."""
    data = SOUND[: -len(END)] + header("aports-1/scripts/x", kind=b"1", link=b"nothing") + END
    try:
        READERS[reader](data, tmp_path)
    except FactoryError:
        return
    assert reader in ("elf", "vouched"), "these two note it, and judge later"


@pytest.mark.parametrize("suffix", ["gz", "xz"])
def test_damaged_compressed_data_is_an_error_of_ours(tmp_path: Path, suffix: str) -> None:
    """Cut or changed, it is no traceback of the unpacker."""
    whole = gzip.compress(SOUND) if suffix == "gz" else lzma.compress(SOUND)
    for place in range(len(whole)):
        for data in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :]):
            packed = debs.ar(("debian-binary", b"2.0\n"), (f"data.tar.{suffix}", data))
            try:
                deb.unpack(io.BytesIO(packed), "a.deb", package_tree.PackageTree(io.BytesIO()))
            except FactoryError:
                continue
            assert suffix == "gz", "in gzip some bits mean nothing; what they pack has a sum"
