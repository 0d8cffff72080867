# SPDX-License-Identifier: Apache-2.0
"""A cache of made files: whatever is done to one of them, it is noticed, said, and never used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import StoreError
from pipeline.base.recorded import Recorded, RecordedCache

DATA = bytes(range(256)) * 40
NAME = "a.noarch.0123.apk"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, said: list[str]) -> RecordedCache:
    made = RecordedCache(tmp_path / "cache", said.append)
    made.folder.mkdir()
    keep(made)
    return made


def keep(cache: RecordedCache, data: bytes = DATA) -> None:
    made = cache.folder / "tmp-made"
    made.write_bytes(data)
    cache.keep(NAME, made)


def test_a_kept_file_is_found_with_its_size_and_digest(cache: RecordedCache, said: list[str]) -> None:
    found = cache.find(NAME)
    assert found is not None
    assert (found.path, found.size, found.sha256) == (cache.place(NAME), len(DATA), digest_bytes(DATA))
    with found.opened() as stream:
        assert stream.read() == DATA
    assert cache.find("another") is None
    assert not said
    keep(cache, b"anew")
    again = cache.find(NAME)
    assert again is not None
    assert again.size == 4


def without_trace(path: Path, data: bytes) -> None:
    """Other content with the times of before, as a disk does it."""
    info = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def to_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.record")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": lambda path: without_trace(path, bytes([DATA[0] ^ 1]) + DATA[1:]),
    "one file more": lambda path: without_trace(path, DATA + b"more"),
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "another file": lambda path: (path.with_name("x").write_bytes(DATA[::-1]), path.with_name("x").replace(path)),
    "a pipe": to_fifo,
    "a folder": to_folder,
    "a link": to_link,
    "a record of other bytes": lambda path: record_of(path).write_text(f'{{"sha256":"{"0" * 64}","size":{len(DATA)}}}'),
    "a record of another size": lambda path: record_of(path).write_text(f'{{"sha256":"{digest_bytes(DATA)}","size":1}}'),
}
LOST: dict[str, Callable[[Path], object]] = {
    "no record": lambda path: record_of(path).unlink(),
    "half a record": lambda path: record_of(path).write_text('{"sha256":'),
    "a record of words": lambda path: record_of(path).write_text('["sha256"]'),
    "a record that is a pipe": lambda path: to_fifo(record_of(path)),
    "nested": lambda path: record_of(path).write_text("[" * 4000),
}


@pytest.mark.parametrize("damage", [*DAMAGES, *LOST])
def test_a_damaged_file_or_record_counts_as_absent(cache: RecordedCache, said: list[str], damage: str) -> None:
    path = cache.place(NAME)
    ({**DAMAGES, **LOST})[damage](path)
    assert cache.find(NAME) is None
    assert bool(said) == (damage in DAMAGES)
    assert not os.path.lexists(path)
    assert not os.path.lexists(record_of(path))
    keep(cache)
    assert cache.find(NAME) is not None


@pytest.mark.parametrize("change", ["one bit", "cut", "another file", "a pipe", "a link"])
def test_a_file_changed_after_hashing_is_not_read(cache: RecordedCache, change: str) -> None:
    found = cache.find(NAME)
    assert found is not None
    DAMAGES[change](found.path)
    with pytest.raises(StoreError), found.opened():
        raise AssertionError("never given out")


def test_a_change_while_a_file_is_read_is_an_error(cache: RecordedCache) -> None:
    found = cache.find(NAME)
    assert isinstance(found, Recorded)
    with pytest.raises(StoreError, match="was changed while it was used"), found.opened() as stream:
        stream.read(10)
        found.path.write_bytes(DATA[::-1])


def test_killed_before_the_record(cache: RecordedCache, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no record was not kept to the end: it counts as absent, and nobody is to blame."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        made = cache.folder / "tmp-made"
        made.touch()
        with pytest.raises(KeyboardInterrupt):
            cache.keep(NAME, made)
    assert cache.place(NAME).exists()
    assert cache.find(NAME) is None
    assert not said


def test_last_used(cache: RecordedCache) -> None:
    before = cache.last_used(NAME)
    os.utime(record_of(cache.place(NAME)), ns=(1, 1))
    assert cache.last_used(NAME) == 1
    cache.mark_used(NAME)
    assert cache.last_used(NAME) >= before
    assert cache.last_used("another") == 0
    found = cache.find(NAME)
    cache.mark_used(NAME)
    assert found is not None
    with found.opened():
        pass


def test_a_cache_that_cannot_be_written(tmp_path: Path, said: list[str]) -> None:
    cache = RecordedCache(tmp_path / "none", said.append)
    (tmp_path / "made").touch()
    with pytest.raises(StoreError, match="No such file"):
        cache.keep(NAME, tmp_path / "made")
    assert cache.find(NAME) is None
