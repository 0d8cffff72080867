# SPDX-License-Identifier: Apache-2.0
"""What `tower` reads of apk's third format: offsets, counts and sizes that lie, held against the factory's own writer."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tower.base.errors import PackageError
from tower.install.apkindex import control_checksum, read_index

from pipeline.apk.adb.writer import write_index, write_package
from pipeline.apk.format.entry import IndexEntry
from pipeline.apk.format.index import entry_of
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.tarstream import TarEntry

EPOCH = 1_700_000_000
NAMES = ("one", "two")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("third")
    for number, name in enumerate(NAMES):
        info = PkgInfo(name, "1.0-r0", "x86_64", builddate=EPOCH + number)
        with (folder / f"{name}-1.0-r0.apk").open("wb") as out:
            write_package(out, info, {}, [(TarEntry(name), b"x" * 9000)], epoch=EPOCH, level=0 if number else 9)
    with (folder / "Packages.adb").open("wb") as out:
        write_index(out, "test", [entry_of(path) for path in sorted(folder.glob("*.apk"))], None)
    return folder


def test_an_index_names_the_packages_that_there_are(repository: Path) -> None:
    index = read_index(repository / "Packages.adb")
    assert index.made == EPOCH + 1
    assert sorted(index.packages) == [(name, "1.0-r0") for name in NAMES]
    for package in index.packages.values():
        path = repository / package.file_name
        assert (path.stat().st_size, control_checksum(path)) == (package.size, package.checksum)
        assert package.installed_size == 9000


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (IndexEntry("Q1" + "A" * 27 + "=", "-a", "1", "x86_64"), "do not make a file name"),
        (IndexEntry("Q1" + "A" * 27 + "=", "a", "1", "x86_64", size=10**13), "at most 12 digits"),
    ],
)
def test_a_record_that_no_file_could_have_is_left_out(tmp_path: Path, entry: IndexEntry, fault: str) -> None:
    with (tmp_path / "Packages.adb").open("wb") as out:
        write_index(out, "test", [entry, IndexEntry("Q1" + "A" * 27 + "=", "good", "1", "x86_64")], None)
    index = read_index(tmp_path / "Packages.adb")
    assert list(index.packages) == [("good", "1")]
    assert fault in index.odd[entry.name, entry.version]


def file_of(metadata: bytes, schema: bytes = b"indx") -> bytes:
    """A file with one block, not packed."""
    return b"ADB." + schema + struct.pack("<I", len(metadata) + 4) + metadata


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"ADB.indx", "ends in the middle"),
        (b"ADB.pckg" + bytes(8), "it begins with"),
        (b"ADBx" + bytes(8), "it begins with"),
        (b"ADBc" + bytes((2, 9)) + bytes(8), "packed by the algorithm 2"),
        (b"ADBd" + b"\xff" * 8, "not an index"),
        (b"ADB.indx" + struct.pack("<I", 2), "its first block"),
        (b"ADB.indx" + struct.pack("<I", 1 << 30 | 64), "its first block"),
        (b"ADB.indx" + struct.pack("<IIQ", 3 << 30, 0, 1 << 40), "metadata of at most"),
        (b"ADB.indx" + struct.pack("<I", 1 << 20), "ends in the middle"),
        (file_of(b"\1" + bytes(7)), "unknown version"),
        (file_of(struct.pack("<II", 0, 14 << 28 | 8)), "outside"),
        (file_of(struct.pack("<II", 0, 14 << 28)), "outside"),
        (file_of(struct.pack("<III", 0, 14 << 28 | 8, 0)), "0 slots"),
        (file_of(struct.pack("<III", 0, 14 << 28 | 8, 60)), "60 slots"),
        (file_of(struct.pack("<IIIII", 0, 14 << 28 | 8, 3, 0, 13 << 28 | 10)), "outside"),
        (file_of(struct.pack("<IIIIII", 0, 14 << 28 | 8, 4, 0, 0, 10 << 28 | 20)), "too many"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path: Path, data: bytes, fault: str) -> None:
    path = tmp_path / "Packages.adb"
    path.write_bytes(data)
    with pytest.raises(PackageError, match=fault):
        read_index(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 800), st.booleans())
def test_damaged_files_are_refused_by_our_errors(repository: Path, tmp_path: Path, junk: bytes, at: int, cut: bool) -> None:
    for name, read in (("Packages.adb", read_index), ("one-1.0-r0.apk", control_checksum), ("two-1.0-r0.apk", control_checksum)):
        data = (repository / name).read_bytes()
        plain = b"ADB." + zlib.decompress(data[4:], -15) if data.startswith(b"ADBd") else data
        for one in (data, plain):
            path = tmp_path / name
            path.write_bytes(one[:at] if cut else one[:at] + junk + one[at + len(junk) :])
            try:
                read(path)
            except PackageError as error:
                assert name in error.message


def test_metadata_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    out.write(
        b"ADBd" + packer.compress(b"ADB.pckg" + struct.pack("<IIQ", 3 << 30, 0, 1 << 33) + bytes(64 << 20)) + packer.flush()
    )
    path = tmp_path / "bomb-1.apk"
    path.write_bytes(out.getvalue())
    with pytest.raises(PackageError, match="metadata of at most"):
        control_checksum(path)
