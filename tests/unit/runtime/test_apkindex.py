# SPDX-License-Identifier: Apache-2.0
"""What `tower` reads of Alpine's formats, held against the factory's own reader and writer."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tower.base.errors import PackageError
from tower.install.apkindex import control_checksum, read_index

from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from tests.conftest import CHECKOUT

EPOCH = 1_700_000_000
REAL = CHECKOUT.parent / "shared" / "alpine-v3.19" / "packages"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    generate_key(folder, "test", 2048)
    signer = Signer(folder / "test.rsa", "test.rsa.pub")
    for name in ("one", "two"):
        with (folder / f"{name}-1.0-r0.apk").open("wb") as out:
            write_package(out, PkgInfo(name, "1.0-r0", "x86_64"), {}, [(TarEntry(name), b"x" * 9000)], epoch=EPOCH, signer=signer)
    with (folder / "APKINDEX.tar.gz").open("wb") as out:
        write_index(out, "test", [entry_of(path) for path in sorted(folder.glob("*.apk"))], signer, EPOCH)
    return folder


def test_an_index_names_the_packages_that_there_are(repository: Path) -> None:
    index = read_index(repository / "APKINDEX.tar.gz")
    assert index.made == EPOCH
    assert sorted(index.packages) == [("one", "1.0-r0"), ("two", "1.0-r0")]
    for package in index.packages.values():
        path = repository / package.file_name
        assert path.stat().st_size == package.size
        assert control_checksum(path) == package.checksum
        assert package.installed_size >= 9000


@pytest.mark.shared
def test_real_packages_and_their_index() -> None:
    if not REAL.is_dir():
        pytest.skip("no reference data beside the checkout")
    index = read_index(REAL / "APKINDEX.tar.gz")
    named = {package.file_name: package for package in index.packages.values()}
    files = sorted(REAL.glob("*.apk"))
    assert files
    for path in files:
        assert (named[path.name].size, named[path.name].checksum) == (path.stat().st_size, control_checksum(path))


@pytest.mark.parametrize("record", ["P:a\nV:1\nC:Q1x", "P:../a\nV:1", "P:a\nV:/1", "P:-a\nV:1", "P:a\nV:1\nS:x", "P:a\nV:1\nS:²"])
def test_a_record_that_no_file_could_have_is_left_out(repository: Path, tmp_path: Path, record: str) -> None:
    good = "C:Q1" + "A" * 27 + "="
    odd = record if "C:" in record else f"{good}\n{record}"
    text = f"{good}\nP:good\nV:1\nS:5\n\n{odd}\n\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("APKINDEX")
        member.size = len(text.encode())
        tar.addfile(member, io.BytesIO(text.encode()))
    path = tmp_path / "APKINDEX.tar.gz"
    path.write_bytes(gzip.compress(b"signature") + gzip.compress(out.getvalue()))
    assert list(read_index(path).packages) == [("good", "1")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.integers(0, 3000), st.booleans())
def test_damaged_files_are_refused_by_our_errors(repository: Path, tmp_path: Path, junk: bytes, at: int, cut: bool) -> None:
    for name, read in (("APKINDEX.tar.gz", read_index), ("one-1.0-r0.apk", control_checksum)):
        data = (repository / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(data[:at] if cut else data[:at] + junk + data[at + len(junk) :])
        try:
            read(path)
        except PackageError as error:
            assert name in error.message


def test_a_member_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb-1.apk"
    path.write_bytes(gzip.compress(bytes(64 << 20)) * 2)
    with pytest.raises(PackageError, match="too long"):
        control_checksum(path)
    with pytest.raises(PackageError, match="too long"):
        read_index(path)
