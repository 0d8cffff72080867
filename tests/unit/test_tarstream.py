# SPDX-License-Identifier: Apache-2.0
"""The reader of foreign tars: what several programs write is read, what was damaged on its way never is."""

from __future__ import annotations

import io
import tarfile
import time
from pathlib import Path

import pytest

from pipeline.base.errors import FormatError
from pipeline.formats.tarstream import read_tar
from tests.unit.tars import END, HOSTILE, NEGATIVE, by_program, flipped, header, headers, padded, pax, record, written

FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
PROGRAMS = {
    "gnu tar": ("tar", "-c"),
    "gnu tar, pax": ("tar", "-c", "--format=pax"),
    "gnu tar, ustar": ("tar", "-c", "--format=ustar", "--blocking-factor=200"),
    "busybox": ("busybox", "tar", "-c"),
}


def read(data: bytes) -> dict[str, bytes]:
    """Names and contents, by a reader that gets the bytes as a network brings them."""
    return {entry.name: content.read() for entry, content in read_tar(io.BytesIO(data), "x")}


@pytest.mark.parametrize("form", FORMS)
def test_tars_of_python_are_read(form: str) -> None:
    data = written(FORMS[form])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        wanted = {info.name: tar.extractfile(info) for info in tar}
        assert read(data) == {name: file.read() if file else b"" for name, file in wanted.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_tars_of_other_programs_are_read(tmp_path: Path, program: str) -> None:
    assert read(by_program(PROGRAMS[program], tmp_path)) == {
        "out": b"",
        "out/below": b"",
        "out/below/two": b"x" * 1024,
        "out/one": b"x" * 700,
        "out/three": b"",
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_any_bit_of_any_header_is_noticed(tmp_path: Path, program: str) -> None:
    data = by_program(PROGRAMS[program], tmp_path)
    found = list(headers(data))
    assert len(found) >= 5
    for changed in flipped(data[: found[-1] + 1536 + len(END)], iter(found)):
        with pytest.raises(FormatError):
            read(changed)


@pytest.mark.parametrize("form", FORMS)
def test_any_cut_is_noticed(form: str) -> None:
    data = written(FORMS[form])
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    assert read(data[: end + 1024]), "with its end alone it is whole"
    for length in range(end + 1024):
        with pytest.raises(FormatError):
            read(data[:length])


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_tars_are_refused(kind: str) -> None:
    begin = time.monotonic()
    with pytest.raises(FormatError) as caught:
        read(HOSTILE[kind])
    assert caught.value.message.startswith("x: ")
    assert caught.value.message.isprintable()
    assert time.monotonic() - begin < 10


def test_unusual_but_valid() -> None:
    """A time before 1970, by either way; a long name of GNU's; a comment for all, as git writes it; a charset that is ours."""
    data = (
        header("g", 16, b"g")
        + padded(b"16 comment=0123\n")
        + header("before", mtime=NEGATIVE)
        + pax(mtime=b"-1.5", atime=b"1.25", hdrcharset=b"BINARY", path="ä".encode())
        + header("a")
        + header("@", 4, b"L")
        + padded(b"b/c\0")
        + header("a", 1)
        + padded(b"x")
        + END
    )
    comments: list[str] = []
    found = [(entry.name, entry.mtime) for entry, _ in read_tar(io.BytesIO(data), "x", comments=comments)]
    assert found == [("before", -1), ("ä", -1), ("b/c", 0)]
    assert comments == ["0123"]


def test_a_negative_time_makes_no_negative_size() -> None:
    """What a field was read as once is remembered, but not for another field."""
    read(header("a", mtime=NEGATIVE) + END)
    with pytest.raises(FormatError):
        read(header("a", size=NEGATIVE) + END)


def test_parts_of_packages_need_no_end() -> None:
    data = header("a", 1) + padded(b"x")
    for tail in (b"", bytes(512), END):
        assert [entry.name for entry, _ in read_tar(io.BytesIO(data + tail), "x", end=False)] == ["a"]
    for length in [length for length in range(1, len(data)) if length != 512 + 512]:
        with pytest.raises(FormatError):
            list(read_tar(io.BytesIO(data[:length]), "x", end=False))


def test_records_of_pax() -> None:
    for size in (1, 90, 91, 92, 985, 986, 987):
        assert read(pax(path=b"p" * size) + header() + END) == {"p" * size: b""}
    assert record("a", b"b") == b"6 a=b\n"
