# SPDX-License-Identifier: Apache-2.0
"""Real packages and indexes of Alpine 3.19: all are read and verified, and no change of theirs goes unseen."""

from __future__ import annotations

import dataclasses
import io
import random
from pathlib import Path

import pytest

from pipeline.apk.format.index import IndexEntry, dump_index_text, entry_of, parse_index_text, read_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import parse, parse_dependency
from pipeline.apk.format.signature import KeyRing
from pipeline.base.errors import VerifyError

FLIPS = 60


def packages(alpine: Path) -> list[Path]:
    found = sorted((alpine / "packages").glob("*.apk"))
    assert len(found) == 10
    return found


def indexes(alpine: Path) -> list[Path]:
    return [alpine / name / "APKINDEX.tar.gz" for name in ("main/x86_64", "community/x86_64", "packages")]


def test_packages_and_their_index_agree(alpine: Path, alpine_ring: KeyRing) -> None:
    """What we say of each package is what Alpine's own index says of it."""
    with (alpine / "packages" / "APKINDEX.tar.gz").open("rb") as stream:
        listed = {entry.file_name: entry for entry in read_index(stream, alpine_ring).entries}
    for path in packages(alpine):
        entry = entry_of(path, alpine_ring, arch="x86_64")
        assert dataclasses.replace(entry, replaces=(), replaces_priority=None) == listed[path.name]
        assert entry.size == path.stat().st_size


def test_pkginfo_round_trip(alpine: Path) -> None:
    for path in packages(alpine):
        with path.open("rb") as stream:
            info = read_package(stream, None).info
        assert parse(info.dump()) == info


def test_indexes(alpine: Path, alpine_ring: KeyRing) -> None:
    count = 0
    for path in indexes(alpine):
        with path.open("rb") as stream:
            index = read_index(stream, alpine_ring)
        count += len(index.entries)
        assert same(parse_index_text(dump_index_text(index.entries)), index.entries)
        for entry in index.entries:
            for text in (*entry.depends, *entry.provides, *entry.install_if):
                assert str(parse_dependency(text)) == text
    assert count == 23_130


def same(one: tuple[IndexEntry, ...], two: tuple[IndexEntry, ...]) -> bool:
    """Equal but for the order."""
    return set(one) == set(two)


def test_a_flipped_byte_is_found(alpine: Path, alpine_ring: KeyRing) -> None:
    chance = random.Random(3)
    for path in packages(alpine):
        good = path.read_bytes()
        head = read_package(io.BytesIO(good), alpine_ring).data_offset
        few = FLIPS if len(good) < 100_000 else FLIPS // 4
        places = [*range(20), *chance.sample(range(head), FLIPS), *chance.sample(range(head, len(good)), few), len(good) - 1]
        for at in places:
            bad = bytearray(good)
            bad[at] ^= chance.randrange(1, 256) if at != 8 else 0xFF
            with pytest.raises(VerifyError):
                read_package(io.BytesIO(bytes(bad)), alpine_ring).verify_data()
        for size in chance.sample(range(len(good)), few):
            with pytest.raises(VerifyError):
                read_package(io.BytesIO(good[:size]), alpine_ring).verify_data()


def test_a_flipped_byte_of_an_index_is_found(alpine: Path, alpine_ring: KeyRing) -> None:
    chance = random.Random(4)
    good = (alpine / "packages" / "APKINDEX.tar.gz").read_bytes()
    for at in chance.sample(range(len(good)), 5 * FLIPS):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        with pytest.raises(VerifyError):
            read_index(io.BytesIO(bytes(bad)), alpine_ring)


def test_parts_of_two_packages_do_not_mix(alpine: Path, alpine_ring: KeyRing) -> None:
    """Control and signature of one with the data of another, and an index in a package's place."""
    one, two = ((alpine / "packages" / name).read_bytes() for name in ("alpine-base-3.19.1-r0.apk", "libc-utils-0.7.2-r5.apk"))
    heads = [read_package(io.BytesIO(data), None).data_offset for data in (one, two)]
    with pytest.raises(VerifyError, match="sha256"):
        read_package(io.BytesIO(one[: heads[0]] + two[heads[1] :]), alpine_ring).verify_data()
    with pytest.raises(VerifyError):
        read_package(io.BytesIO((alpine / "packages" / "APKINDEX.tar.gz").read_bytes()), alpine_ring)
    with pytest.raises(VerifyError):
        read_index(io.BytesIO(one), alpine_ring)
