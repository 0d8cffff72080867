# SPDX-License-Identifier: Apache-2.0
"""The store: whole or not at all, checked when used, shared by builds, never lost to a full disk or a kill."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.canonical import Digest, digest_bytes, digest_json
from pipeline.base.errors import SandboxError, StoreError
from pipeline.store import gc
from pipeline.store.artifact import Artifact
from pipeline.store.store import Store

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", report=said.append)


def key_of(name: str) -> tuple[Digest, dict[str, Any]]:
    document: dict[str, Any] = {"stage": name}
    return digest_json(document), document


def build(store: Store, name: str, **files: bytes) -> Artifact:
    key, document = key_of(name)
    with store.building(key, document) as work:
        for path, data in (files or {"file": name.encode()}).items():
            (work.path / path).write_bytes(data)
        return work.commit(1.5)


def edit(path: Path, data: bytes) -> None:
    """What an editor run as root does to a read-only file, with the old time put back."""
    info = path.stat()
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(info.st_mode)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def test_a_finished_build_is_found_with_all_its_outputs(store: Store) -> None:
    key, document = key_of("a")
    assert store.lookup(key) is None
    with store.building(key, document) as work:
        assert work.existing is None
        (work.path / "deep" / "er").mkdir(parents=True)
        (work.path / "deep" / "er" / "x").write_bytes(b"content")
        (work.path / "run").write_bytes(b"#!/bin/sh\n")
        (work.path / "run").chmod(0o700)
        made = work.commit(2.0004)
    found = store.lookup(key)
    assert found == made
    assert found is not None
    assert {name: (row.sha256, row.size, row.executable) for name, row in found.outputs.items()} == {
        "deep/er/x": (digest_bytes(b"content"), 7, False),
        "run": (digest_bytes(b"#!/bin/sh\n"), 10, True),
    }
    assert found.file("run").stat().st_mode & 0o777 == 0o555
    assert found.size == 17
    assert found.seconds == 2.0
    assert store.built_keys() == [key]
    with pytest.raises(StoreError, match="holds no missing; it holds deep/er/x, run"):
        found.file("missing")


def test_record_is_canonical_and_the_same_in_two_stores(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    records = [(build(where, "a", x=b"1", y=b"2").path.parent / "record.json").read_bytes() for where in (store, other)]
    assert records[0] == records[1]
    assert json.loads(records[0])["document"] == {"stage": "a"}


def test_content_says_nothing_about_the_key(store: Store) -> None:
    assert build(store, "a", x=b"1").content == build(store, "b", x=b"1").content != build(store, "c", x=b"2").content


def test_second_build_finds_the_first(store: Store) -> None:
    made = build(store, "a")
    with store.building(*key_of("a")) as work:
        assert work.existing == made
        assert work.commit(9) == made


def test_failed_build_leaves_nothing(store: Store) -> None:
    key, document = key_of("a")

    def fail() -> None:
        with store.building(key, document) as work:
            (work.path / "half").write_bytes(b"x")
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert store.lookup(key) is None
    assert list(store.temporary.iterdir()) == []


def test_build_without_commit_leaves_nothing(store: Store) -> None:
    key, document = key_of("a")
    with store.building(key, document) as work:
        (work.path / "x").touch()
    assert store.lookup(key) is None
    assert list(store.temporary.iterdir()) == []


def test_key_must_be_of_the_document(store: Store) -> None:
    with pytest.raises(StoreError, match="not the key of the document"), store.building(key_of("a")[0], {"stage": "b"}):
        pass


@pytest.mark.parametrize("key", ["", "../../etc", "A" * 64, "0" * 63])
def test_odd_keys_are_refused(store: Store, key: str) -> None:
    with pytest.raises(StoreError, match="not a key"):
        store.lookup(Digest(key))


def test_only_files_and_folders(store: Store) -> None:
    with store.building(*key_of("a")) as work:
        (work.path / "link").symlink_to("/etc/passwd")
        with pytest.raises(StoreError, match="link: an artifact holds regular files"):
            work.commit(1)


def test_only_names_that_are_text(store: Store) -> None:
    with store.building(*key_of("a")) as work:
        Path(os.fsdecode(bytes(work.path) + b"/\xff")).touch()
        with pytest.raises(StoreError, match="must be UTF-8"):
            work.commit(1)


def test_known_records_are_taken(store: Store) -> None:
    made = build(store, "a", x=b"1")
    with store.building(*key_of("b")) as work:
        (work.path / "x").write_bytes(b"1")
        assert work.commit(1, made.outputs).outputs == made.outputs


# --- damage ---------------------------------------------------------------------------------------------------


def flip(artifact: Artifact) -> None:
    edit(artifact.path / "x", b"one")


def shorten(artifact: Artifact) -> None:
    edit(artifact.path / "x", b"tw")


def remove(artifact: Artifact) -> None:
    (artifact.path / "x").unlink()


def add(artifact: Artifact) -> None:
    (artifact.path / "more").touch()


def replace_with_link(artifact: Artifact) -> None:
    (artifact.path / "x").unlink()
    (artifact.path / "x").symlink_to("/etc/hostname")


def make_executable(artifact: Artifact) -> None:
    (artifact.path / "x").chmod(0o755)


def spoil_record(artifact: Artifact) -> None:
    (artifact.path.parent / "record.json").write_bytes(b"{")


def forge_record(artifact: Artifact) -> None:
    path = artifact.path.parent / "record.json"
    path.write_bytes(path.read_bytes().replace(digest_bytes(b"two").encode(), digest_bytes(b"one").encode()))


def escape_in_record(artifact: Artifact) -> None:
    path = artifact.path.parent / "record.json"
    path.write_bytes(path.read_bytes().replace(b'"x"', b'"../x"'))


def spoil_key(artifact: Artifact) -> None:
    (artifact.path.parent / "key.json").write_bytes(b'{"stage":"b"}')


def drop_record(artifact: Artifact) -> None:
    (artifact.path.parent / "record.json").unlink()


DAMAGES = [flip, shorten, remove, add, replace_with_link, make_executable, spoil_record, forge_record, escape_in_record,
           spoil_key, drop_record]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_reported_and_built_again(store: Store, said: list[str], damage: Callable[[Artifact], None]) -> None:
    made = build(store, "a", x=b"two")
    damage(made)
    assert store.lookup(made.key) is None
    (line,) = said
    assert "damaged" in line
    assert made.key[:12] in line
    assert list(store.damaged.glob(f"*/{made.key}/files"))
    assert build(store, "a", x=b"two") == made
    assert store.lookup(made.key) == made


def test_damage_is_seen_by_a_build(store: Store, said: list[str]) -> None:
    flip(build(store, "a", x=b"two"))
    with store.building(*key_of("a")) as work:
        assert work.existing is None
    assert "damaged" in said[0]


def test_verify_reads_everything(store: Store) -> None:
    made = build(store, "a", x=b"two")
    folder = made.path.parent
    # As a disk does it that returns other bytes than it was given: nothing in the file system's records shows it.
    flip(made)
    rows = json.loads((folder / "stat.json").read_bytes())
    info = (made.path / "x").stat()
    rows["files"]["x"] = [info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_mode]
    (folder / "stat.json").write_text(json.dumps(rows))
    assert store.lookup(made.key) == made
    assert store.verify(made.key) is None


def test_copied_store_is_hashed_once(store: Store) -> None:
    made = build(store, "a", x=b"two")
    stat = made.path.parent / "stat.json"
    before = stat.read_bytes()
    data = (made.path / "x").read_bytes()
    (made.path / "x").unlink()
    (made.path / "x").write_bytes(data)
    assert store.lookup(made.key) == made
    assert stat.read_bytes() != before


def test_reject_of_a_sound_artifact_keeps_it(store: Store, said: list[str]) -> None:
    made = build(store, "a")
    store.reject(made.key, "somebody read something odd")
    assert store.lookup(made.key) == made
    assert "a second reading matches the record" in said[0]


# --- several builds -------------------------------------------------------------------------------------------


def test_two_threads_build_once(store: Store, said: list[str]) -> None:
    built: list[bool] = []

    def all_wait() -> bool:
        return sum("waiting for it" in line for line in said) == 3

    def work() -> None:
        with store.building(*key_of("a")) as place:
            built.append(place.existing is None)
            if place.existing is None:
                deadline = time.monotonic() + 20
                while not all_wait() and time.monotonic() < deadline:
                    time.sleep(0.01)
                (place.path / "x").touch()
                place.commit(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all_wait(), said
    assert sorted(built) == [False, False, False, True]


def _build_slowly(root: Path, ready: Any) -> None:
    store = Store(root)
    with store.building(*key_of("a")) as work:
        (work.path / "half").write_bytes(b"x")
        ready.set()
        time.sleep(60)


def test_a_killed_build_blocks_no_other(store: Store, said: list[str]) -> None:
    ready = FORK.Event()
    child = FORK.Process(target=_build_slowly, args=(store.root, ready))
    child.start()
    assert ready.wait(10)
    assert store.sweep() == 0, "what a live build makes must stay"
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert len(list(store.temporary.iterdir())) == 1
    assert store.sweep() == 1
    assert build(store, "a").outputs.keys() == {"file"}
    assert list(store.temporary.iterdir()) == []


def test_leftover_of_the_same_key_goes_without_a_sweep(store: Store) -> None:
    key, _ = key_of("a")
    (store.temporary / f"{key}.old" / "files").mkdir(parents=True)
    build(store, "a")
    assert list(store.temporary.iterdir()) == []


def test_waiting_is_reported_and_can_be_stopped(tmp_path: Path) -> None:
    said: list[str] = []

    def stop() -> None:
        raise SandboxError("stopped")

    first, second = Store(tmp_path), Store(tmp_path, report=said.append, stop=stop)
    with first.building(*key_of("a")), pytest.raises(SandboxError, match="stopped"), second.building(*key_of("a")):
        pass
    assert "another process" in said[0]


# --- disk -----------------------------------------------------------------------------------------------------


def test_full_disk_loses_nothing(small_disk: Callable[[str], Path]) -> None:
    store = Store(small_disk("2m"))
    made = build(store, "a")
    with pytest.raises(StoreError) as caught:
        build(store, "b", big=bytes(4 << 20))
    assert "No space left on device" in caught.value.message
    assert "bytes free" in caught.value.message
    assert "doit gc" in caught.value.hint
    assert list(store.temporary.iterdir()) == []
    assert store.lookup(made.key) == made
    build(store, "b", big=bytes(1 << 19))


def test_full_disk_while_the_record_is_written(small_disk: Callable[[str], Path]) -> None:
    store = Store(small_disk("1m"))
    with pytest.raises(StoreError, match="No space left"), store.building(*key_of("a")) as work:
        (work.path / "x").touch()
        filler = store.root / "filler"
        try:
            filler.write_bytes(bytes(2 << 20))
        except OSError:
            pass
        work.commit(1)
    (store.root / "filler").unlink()
    assert store.lookup(key_of("a")[0]) is None
    build(store, "a")


# --- gc -------------------------------------------------------------------------------------------------------


def age(store: Store, artifact: Artifact, days: float) -> None:
    then = time.time() - days * 86400
    os.utime(store.folder(artifact.key), (then, then))


def test_gc_removes_the_longest_unused_first(store: Store) -> None:
    made = [build(store, name, x=os.urandom(1 << 16)) for name in "abcd"]
    for days, artifact in zip((4, 3, 2, 1), made, strict=True):
        age(store, artifact, days)
    store.close()
    size = gc.disk_size(store.folder(made[0].key))
    dry = gc.collect(store, keep={made[0].key}, max_bytes=2 * size, dry_run=True)
    assert len(store.built_keys()) == 4
    done = gc.collect(store, keep={made[0].key}, max_bytes=2 * size)
    assert done.removed == dry.removed == (made[1].key, made[2].key)
    assert done.left <= 2 * size
    assert done.freed == 2 * size
    assert store.built_keys() == sorted([made[0].key, made[3].key])


def test_gc_by_age(store: Store) -> None:
    old, young = build(store, "a"), build(store, "b")
    age(store, old, 10)
    store.close()
    done = gc.collect(store, keep=(), max_bytes=1 << 30, max_age_seconds=86400)
    assert done.removed == (old.key,)
    assert store.lookup(young.key) == young


def test_gc_leaves_what_is_used_or_being_built(store: Store, tmp_path: Path) -> None:
    used = build(store, "a")
    busy = build(store, "b")
    store.close()
    other = Store(store.root)
    assert other.lookup(used.key) == used
    with other.building(busy.key, {"stage": "b"}):
        done = gc.collect(store, keep=(), max_bytes=0)
        assert done.removed == ()
        assert done.kept_in_use == 2
    other.close()
    assert len(gc.collect(store, keep=(), max_bytes=0).removed) == 2
    assert list((store.root / "locks").iterdir()) == []


def test_gc_removes_damaged_ones_and_leftovers(store: Store) -> None:
    flip(build(store, "a", x=b"two"))
    store.lookup(key_of("a")[0])
    (store.temporary / f"{key_of('b')[0]}.x").mkdir()
    assert gc.collect(store, keep=(), max_bytes=1 << 30).freed > 0
    assert not store.damaged.exists()
    assert list(store.temporary.iterdir()) == []
