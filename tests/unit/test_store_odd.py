# SPDX-License-Identifier: Apache-2.0
"""What lies in the store and is no regular file, or no folder: it is moved away and built again; nothing hangs on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from socket import AF_UNIX, socket

import pytest
from tower.base.regular import open_regular, read_regular

from pipeline.base.errors import StoreError
from pipeline.store.artifact import FILES, KEY, PULLED, RECORD, STAT
from pipeline.store.gc import collect
from pipeline.store.store import Store
from tests.unit.test_store import build, key_of

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever


def make_socket(path: Path) -> None:
    """By its name alone: a path may be too long for one."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket(AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "folder": lambda path: (path / "below").mkdir(parents=True),
    "file": lambda path: path.write_text("text"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "link to a folder": lambda path: path.symlink_to("/"),
}
PLACES = {"entry": ".", "files": FILES, "record": RECORD, "key": KEY, "output": f"{FILES}/file", "more": f"{FILES}/more"}


def replace(path: Path, kind: str) -> None:
    """Put a thing of this kind in the place of whatever is there."""
    path.parent.chmod(0o755)
    if path.exists():
        path.rename(path.parent.parent / "taken-away")
    KINDS[kind](path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_an_odd_file_in_place_of_an_artifact_is_moved_away(tmp_path: Path, place: str, kind: str) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", report=said.append)
    made = build(store, "a")
    folder = store.folder(made.key)
    if place == "more" and kind in ("file", "folder"):
        return  # of those test_store tells
    replace(folder if place == "entry" else folder / PLACES[place], kind)
    assert Store(store.root).built_keys() == ([] if place == "entry" and kind != "folder" else [made.key])
    assert store.lookup(made.key) is None
    assert len(said) == 1
    assert "is damaged" in said[0]
    assert not os.path.lexists(folder), "moved away"
    with store.building(*key_of("a")) as work:
        assert work.existing is None
    again = build(store, "a")
    assert store.verify(made.key) == again
    collect(store, keep=(), max_bytes=1 << 30)
    assert not store.damaged.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_an_odd_file_in_place_of_the_fingerprint_is_ignored(tmp_path: Path, kind: str) -> None:
    """The fingerprint only saves time: without it, all files are hashed."""
    said: list[str] = []
    store = Store(tmp_path / "store", report=said.append)
    made = build(store, "a")
    replace(store.folder(made.key) / STAT, kind)
    assert store.lookup(made.key) == made
    assert store.lookup(made.key) == made
    assert said == []


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to itself", "link to a device"])
def test_an_odd_file_in_place_of_the_origin_is_an_error(tmp_path: Path, kind: str) -> None:
    """Who does not know that an artifact was pulled would sign what others built."""
    store = Store(tmp_path / "store")
    made = build(store, "a")
    assert store.origin(made.key) == ""
    replace(store.folder(made.key) / PULLED, kind)
    with pytest.raises(StoreError) as caught:
        store.origin(made.key)
    assert "rm -r" in caught.value.hint


@pytest.mark.parametrize("name", ["tmp", "locks", "damaged", ""])
def test_a_file_in_place_of_a_folder_of_the_store(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    store = Store(root)
    made = build(store, "a")
    place = root / name
    if place.exists():
        place.rename(tmp_path / "taken-away")
    place.touch()
    if name == "damaged":
        (root / made.key / RECORD).unlink()
    store.close()
    with pytest.raises(StoreError) as caught:
        if name == "damaged":
            store.lookup(made.key)
        build(store, "b")
    assert str(place) in caught.value.message


def test_leftovers_of_any_kind_go(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    build(store, "a")
    key, _ = key_of("b")
    for number, kind in enumerate(KINDS):
        KINDS[kind](store.temporary / f"{key}.{number}")
    assert store.sweep() == len(KINDS)
    assert not list(store.temporary.iterdir())
    for number, kind in enumerate(KINDS):
        KINDS[kind](store.temporary / f"{key}.{number}")
    build(store, "b")
    assert not list(store.temporary.iterdir())


def test_opening_regular_files(tmp_path: Path) -> None:
    for kind, make in KINDS.items():
        make(tmp_path / kind)
    for kind, says in (
        ("pipe", "is a pipe"),
        ("socket", "is a socket"),
        ("folder", "is a folder"),
        ("link to a device", "is a device"),
        ("link to a folder", "is a folder"),
        ("link to nothing", "No such file"),
        ("link to itself", "Too many levels"),
    ):
        with pytest.raises(OSError, match=says) as caught:
            open_regular(tmp_path / kind)
        assert caught.value.filename is not None
    assert read_regular(tmp_path / "file", most=4) == b"text"
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_regular(tmp_path / "file", most=3)
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as stream:
        assert stream.read() == b"text"
    with pytest.raises(OSError, match="is a link"):
        open_regular(tmp_path / "link", follow=False)
