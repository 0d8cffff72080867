# SPDX-License-Identifier: Apache-2.0
"""Sets of several checkouts in one folder of images: real processes at once, killed anywhere, and no mixed set ever."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tower.base.errors import ImageProblemError
from tower.image.source import check_source, read_source

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import StageError, StoreError
from pipeline.base.paths import Paths
from pipeline.build.factory import Factory
from pipeline.cli import commands, inputs
from pipeline.images import imageset, publish
from pipeline.images.boot import BootResult
from pipeline.images.imageset import ENDINGS, SetFile
from pipeline.plan.nodes import Image
from pipeline.store.artifact import FileRecord
from tests.unit.small import Driver, make_checkout, make_factory, put

PACKAGES = json.dumps([{"name": "a", "version": "1", "arch": "x", "checksum": "Q1a"}])
NAME = "host-1.2-lab-pc.img"
MANIFEST = f"{NAME}.manifest.json"
SIZE = 200_000
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")
PAIRS = int(os.environ.get("TOWER_TEST_PAIRS", "12"))
"""How many pairs of processes; more of them for a campaign."""
LIMIT = pytest.mark.timeout(60 + PAIRS)


def image_of(factory: Factory) -> Image:
    (image,) = (image for image in factory.plan.images if image.target == "pc")
    return image


def checkout(folder: Path, content: str) -> Factory:
    """A factory without a dist/, whose image for the PC is built of `content`."""
    paths = make_checkout(folder)
    shutil.rmtree(folder / "dist")
    for path, old, new in (
        ("stages/pack/stage.toml", '"image.bmap", ', ""),
        ("pipeline/recipes/host.toml", "-pc.img{suffix}", "-pc.img"),
    ):
        text = (folder / path).read_text()
        (folder / path).write_text(text.replace(old, new))
    (folder / "overlay/etc/motd").write_text(content)
    return built(paths, content)


def built(paths: Paths, content: str) -> Factory:
    factory = make_factory(paths, Driver())
    for name in ("channel:repository:x86_64", "channel:keys"):
        factory.need_by_name(name)
    put(factory, "stage:root:pc", {"root.tar": content})
    put(factory, "stage:pack:pc", {"image.img": (content * SIZE)[:SIZE], "packages.json": PACKAGES})
    return factory


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: a killed process loses nothing from the page cache, and hundreds of syncs take long on a busy machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that checkouts without a dist/ share."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tower/builds"


Sets = dict[str, dict[str, bytes]]


def files_in(folder: Path) -> dict[str, bytes]:
    """The files of the set in a folder by their endings; those that go while they are read are passed over."""
    found = {}
    for ending in ENDINGS:
        path = folder / f"{NAME}{ending}"
        if path.exists():
            found[ending] = path.read_bytes()
    return found


def whose(folder: Path, sets: Sets) -> str:
    """Of which set the files in a folder are, "" if there are none. Fails for a mixed set, and for a manifest that is early."""
    found = files_in(folder)
    if not found:
        return ""
    fits = [name for name, files in sets.items() if all(files[ending] == data for ending, data in found.items())]
    assert len(fits) == 1, f"{folder}: a mixed set: {sorted(found)}"
    assert ".manifest.json" not in found or len(found) == len(ENDINGS), "a manifest, but not all files"
    return fits[0]


def taken_alone(factory: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The set that a checkout makes."""
    with monkeypatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "alone"))
        files = files_in(inputs.publish_image(factory, image_of(factory)).parent)
        publish.withdraw(inputs.destination(factory), image_of(factory))
    assert len(files) == len(ENDINGS)
    return files


def forked(act: Callable[[], object]) -> int:
    """Run in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    try:
        act()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def taken(path: Path, sets: Sets) -> str:
    """Whose image `tower` takes; "" if it takes none."""
    try:
        source = read_source(path)
        check_source(source, unsigned=True)
    except ImageProblemError:
        return ""
    (name,) = (name for name, files in sets.items() if hashlib.sha256(files[""]).hexdigest() == source.sha256)
    assert sets[name][".bmap"].count(b"<Range") == len(source.block_map.ranges)
    assert source.block_map.ranges[0].sha256.encode() in sets[name][".bmap"], "the block map of another set"
    return name


@LIMIT
def test_two_checkouts_at_once(tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both end well, one in a folder of its own; neither ever takes the other's set for its own."""
    both = {name: checkout(tmp_path / name, name) for name in ("one", "two")}
    sets = {name: taken_alone(factory, tmp_path, monkeypatch) for name, factory in both.items()}
    first: set[str] = set()
    for _ in range(PAIRS):
        shutil.rmtree(builds, ignore_errors=True)
        children = [forked(partial(inputs.publish_image, factory, image_of(factory))) for factory in both.values()]
        for _ in range(3):
            taken(builds / NAME, sets)
        assert [ended(child) for child in children] == [0, 0]
        main = whose(builds, sets)
        first.add(main)
        for name, factory in both.items():
            there = inputs.need_published(factory, image_of(factory)).path
            assert (there.parent == builds) == (name == main)
            assert whose(there.parent, sets) == name
            assert inputs.publish_image(factory, image_of(factory)) == there, "it stays where it is"
    assert not list(builds.rglob("*.new")) + list(builds.rglob("*.lock"))
    assert first <= set(both)


