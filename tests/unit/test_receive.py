# SPDX-License-Identifier: Apache-2.0
"""Out of the sandbox: only what was declared, only plain files, nothing outside the folder."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import StageError
from pipeline.sandbox.made import NAME
from pipeline.sandbox.receive import receive
from pipeline.store.artifact import FileRecord
from tests.unit.tars import END, HOSTILE, flipped, headers


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
def test_declared_outputs(tmp_path: Path, declared: Sequence[str]) -> None:
    names = {"out/a": tarfile.REGTYPE, "out/d": tarfile.DIRTYPE, "out/d/e": tarfile.DIRTYPE, "out/d/e/f": tarfile.REGTYPE}
    entries = [(entry(name, kind), b"") for name, kind in names.items()]
    assert take(tmp_path / "o", stream(*entries), declared).keys() == {"a", "d/e/f"}


@pytest.mark.parametrize("declared", [("a",), ("a", "b"), (), ("a", "d/f"), ("a", "d*x")])
def test_patterns_that_do_not_declare_it(tmp_path: Path, declared: Sequence[str]) -> None:
    entries = [(entry("out/a"), b""), (entry("out/d", tarfile.DIRTYPE), b""), (entry("out/d/e"), b"")]
    with pytest.raises(StageError, match="is not among the outputs"):
        take(tmp_path / "o", stream(*entries), declared)


@pytest.mark.parametrize("declared", [("a", "b"), ("a", "*.img"), ("a", "d/")])
def test_a_missing_output_is_refused(tmp_path: Path, declared: Sequence[str]) -> None:
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
    "long-part": (entry("out/" + "x" * 256), "sensible length"),
    "no-folder": (entry("out"), "not a plain path"),
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


@pytest.mark.parametrize(
    "names",
    [
        ("out/a", "out/a/b"),
        ("out/a/b", "out/a"),
        ("out/a", "out/a/b/c/d"),
        ("out/a/b/c", "out/a/b"),
        ("out/a/", "out/a"),
        ("out/a", "out/a/"),
        ("out/a", "out/a/b/"),
    ],
)
def test_a_file_is_no_folder(tmp_path: Path, names: Sequence[str]) -> None:
    kinds = [(name, tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE) for name in names]
    with pytest.raises(StageError, match=r"which is a file|as a file and as a folder|came twice"):
        take(tmp_path / "o", stream(*((entry(name.rstrip("/"), kind), b"") for name, kind in kinds)), None)


def test_all_lies_in_one_folder(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="is not in 'out'"):
        take(tmp_path / "o", stream((entry("out/a"), b"1"), (entry("in/a"), b"2")), None)


def test_too_much(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="larger than a stage may make"):
        take(tmp_path / "o", stream((entry("out/a"), bytes(1000)), (entry("out/b"), bytes(1000))), None, max_bytes=1500)


def small_stream() -> bytes:
    """Three files of a folder, the second with a name that tar needs an extended header for; and the end alone."""
    names = ("out/d/a", f"out/d/{'b' * 120}", "out/d/c")
    entries = [(entry("out/d", tarfile.DIRTYPE), b""), *((entry(name), name.encode() * 5) for name in names)]
    return b"".join(stream(*entries)).rstrip(b"\0") + bytes(512 - 35 % 512) + END


def test_any_cut_is_noticed(tmp_path: Path) -> None:
    whole = small_stream()
    assert len(take(tmp_path / "o", iter([whole]), ("d/**",))) == 3
    for length in {place + part for place in range(0, len(whole), 512) for part in (0, 1, 35, 511)}:
        with pytest.raises(StageError):
            take(tmp_path / f"o{length}", iter([whole[:length]]), ("d/**",))


def test_any_bit_of_any_header_is_noticed(tmp_path: Path) -> None:
    """One that is not makes the reader believe that the archive ends there, or takes a file for another one.

    Of the second file here; test_tarstream does it with all.
    """
    whole = small_stream()
    found = list(headers(whole))
    assert len(found) == 6
    (tmp_path / "d").mkdir()
    for changed in flipped(whole, iter(found[4:5])):
        with pytest.raises(StageError):
            take(tmp_path, iter([changed]), ("d/**",))
        for path in (tmp_path / "d").iterdir():
            path.unlink()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_streams(tmp_path: Path, kind: str) -> None:
    with pytest.raises(StageError):
        take(tmp_path / "o", iter([HOSTILE[kind]]), None)


# --- the sandbox's own list -------------------------------------------------------------------------------------


def listed(*rows: str, names: Sequence[str] = ("out/a", "out/d/b")) -> Iterator[bytes]:
    """A stream with this list in it."""
    data = "".join(f"{row}\0" for row in rows).encode()
    return stream((entry(f"out/{NAME}"), data), *((entry(name), b"x") for name in names))


def take_listed(folder: Path, pieces: Iterator[bytes]) -> dict[str, FileRecord]:
    folder.mkdir()
    return receive(pieces, folder, declared=None, max_bytes=1 << 30, listed=True)


def test_listed_outputs_that_arrived_are_taken(tmp_path: Path) -> None:
    found = take_listed(tmp_path / "o", listed("file a", "folder d", "file d/b", f"file {NAME}"))
    assert found.keys() == {"a", "d/b"}
    assert not (tmp_path / "o" / NAME).exists()
    found = take_listed(tmp_path / "closed", listed("file a", "closed d"))
    assert found.keys() == {"a", "d/b"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("file a", "folder d", "file d/b", "socket d/s"), "/out/d/s: is a socket"),
        (("file a", "folder d", "file d/b", "file d/c"), "/out/d/c: the stage made it, but the engine did not deliver it"),
        (("file a", "folder d", "file d/b", "folder e"), "/out/e: the stage made it, but the engine did not deliver it"),
        (("file a", "folder d"), "/out/d/b: the engine delivered it, but the stage did not make it"),
        (("folder a", "folder d", "file d/b"), "/out/a: the stage made it, but the engine did not deliver it"),
        (("file a", "folder d", "file d/b", "link l"), "/out/l: is a symbolic link"),
        (("file a", "folder d", "file d/b", "special p"), "/out/p: is a device or pipe"),
        (("file a", "folder d", "file d/b", "socket s\n\x1b"), r"/out/s\n\x1b: is a socket"),
        (("file a", "odd d"), "is damaged"),
        (("file",), "is damaged"),
    ],
)
def test_outputs_that_differ_from_the_list_are_refused(tmp_path: Path, rows: Sequence[str], message: str) -> None:
    with pytest.raises(StageError) as caught:
        take_listed(tmp_path / "o", listed(*rows))
    assert message in caught.value.message


def test_the_list_must_come_whole(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="the list of the stage's outputs is missing"):
        take_listed(tmp_path / "o", stream((entry("out/a"), b"x")))
    with pytest.raises(StageError, match="is cut off"):
        take_listed(tmp_path / "p", stream((entry(f"out/{NAME}"), b"file a\0fil"), (entry("out/a"), b"x")))


def test_any_bit_of_a_long_name_is_noticed(tmp_path: Path) -> None:
    """No sum covers it in the archive; the list does."""
    name = "n" * 120
    whole = b"".join(listed(f"file {name}", names=[f"out/{name}"]))
    place = whole.index(b" path=out/" + name.encode())
    for changed in flipped(whole, iter([place - place % 512])):
        with pytest.raises(StageError):
            receive(iter([changed]), tmp_path, declared=None, max_bytes=1 << 20, listed=True)
        for path in tmp_path.iterdir():
            path.unlink()


def test_zeros_become_holes(tmp_path: Path) -> None:
    data = bytes(5 << 20) + b"x" + bytes(1 << 20) + b"\0y" + bytes(3 << 20)
    found = take(tmp_path / "o", stream((entry("out/a.img"), data), piece=777_777), ("a.img",))
    path = tmp_path / "o" / "a.img"
    assert path.read_bytes() == data
    assert found["a.img"] == FileRecord(digest_bytes(data), len(data))
    assert path.stat().st_blocks * 512 <= 4 * (1 << 16)
