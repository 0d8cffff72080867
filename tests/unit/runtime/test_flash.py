# SPDX-License-Identifier: Apache-2.0
"""Block maps and flashing: what is written, what is refused, media that lie, and going on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import DeviceError, ImageProblemError
from tower.disk.flash import GAP, flash
from tower.disk.medium import Medium, opened
from tower.image import blockmap
from tower.image.blockmap import BlockMap, MapCheck

from pipeline.images import blockmap as factory
from tests.unit.runtime.disks import MIB, garbage, tool


def made(path: Path, *parts: tuple[int, bytes], size: int) -> BlockMap:
    with path.open("wb") as out:
        out.truncate(size)
        for place, data in parts:
            out.seek(place)
            out.write(data)
    return blockmap.parse(factory.dump(factory.read_image(path)), str(path))


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, BlockMap]:
    path = tmp_path / "disk.img"
    return path, made(
        path,
        (0, b"first"),
        (3 * MIB, garbage(MIB // 2) + bytes(1000) + b"x" * (8 * MIB + MIB // 2 + 4000)),
        (20 * MIB, garbage(4096)),
        size=30 * MIB,
    )


def test_our_map_is_that_of_the_factory(image: tuple[Path, BlockMap]) -> None:
    path, found = image
    assert [(row.start, row.end, row.sha256) for row in found.ranges] == [
        (row.first * 4096, (row.last + 1) * 4096, row.sha256) for row in factory.read_image(path).ranges
    ]


@pytest.mark.parametrize("suffix", ["", ".zst", ".xz"])
def test_flashed_and_read_back(image: tuple[Path, BlockMap], tmp_path: Path, suffix: str) -> None:
    path, found = image
    if suffix:
        tool({".zst": "zstd", ".xz": "xz"}[suffix], "-q", "-1", "-k", path)
    target = tmp_path / "medium"
    seen: list[int] = []
    with opened(target, size=40 * MIB) as medium:
        done = flash(path.with_name(path.name + suffix), found, medium, advance=seen.append)
    assert target.read_bytes() == path.read_bytes() + bytes(10 * MIB)
    assert done.written == sum(seen) < 11 * MIB
    assert done.kept == 0


def test_holes_are_skipped(image: tuple[Path, BlockMap], tmp_path: Path) -> None:
    path, found = image
    target = tmp_path / "medium"
    target.write_bytes(b"\xaa" * (30 * MIB))
    with opened(target) as medium:
        flash(path, found, medium)
    data, wanted = target.read_bytes(), path.read_bytes()
    written = bytearray(b"\xaa" * (30 * MIB))
    for start, end in found.spans(GAP):
        written[start:end] = wanted[start:end]
    assert data == written


def test_resuming_writes_what_differs(image: tuple[Path, BlockMap], tmp_path: Path) -> None:
    path, found = image
    target = tmp_path / "medium"
    data = bytearray(path.read_bytes())
    data[5 * MIB] ^= 1
    target.write_bytes(data)
    with opened(target) as medium:
        done = flash(path, found, medium, compare=True)
    assert target.read_bytes() == path.read_bytes()
    assert 0 < done.written <= 4 * MIB < done.kept


@dataclass(frozen=True, slots=True)
class Odd(Medium):
    """A medium with a fault."""

    fault: str = ""
    log: list[int] = field(default_factory=list)

    def write(self, place: int, data: memoryview) -> None:
        if self.fault == "gone" and place >= 8 * MIB:
            raise DeviceError("Input/output error")
        if self.fault == "smaller than it says":
            place %= 8 * MIB
        Medium.write(self, place, data)

    def read(self, place: int, into: memoryview) -> None:
        Medium.read(self, place, into)
        if self.fault == "a bit flips" and place <= 5 * MIB < place + len(into):
            into[5 * MIB - place] ^= 1


@pytest.mark.parametrize("fault", ["a bit flips", "smaller than it says", "gone"])
def test_media_that_fail(image: tuple[Path, BlockMap], tmp_path: Path, fault: str) -> None:
    path, found = image
    with opened(tmp_path / "medium", size=30 * MIB) as good:
        odd = Odd(good.handle, good.where, good.size, good.direct, fault)
        with pytest.raises(DeviceError, match=r"read back|Input/output"):
            flash(path, found, odd)


def test_a_small_medium_is_not_touched(image: tuple[Path, BlockMap], tmp_path: Path) -> None:
    path, found = image
    target = tmp_path / "medium"
    target.write_bytes(b"\xaa" * MIB)
    with opened(target) as medium, pytest.raises(DeviceError, match="needs"):
        flash(path, found, medium)
    assert target.read_bytes() == b"\xaa" * MIB


def change(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(data)


def test_an_image_that_is_not_that_of_its_map(image: tuple[Path, BlockMap], tmp_path: Path) -> None:
    path, found = image
    good = path.read_bytes()
    for data, reason in (
        (good[: 5 * MIB] + b"y" + good[5 * MIB + 1 :], "sha256"),
        (good[: 15 * MIB] + b"x" + good[15 * MIB + 1 :], "is empty"),
        (good[: 10 * MIB], "ends too early"),
        (good[: 25 * MIB], "ends too early"),
        (good + b"x", "larger"),
        (b"", "ends too early"),
    ):
        path.write_bytes(data)
        with opened(tmp_path / "medium", size=30 * MIB) as medium, pytest.raises(ImageProblemError, match=reason):
            flash(path, found, medium)


@pytest.mark.parametrize("suffix", [".zst", ".xz"])
def test_a_damaged_packed_image(image: tuple[Path, BlockMap], tmp_path: Path, suffix: str) -> None:
    path, found = image
    tool({".zst": "zstd", ".xz": "xz"}[suffix], "-q", "-1", "-k", path)
    packed = path.with_name(path.name + suffix)
    packed.write_bytes(packed.read_bytes()[:-20])
    with opened(tmp_path / "medium", size=30 * MIB) as medium, pytest.raises(ImageProblemError):
        flash(packed, found, medium)


@pytest.mark.parametrize("size", [1 << 62, 1 << 80])
def test_a_file_that_cannot_be_that_large(tmp_path: Path, size: int) -> None:
    with pytest.raises(DeviceError, match="cannot have"), opened(tmp_path / "disk", size=size):
        pass


def test_only_one_writes(tmp_path: Path) -> None:
    with opened(tmp_path / "medium", size=MIB), pytest.raises(DeviceError, match="another program"), opened(tmp_path / "medium"):
        pass


# --- block maps -----------------------------------------------------------------------------------------------


def signed(text: str) -> bytes:
    data = text.replace("CHECKSUM", "0" * 64).encode()
    return data.replace(b"0" * 64, hashlib.sha256(data).hexdigest().encode(), 1)


def text_of(**change: str) -> str:
    row = {"size": "40960", "block": "4096", "kind": "sha256", "ranges": f'<Range chksum="{"a" * 64}"> 0-1 </Range>', **change}
    return (
        f"<bmap><ImageSize> {row['size']} </ImageSize><BlockSize> {row['block']} </BlockSize>"
        f"<ChecksumType> {row['kind']} </ChecksumType><BmapFileChecksum> CHECKSUM </BmapFileChecksum>"
        f"<BlockMap>{row['ranges']}</BlockMap></bmap>"
    )


def rows(*numbers: str) -> str:
    return "".join(f'<Range chksum="{"a" * 64}"> {number} </Range>' for number in numbers)


def test_the_plain_map_is_taken() -> None:
    assert blockmap.parse(signed(text_of()), "x").mapped == 8192


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<bmap/>",
        text_of(size="0"),
        text_of(size="-4096"),
        text_of(size="many"),
        text_of(block="512"),
        text_of(kind="sha1"),
        text_of(ranges=rows("1-0")),
        text_of(ranges=rows("9-10", "3")),
        text_of(ranges=rows("0-3", "2-5")),
        text_of(ranges=rows("10")),
        text_of(ranges=rows("-1")),
        text_of(ranges=rows("0x10")),
        text_of(ranges=rows("99999999999999999999")),
        text_of(ranges="<Range> 0 </Range>"),
        text_of(ranges="<Range"),
        "<!DOCTYPE x>" + text_of(),
        "<!ENTITY x>" + text_of(),
    ],
)
def test_maps_that_are_refused(text: str) -> None:
    with pytest.raises(ImageProblemError):
        blockmap.parse(signed(text), "x")


def test_a_changed_map_is_refused() -> None:
    with pytest.raises(ImageProblemError, match="own checksum"):
        blockmap.parse(signed(text_of()).replace(b"0-1", b"0-2"), "x")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ImageProblemError):
        blockmap.parse(data, "x")
    with pytest.raises(ImageProblemError):
        blockmap.parse(signed(text_of(ranges=data.decode("latin-1").replace("\0", ""))) + b"<", "x")


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=20), st.data())
def test_the_check_does_not_depend_on_how_it_is_fed(sizes: list[int], data: st.DataObject) -> None:
    content = bytearray(sum(sizes) + 4096)
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = 1
    ranges = tuple(
        blockmap.Range(place, min(place + 4096, len(content)), hashlib.sha256(content[place : place + 4096]).hexdigest())
        for place in range(0, len(content), 4096)
        if any(content[place : place + 4096])
    )
    check = MapCheck(BlockMap(len(content), ranges), "x")
    place = 0
    for size in (*sizes, 4096):
        check.feed(memoryview(content)[place : place + size])
        place += size
    check.finish()
