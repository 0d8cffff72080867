# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, artifacts that somebody edited, and two builds at once."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import Tiny, make_tiny
from tests.integration.test_faults_stage import HOLD, log_of, release, wait_for

STORE_ERROR = 16


def test_the_disk_is_full(tiny_on: Callable[[str], Tiny]) -> None:
    tiny = tiny_on("24m")
    tiny.script("second", "dd if=/dev/urandom of=/out/second bs=1M count=40")
    said = tiny.doit(status=STORE_ERROR)
    assert "No space left on device" in said
    assert "bytes free" in said
    assert "free some space" in said
    assert tiny.artifacts("first"), "what was finished is kept"
    assert not tiny.artifacts("second")
    assert not tiny.leftovers()
    tiny.script("second", "cat /in/first/first /src/text/second > /out/second")
    assert re.search(r"^first .*\bcached\b", tiny.doit(), re.MULTILINE)
    assert tiny.image == "one\ntwo\n"


def test_the_disk_of_the_images_is_full(tiny: Tiny, small_disk: Callable[[str], object]) -> None:
    tiny.script("third", "dd if=/dev/urandom of=/out/image.img bs=1M count=8", "echo map >/out/image.bmap")
    (tiny.folder / "dist").rmdir()
    disk = small_disk("2m")
    (tiny.folder / "dist").symlink_to(str(disk), target_is_directory=True)
    said = tiny.doit(status=STORE_ERROR)
    assert "No space left on device" in said
    assert not list((tiny.folder / "dist").iterdir()), "no half of an image"


def fill(disk: Path) -> Path:
    """Take all the room that is left; the file that does."""
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return filler


def test_a_disk_that_is_full_from_the_start(tiny_on: Callable[[str], Tiny]) -> None:
    """Whatever is written first, a log or a note: it is said which disk has no room."""
    tiny = tiny_on("1m")
    tiny.doit("channel:builder")
    filler = fill(tiny.folder / "build")
    said = tiny.doit(status=STORE_ERROR)
    assert "No space left on device" in said
    assert " 0 of 1 048 576 bytes free" in said.replace("(", " ")
    assert "make room" in said
    filler.unlink()
    tiny.doit()
    assert tiny.image == "one\ntwo\n"


@pytest.mark.parametrize("damage", ["edited", "one bit", "removed", "record"])
def test_an_artifact_that_somebody_changed(tiny: Tiny, damage: str) -> None:
    tiny.doit()
    (output,) = tiny.artifacts("second")
    whole = output.read_bytes()
    output.chmod(0o644)
    match damage:
        case "edited":
            output.write_text("three\n")
        case "one bit":
            output.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        case "removed":
            output.parent.chmod(0o755)
            output.unlink()
        case "record":
            record = output.parent.parent / "record.json"
            record.chmod(0o644)
            record.write_bytes(record.read_bytes()[:-20])
    said = tiny.doit()
    assert "is damaged" in said
    assert re.search(r"^second .*\bbuilt\b", said, re.MULTILINE), said
    assert re.search(r"^third .*\bcached\b", said, re.MULTILINE), "the same bytes again: nothing after it changes"
    (output,) = tiny.artifacts("second")
    assert output.read_bytes() == whole
    assert tiny.image == "one\ntwo\n"


def test_a_finished_image_that_somebody_changed(tiny: Tiny) -> None:
    tiny.doit()
    (image,) = (tiny.folder / "dist").glob("tiny-*.img.zst")
    image.chmod(0o644)
    image.write_text("three\n")
    tiny.doit()
    assert tiny.image == "one\ntwo\n"


def test_two_builds_at_once(tiny: Tiny) -> None:
    """They share the store: each stage is built by one of them, and both end well."""
    tiny.script("second", *HOLD, "cat /in/first/first /src/text/second > /out/second")
    builder = tiny.start()
    wait_for(lambda: "begun" in log_of(tiny, "second"))
    waiter = tiny.start()
    assert waiter.stdout is not None
    # An iterator, not communicate(), which would lose what the lines before it took along.
    lines = []
    for line in waiter.stdout:
        lines.append(line)
        if "is being built by another process" in line:
            break
    else:
        pytest.fail("the second build did not wait for the first\n" + "".join(lines))
    release(tiny)
    said = [builder.communicate(timeout=90)[0], "".join([*lines, *waiter.stdout])]
    assert [builder.returncode, waiter.wait(30)] == [0, 0], "\n".join(said)
    for stage in ("first", "second", "third"):
        assert sum(len(re.findall(rf"^{stage} .*\bbuilt\b", text, re.MULTILINE)) for text in said) == 1, "\n".join(said)
    assert tiny.image == "one\ntwo\n"
    assert not tiny.leftovers()


def test_two_checkouts_with_one_folder_of_images(tiny: Tiny, tmp_path: Path, checkout: Path) -> None:
    """Each has its own set, whole, and leaves the other's alone; which of them is in front is a matter of who was first."""
    other = make_tiny(tmp_path / "other", checkout, tiny.cache)
    other.write("text/second", "three\n")
    builds = tiny.cache / "tower/builds"
    wanted = {tiny.folder: "one\ntwo\n", other.folder: "one\nthree\n"}
    for one in (tiny, other):
        (one.folder / "dist").rmdir()
    for _ in range(3):
        shutil.rmtree(builds, ignore_errors=True)
        runs = [one.start() for one in (tiny, other)]
        said = [run.communicate(timeout=90)[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], "\n".join(said)
        images = sorted(builds.rglob("tiny-*.img.zst"))
        assert {path.read_text() for path in images} == set(wanted.values())
        for path in images:
            done = subprocess.run(
                ["sha256sum", "--check", f"{path.name}.sha256"], cwd=path.parent, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout.count(": OK\n")) == (0, 3), done.stdout
        (own,) = (path for path in images if path.parent != builds)
        owner = next(folder for folder in wanted if own.parent.name.startswith(f"{folder.name}-"))
        assert own.read_text() == wanted[owner]
        assert sum(str(own) in text for text in said) == 1, "who has a folder of its own is told"
    before = {path: path.stat().st_ino for path in builds.rglob("*")}
    for one in (tiny, other):
        assert "written again" not in one.doit()
    assert {path: path.stat().st_ino for path in builds.rglob("*")} == before


def test_an_edit_while_it_builds(tiny: Tiny) -> None:
    """What comes out carries the key of what went in, whenever it was edited."""
    tiny.script("first", *HOLD, "cp /src/text/first /out/first")
    build = tiny.start()
    wait_for(lambda: "begun" in log_of(tiny, "first"))
    tiny.write("text/second", "late\n")
    assert "released" not in log_of(tiny, "first"), "it is edited while the first stage runs"
    release(tiny)
    said, _ = build.communicate(timeout=60)
    assert build.returncode == 0, said
    assert re.search(r"^first .*\bcached\b", tiny.doit(), re.MULTILINE)
    assert tiny.image == "one\nlate\n"
