# SPDX-License-Identifier: Apache-2.0
"""Which converted packages gc removes."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.base.filelock import locked
from pipeline.base.recorded import RecordedCache
from pipeline.channels.lab.superseded import remove_superseded


def converted(folder: Path, name: str, digit: str, used: int) -> Path:
    path = folder / f"{name}.{digit * 64}.apk"
    made = folder / "made"
    made.write_bytes(bytes(5000))
    cache = RecordedCache(folder, report=lambda _: None)
    cache.keep(path.name, made)
    os.utime(path.with_name(f"{path.name}.record"), (used, used))
    return path


def test_the_last_used_version_of_each_package_stays(tmp_path: Path) -> None:
    kept = [
        converted(tmp_path, "zstd.x86_64", "2", 30),
        converted(tmp_path, "zstd.aarch64", "1", 10),
        converted(tmp_path, "a.b.noarch", "1", 1),
    ]
    old = [converted(tmp_path, "zstd.x86_64", "1", 10), converted(tmp_path, "zstd.x86_64", "3", 20)]
    (tmp_path / "notes.apk").touch()
    count, freed = remove_superseded(tmp_path)
    assert count == len(old)
    assert freed >= 2 * 5000
    assert sorted(path for path in tmp_path.glob("*.*.*.apk")) == sorted(kept)
    assert (tmp_path / "notes.apk").exists()
    assert len(list(tmp_path.glob("*.record"))) == len(kept)
    assert remove_superseded(tmp_path) == (0, 0)


def test_no_package_is_removed_while_others_are_converted(tmp_path: Path) -> None:
    for digit in "12":
        converted(tmp_path, "zstd.x86_64", digit, 1)
    with locked(tmp_path / "guard"):
        assert remove_superseded(tmp_path) == (0, 0)
    assert remove_superseded(tmp_path)[0] == 1


def test_without_any_conversion(tmp_path: Path) -> None:
    assert remove_superseded(tmp_path / "apk") == (0, 0)
    assert not (tmp_path / "apk").exists()
