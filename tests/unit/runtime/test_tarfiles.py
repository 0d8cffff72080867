# SPDX-License-Identifier: Apache-2.0
"""The thin client's reader of tars: what apk, busybox and tar write is read; the rest is an error, and soon."""

from __future__ import annotations

import gzip
import tarfile
import time
from pathlib import Path

import pytest
from tower.base.errors import AnswerError, PackageError
from tower.base.tarfiles import DamagedTarError, read_tar
from tower.install.apkindex import read_index
from tower.install.repository import parse_state

from tests.unit.tars import END, HOSTILE, by_program, flipped, header, headers, padded, pax, written

PROGRAMS = {
    "gnu tar": ("tar", "-c"),
    "gnu tar, pax": ("tar", "-c", "--format=pax"),
    "busybox": ("busybox", "tar", "-c"),
}
REFUSED = {
    kind: data for kind, data in HOSTILE.items() if kind not in ("endless zeros", "name that is no text", "negative owner")
}
"""All is in memory here already; names are only compared with those that are looked for, and owners are not read."""


def read(data: bytes) -> dict[str, bytes]:
    return {member.name.rstrip("/"): member.content or b"" for member in read_tar(data, most=100)}


@pytest.mark.parametrize("program", PROGRAMS)
def test_tars_of_other_programs_are_read(tmp_path: Path, program: str) -> None:
    assert read(by_program(PROGRAMS[program], tmp_path)) == {
        "out": b"",
        "out/below": b"",
        "out/below/two": b"x" * 1024,
        "out/one": b"x" * 700,
        "out/three": b"",
    }


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_cuts(form: int) -> None:
    data = written(form)
    assert f"out/{'long' * 30}/{'name' * 20}" in read(data)
    for length in range(len(data.rstrip(b"\0")) + 512):
        with pytest.raises(DamagedTarError):
            read(data[:length])


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_bit_of_any_header_is_noticed(tmp_path: Path, program: str) -> None:
    data = by_program(PROGRAMS[program], tmp_path)
    for changed in flipped(data, iter(list(headers(data)))):
        with pytest.raises(DamagedTarError):
            read(changed)


@pytest.mark.parametrize("kind", REFUSED)
def test_hostile_tars_are_refused(kind: str) -> None:
    begin = time.monotonic()
    with pytest.raises(DamagedTarError):
        read(REFUSED[kind])
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("kind", REFUSED)
def test_a_host_state_that_is_a_hostile_tar_is_refused(kind: str) -> None:
    with pytest.raises(AnswerError, match="not an archive"):
        parse_state(REFUSED[kind], "web")


@pytest.mark.parametrize("kind", REFUSED)
def test_an_index_that_is_a_hostile_tar_is_refused(tmp_path: Path, kind: str) -> None:
    """The keys that vouch for it are a host's."""
    path = tmp_path / "APKINDEX.tar.gz"
    path.write_bytes(gzip.compress(b"signature") + gzip.compress(REFUSED[kind]))
    with pytest.raises(PackageError, match=r"APKINDEX\.tar\.gz: is not an index"):
        read_index(path)


def test_an_index_without_its_file(tmp_path: Path) -> None:
    path = tmp_path / "APKINDEX.tar.gz"
    for data in (END, header("DESCRIPTION", 1) + padded(b"x") + END, header("APKINDEX", kind=b"5") + END):
        path.write_bytes(gzip.compress(b"signature") + gzip.compress(data))
        with pytest.raises(PackageError, match="there is no APKINDEX in it"):
            read_index(path)


def test_bounds() -> None:
    with pytest.raises(DamagedTarError, match="more than 100 files"):
        read(header() * 101 + END)
    assert read(pax(path=b"p" * 300, mtime=b"1.5") + header() + END) == {"p" * 300: b""}
    assert read_tar(pax(mtime=b"17.25") + header() + END, most=1)[0].made == 17
