# SPDX-License-Identifier: Apache-2.0
"""Block maps: which blocks are mapped, and the XML that bmaptool reads."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.blockmap import BLOCK, BlockRange, dump, main, read_image


def image(tmp_path: Path, *blocks: bytes) -> Path:
    path = tmp_path / "image"
    path.write_bytes(b"".join(block.ljust(BLOCK, b"\0") for block in blocks))
    return path


def sha(*blocks: bytes) -> str:
    return hashlib.sha256(b"".join(block.ljust(BLOCK, b"\0") for block in blocks)).hexdigest()


def test_ranges_are_runs_of_blocks_that_hold_something(tmp_path: Path) -> None:
    found = read_image(image(tmp_path, b"", b"a", b"b", b"", b"", b"c"))
    assert found.ranges == (BlockRange(1, 2, sha(b"a", b"b")), BlockRange(5, 5, sha(b"c")))
    assert (found.size, found.blocks, found.mapped) == (6 * BLOCK, 6, 3)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 << 20])
def test_an_empty_image_has_no_ranges(tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(size))
    assert read_image(path).ranges == ()


def test_a_short_last_block_is_hashed_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(BLOCK) + b"end")
    assert read_image(path).ranges == (BlockRange(1, 1, hashlib.sha256(b"end").hexdigest()),)


def test_holes_make_no_difference(tmp_path: Path) -> None:
    full, sparse = tmp_path / "full", tmp_path / "sparse"
    full.write_bytes(bytes(8 << 20) + b"x" * BLOCK)
    with sparse.open("wb") as stream:
        stream.seek(8 << 20)
        stream.write(b"x" * BLOCK)
    assert dump(read_image(full)) == dump(read_image(sparse))


@given(st.lists(st.booleans(), max_size=40))
def test_only_blocks_with_data_are_mapped(tmp_path_factory: pytest.TempPathFactory, blocks: list[bool]) -> None:
    path = image(tmp_path_factory.mktemp("map"), *(b"x" if block else b"" for block in blocks))
    found = read_image(path)
    mapped = {number for row in found.ranges for number in range(row.first, row.last + 1)}
    assert mapped == {number for number, block in enumerate(blocks) if block}


def test_the_file_holds_its_own_checksum(tmp_path: Path) -> None:
    text = dump(read_image(image(tmp_path, b"a"))).decode()
    own = re.search(r"<BmapFileChecksum> ([0-9a-f]{64}) </BmapFileChecksum>", text)
    assert own
    assert hashlib.sha256(text.replace(own[1], "0" * 64).encode()).hexdigest() == own[1]


def test_the_command_writes_a_map(tmp_path: Path) -> None:
    out = tmp_path / "image.bmap"
    assert main([str(image(tmp_path, b"a")), str(out)]) == 0
    assert b'<bmap version="2.0">' in out.read_bytes()
