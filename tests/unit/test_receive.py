# SPDX-License-Identifier: Apache-2.0
"""Out of the sandbox: only what was declared, only plain files, nothing outside the folder."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.artifact import FileRecord
from pipeline.canonical import digest_bytes
from pipeline.errors import StageError
from pipeline.receive import receive


def entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info


def stream(*entries: tuple[tarfile.TarInfo, bytes], piece: int = 1000) -> Iterator[bytes]:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry("out", tarfile.DIRTYPE, 0o755))
        for info, data in entries:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    data = raw.getvalue()
    return iter([data[at : at + piece] for at in range(0, len(data), piece)])


def take(
    folder: Path, pieces: Iterator[bytes], declared: Sequence[str] | None, max_bytes: int = 1 << 30
) -> dict[str, FileRecord]:
    folder.mkdir(exist_ok=True)
    return receive(pieces, folder, declared=declared, max_bytes=max_bytes)


@pytest.mark.parametrize("piece", [1, 511, 512, 10_000_000])
def test_files_and_folders(tmp_path: Path, piece: int) -> None:
    data = os.urandom(3000)
    found = take(
        tmp_path / "o",
        stream(
            (entry("out/root.tar"), data),
            (entry("out/d", tarfile.DIRTYPE), b""),
            (entry("out/d/run", mode=0o4755), b"x"),
            (entry("out/empty", tarfile.DIRTYPE), b""),
            piece=piece,
        ),
        None,
    )
    assert found == {
        "root.tar": FileRecord(digest_bytes(data), 3000),
        "d/run": FileRecord(digest_bytes(b"x"), 1, executable=True),
    }
    assert (tmp_path / "o" / "root.tar").read_bytes() == data
    assert (tmp_path / "o" / "d" / "run").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "declared", [("a", "d"), ("a", "d/"), ("a", "d/*"), ("*",), ("a", "d/e/f"), ("?", "d/**"), ("a", "d/[e]/f")]
)
def test_what_declares_it(tmp_path: Path, declared: Sequence[str]) -> None:
    names = {"out/a": tarfile.REGTYPE, "out/d": tarfile.DIRTYPE, "out/d/e": tarfile.DIRTYPE, "out/d/e/f": tarfile.REGTYPE}
    entries = [(entry(name, kind), b"") for name, kind in names.items()]
    assert take(tmp_path / "o", stream(*entries), declared).keys() == {"a", "d/e/f"}


@pytest.mark.parametrize("declared", [("a",), ("a", "b"), (), ("a", "d/f"), ("a", "d*x")])
def test_what_does_not(tmp_path: Path, declared: Sequence[str]) -> None:
    entries = [(entry("out/a"), b""), (entry("out/d", tarfile.DIRTYPE), b""), (entry("out/d/e"), b"")]
    with pytest.raises(StageError, match="is not among the outputs"):
        take(tmp_path / "o", stream(*entries), declared)


@pytest.mark.parametrize("declared", [("a", "b"), ("a", "*.img"), ("a", "d/")])
def test_what_is_missing(tmp_path: Path, declared: Sequence[str]) -> None:
    with pytest.raises(StageError, match="the stage did not make it; it made a"):
        take(tmp_path / "o", stream((entry("out/a"), b"")), declared)


BAD = {
    "up": (entry("out/../x"), "not a plain path"),
    "up-inside": (entry("out/d/../../x"), "not a plain path"),
    "dot": (entry("out/./x"), "not a plain path"),
    "absolute": (entry("out//etc/passwd"), "not a plain path"),
    "newline": (entry("out/a\nb"), "control characters"),
    "not-utf8": (entry("out/a\udcff"), "UTF-8"),
    "long": (entry("out/" + "/".join(["x" * 200] * 6)), "sensible length"),
    "link": (entry("out/x", tarfile.SYMTYPE, link="/etc/passwd"), "symbolic link"),
    "hard-link": (entry("out/x", tarfile.LNKTYPE, link="out/y"), "hard link to out/y"),
    "device": (entry("out/x", tarfile.BLKTYPE), "device, pipe or socket"),
    "pipe": (entry("out/x", tarfile.FIFOTYPE), "device, pipe or socket"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_entries(tmp_path: Path, name: str) -> None:
    info, message = BAD[name]
    with pytest.raises(StageError, match=message):
        take(tmp_path / "o", stream((info, b"")), None)
    assert list(tmp_path.iterdir()) == [tmp_path / "o"]
    assert list((tmp_path / "o").rglob("*")) == []


def test_a_path_comes_once(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="came twice"):
        take(tmp_path / "o", stream((entry("out/a"), b"1"), (entry("out/a"), b"2")), None)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises((StageError, OSError)):
        take(tmp_path / "o", stream((entry("out/a"), b"1"), (entry("out/a/b"), b"2")), None)


def test_too_much(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="larger than a stage may make"):
        take(tmp_path / "o", stream((entry("out/a"), bytes(1000)), (entry("out/b"), bytes(1000))), None, max_bytes=1500)


@pytest.mark.parametrize("keep", [100, 600, 1100, 1600])
def test_a_stream_that_ends_early(tmp_path: Path, keep: int) -> None:
    whole = b"".join(stream((entry("out/a"), bytes(range(256)) * 8)))
    with pytest.raises(StageError, match=r"came back broken|did not make it"):
        take(tmp_path / "o", iter([whole[:keep]]), ("a",))


def test_zeros_become_holes(tmp_path: Path) -> None:
    data = bytes(5 << 20) + b"x" + bytes(1 << 20) + b"\0y" + bytes(3 << 20)
    found = take(tmp_path / "o", stream((entry("out/a.img"), data), piece=777_777), ("a.img",))
    path = tmp_path / "o" / "a.img"
    assert path.read_bytes() == data
    assert found["a.img"] == FileRecord(digest_bytes(data), len(data))
    assert path.stat().st_blocks * 512 <= 4 * (1 << 16)