@LIMIT
def test_one_checkout_that_builds_different_things_at_once(tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit between two runs: they write to the same place, and a reader sees one of the two sets, or none."""
    one = checkout(tmp_path / "one", "one")
    (tmp_path / "one/overlay/etc/motd").write_text("other")
    both = {"one": one, "other": built(one.paths, "other")}
    sets = {name: taken_alone(factory, tmp_path, monkeypatch) for name, factory in both.items()}
    seen = set()
    for _ in range(PAIRS):
        children = [forked(partial(inputs.publish_image, factory, image_of(factory))) for factory in both.values()]
        seen |= {taken(builds / NAME, sets) for _ in range(4)}
        assert [ended(child) for child in children] == [0, 0]
        assert whose(builds, sets)
        assert taken(builds / NAME, sets)
    assert seen & set(both)
    for name, factory in both.items():
        inputs.publish_image(factory, image_of(factory))
        assert whose(builds, sets) == name


@pytest.mark.parametrize("before", ["", "other"])
def test_killed_at_every_step(tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    """Whoever is killed leaves one set, whole or without its manifest, and the next run has it right."""
    one, other = checkout(tmp_path / "one", "one"), checkout(tmp_path / "other", "other")
    sets = {name: taken_alone(factory, tmp_path, monkeypatch) for name, factory in {"one": one, "other": other}.items()}
    # As if that checkout were gone: what is there is replaced.
    monkeypatch.setattr(publish, "owner_of", lambda spot, checkout: "")
    step = torn = 0
    while True:
        step += 1
        shutil.rmtree(builds, ignore_errors=True)
        if before:
            inputs.publish_image(other, image_of(other))

        def die(step: int = step) -> None:
            left = step

            def look(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event in EVENTS and str(builds) in f"{arguments}":
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(look)
            inputs.publish_image(one, image_of(one))

        status = ended(forked(die))
        left = whose(builds, sets) if builds.is_dir() else ""
        torn += bool(left) and not (builds / MANIFEST).exists()
        assert taken(builds / NAME, sets) in (left, "")
        inputs.publish_image(one, image_of(one))
        assert whose(builds, sets) == "one"
        assert taken(builds / NAME, sets) == "one"
        assert sorted(path.name for path in builds.glob(".*")) == [f".{NAME}.published"]
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert step > 20
    assert torn >= 3, "killed between the files of a set"


@LIMIT
def test_two_checkouts_of_which_one_is_killed_leave_no_mixed_set(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {name: checkout(tmp_path / name, name) for name in ("one", "two")}
    sets = {name: taken_alone(factory, tmp_path, monkeypatch) for name, factory in both.items()}
    chance = random.Random(8)
    for turn in range(PAIRS):
        if turn % 4 == 0:
            shutil.rmtree(builds, ignore_errors=True)
        children = [forked(partial(inputs.publish_image, factory, image_of(factory))) for factory in both.values()]
        for _ in range(chance.randrange(40)):
            taken(builds / NAME, sets)
        os.kill(children[turn % 2], signal.SIGKILL)
        statuses = [ended(child) for child in children]
        assert statuses[(turn + 1) % 2] == 0
        assert statuses[turn % 2] in (0, -signal.SIGKILL)
        for folder in (builds, *(path for path in builds.iterdir() if path.is_dir() and not path.name.startswith("."))):
            whose(folder, sets)
    for name, factory in both.items():
        assert whose(inputs.publish_image(factory, image_of(factory)).parent, sets) == name


# --- whose set it is ------------------------------------------------------------------------------------------


def test_the_image_of_another_checkout_is_not_replaced(tmp_path: Path, builds: Path) -> None:
    one, two = checkout(tmp_path / "one", "one"), checkout(tmp_path / "two", "two")
    assert inputs.publish_image(one, image_of(one)) == builds / NAME
    there = inputs.publish_image(two, image_of(two))
    assert there.parent.parent == builds
    assert there.parent.name.startswith("two-")
    assert (builds / NAME).read_text().startswith("one")
    publish.withdraw(inputs.destination(two), image_of(two))
    assert not there.parent.exists()
    assert inputs.need_published(one, image_of(one)).path == builds / NAME, "to clean here removes nothing there"

    # When that checkout is gone, or took its set away, the place is free.
    inputs.publish_image(two, image_of(two))
    shutil.rmtree(tmp_path / "one")
    assert inputs.publish_image(two, image_of(two)) == builds / NAME
    assert not there.parent.exists()


def test_a_checkout_starts_and_audits_only_its_own_image(tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image in front is another checkout's, and ours not built: it is not started in its place."""
    one, two = checkout(tmp_path / "one", "one"), checkout(tmp_path / "two", "two")
    inputs.publish_image(one, image_of(one))
    started: list[Path] = []
    result = BootResult("host-pc", 1.0, None, tmp_path / "log")

    def start(_machine: str, path: Path) -> BootResult:
        started.append(path)
        return result

    monkeypatch.setattr("pipeline.images.boot.main_task", start)
    with pytest.raises(StageError, match="is not built from what is now in the checkout"):
        commands.boot(two, "host-pc", image_of(two))
    ours = inputs.publish_image(two, image_of(two))
    commands.boot(two, "host-pc", image_of(two))
    commands.boot(one, "host-pc", image_of(one))
    assert started == [ours, builds / NAME]
    assert publish.place_of(inputs.destination(two), image_of(two)) == ours
    # Neither is a set that somebody has torn.
    (ours.parent / MANIFEST).unlink()
    with pytest.raises(StageError, match="is not built from what is now in the checkout"):
        commands.boot(two, "host-pc", image_of(two))


def test_an_equal_set_of_another_checkout_is_shared(tmp_path: Path, builds: Path) -> None:
    one, two = checkout(tmp_path / "one", "same"), checkout(tmp_path / "two", "same")
    assert inputs.publish_image(one, image_of(one)) == inputs.publish_image(two, image_of(two)) == builds / NAME
    assert inputs.need_published(two, image_of(two)).path == builds / NAME
    assert [path for path in builds.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("signature", [f"{NAME}.minisig", "SHA256SUMS.minisig"])
def test_a_signed_image_is_not_replaced(tmp_path: Path, builds: Path, signature: str) -> None:
    one = checkout(tmp_path / "one", "one")
    builds.mkdir(parents=True)
    for name, text in ((NAME, "released"), ("SHA256SUMS", f"{'0' * 64}  {NAME}\n"), (signature, "signed")):
        (builds / name).write_text(text)
    assert inputs.publish_image(one, image_of(one)).parent.parent == builds
    assert (builds / NAME).read_text() == "released"


def test_a_set_without_a_note_is_replaced_whole(tmp_path: Path, builds: Path) -> None:
    one = checkout(tmp_path / "one", "one")
    builds.mkdir(parents=True)
    for ending in ENDINGS:
        (builds / f"{NAME}{ending}").write_text("of an older factory")
    assert inputs.publish_image(one, image_of(one)) == builds / NAME
    assert taken(builds / NAME, {"one": files_in(builds)}) == "one"


def test_the_note_does_not_vouch_for_a_file_swapped_after_hashing(
    tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has the name by the time of the note is another file: the note does not vouch for it."""
    one = checkout(tmp_path / "one", "one")
    switch = imageset._switch

    def swapped(spot: imageset.Spot, new: list[str]) -> None:
        switch(spot, new)
        foreign = spot.path.with_name("foreign")
        foreign.write_bytes(b"x" * SIZE)
        foreign.replace(spot.path)

    with monkeypatch.context() as patch:
        patch.setattr(imageset, "_switch", swapped)
        inputs.publish_image(one, image_of(one))
    assert inputs.find_published(one, image_of(one)) is None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_something_else_in_the_place_of_a_file(tmp_path: Path, builds: Path, kind: str, ending: str) -> None:
    one = checkout(tmp_path / "one", "one")
    inputs.publish_image(one, image_of(one))
    path = builds / f"{NAME}{ending}"
    path.unlink()
    other = tmp_path / "elsewhere"
    if kind == "link":
        other.write_text("mine")
        path.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        (path / "mine").touch()
        with pytest.raises(StoreError):
            inputs.publish_image(one, image_of(one))
        assert (path / "mine").exists()
        return
    inputs.publish_image(one, image_of(one))
    assert not path.is_symlink()
    assert whose(builds, {"one": files_in(builds)}) == "one"
    assert kind == "pipe" or other.read_text() == "mine"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"files": {}}', b'{"checkout": 1, "key": "", "made of": "", "files": {}}']
)
def test_a_damaged_note_is_ignored(tmp_path: Path, builds: Path, damage: bytes) -> None:
    one = checkout(tmp_path / "one", "one")
    inputs.publish_image(one, image_of(one))
    note = builds / f".{NAME}.published"
    note.write_bytes(damage)
    assert inputs.find_published(one, image_of(one)) is None
    assert inputs.publish_image(one, image_of(one)) == builds / NAME
    assert inputs.find_published(one, image_of(one)) is not None


# --- copies ---------------------------------------------------------------------------------------------------


def test_holes_stay_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as out:
        out.write(b"x")
        out.truncate(32 << 20)
        out.seek(0, 2)
        out.write(b"y")
        out.truncate(40 << 20)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    with target.open("wb+") as out:
        assert imageset._copy(source, out) == digest
    assert target.stat().st_size == 40 << 20
    assert hashlib.sha256(target.read_bytes()).hexdigest() == digest
    assert target.stat().st_blocks * 512 < 20 << 20


def test_a_copy_of_other_bytes_is_never_placed(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"other")
    record = FileRecord(digest_bytes(b"right"), 5)
    contents = {f"x{ending}": SetFile(record, b"right" if ending else tmp_path / "source") for ending in ENDINGS}
    spot = imageset.Spot(tmp_path, "x")
    with pytest.raises(StoreError, match="expected"):
        imageset.lay(spot, contents, checkout=tmp_path, key=record.sha256, made_of=record.sha256)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
