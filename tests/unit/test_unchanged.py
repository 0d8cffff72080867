# SPDX-License-Identifier: Apache-2.0
"""The note of a run with nothing to do: it answers the same question again, and no other one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.unchanged import Watch, answer_again

LINES = ["root  pc  cached"]


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose store has an artifact, whose image is in its place, and which uses a file elsewhere."""
    put(tmp_path / "checkout/stages/root/run.sh", "echo one\n")
    put(tmp_path / "checkout/dodo.py", "")
    put(tmp_path / "checkout/build/store/1/record.json", "{}")
    put(tmp_path / "checkout/build/store/1/files/root.tar", "tar")
    put(tmp_path / "checkout/dist/image.img", "image")
    put(tmp_path / "cache/vault", "vault")
    put(tmp_path / "cache/shared", "shared")
    (tmp_path / "checkout/stages/shared").symlink_to(tmp_path / "cache", target_is_directory=True)
    return tmp_path / "checkout"


def run(root: Path, *words: str, began: int = 0) -> Watch:
    """What a run of these words heeds; as far as the files' times tell, it begins later."""
    made = Watch(str(root), words)
    made.began = began or time.time_ns() + 10**10
    made.heed("open", (str(root / "build/store/1/record.json"), "r", 0))
    made.heed("os.scandir", (str(root / "build/store/1/files"),))
    made.heed("open", (os.fsencode(root / "dist/image.img"), None, 0))
    made.heed("open", (root.parent / "cache/vault", None, 0))
    made.heed("open", (3, None, 0))
    made.heed("os.listdir", ("/proc",))
    return made


def remember(root: Path, *words: str) -> None:
    made = run(root, *words)
    made.answered(LINES, 1)
    made.keep()


def again(root: Path, *words: str) -> bool:
    return answer_again(Watch(str(root), words), lambda: 0.25)


def test_the_answer_is_given_again(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not again(root, "host")
    remember(root, "host")
    before = (root / "build/store/1").stat().st_mtime_ns
    assert again(root, "host")
    assert capsys.readouterr().out == "root  pc  cached\nnothing to do: 1 stages cached (0.2 s)\n"
    assert (root / "build/store/1").stat().st_mtime_ns > before, "the artifact was used, as gc must know"
    put(root / "stages/root/__pycache__/x.pyc", "byte code")
    put(root / "build/log/x.log", "nobody reads it")
    assert again(root, "host")


def swap(path: Path) -> None:
    """Put another file of the same size and times in the place of a file."""
    info = path.stat()
    other = path.with_name("other")
    other.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(other, ns=(info.st_atime_ns, info.st_mtime_ns))
    other.replace(path)


def edit(path: Path) -> None:
    """Change a byte of a file, and set its time back."""
    info = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


PLACES = [
    "stages/root/run.sh",
    "stages/shared/shared",
    "dodo.py",
    "build/store/1/record.json",
    "build/store/1/files/root.tar",
    "dist/image.img",
    "../cache/vault",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("change", [swap, edit, Path.unlink, lambda path: path.chmod(0o755)])
def test_a_change_of_a_file_is_noticed(root: Path, place: str, change: Callable[[Path], None]) -> None:
    remember(root)
    assert again(root)
    change(root / place)
    assert not again(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: put(root / "stages/root/new.sh", ""),
        lambda root: put(root / "stages/new/run.sh", ""),
        lambda root: put(root / "doit.cfg", ""),
        lambda root: put(root / "build/store/1/files/more", ""),
        lambda root: (root / "builds").mkdir(),
        lambda root: (root / "dist").rename(root / "builds"),
        lambda root: (root / "stages/root").rename(root / "stages/toor"),
        lambda root: (root / "stages/link").symlink_to("root"),
        lambda root: (root / "build/nothing-to-do.json").write_text("[]"),
        lambda root: (root / "build/nothing-to-do.json").write_bytes((root / "build/nothing-to-do.json").read_bytes()[:-9]),
        lambda root: (root / "build/nothing-to-do.json").unlink(),
    ],
)
def test_a_new_or_another_file_is_noticed(root: Path, change: Callable[[Path], object]) -> None:
    remember(root)
    assert again(root)
    change(root)
    assert not again(root)


def test_another_question_is_not_answered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(root, "host", "target=pc")
    for words in ([], ["host"], ["host", "target=rpi"], ["host target=pc"], ["target=pc", "host"], ["host", "target=pc", "x"]):
        assert not again(root, *words), words
    monkeypatch.setenv("SHLVL", "99")
    assert again(root, "host", "target=pc")
    monkeypatch.setenv("TOWER_ODD", "1")
    assert not again(root, "host", "target=pc")


@pytest.mark.parametrize(
    ("event", "arguments"),
    [("subprocess.Popen", ("true", ["true"], None, None)), ("socket.connect", (None, "x")), ("os.scandir", (3,))],
)
def test_a_run_that_does_more_than_look_leaves_no_note(root: Path, event: str, arguments: tuple[object, ...]) -> None:
    made = run(root)
    made.heed(event, arguments)
    made.answered(LINES, 1)
    made.keep()
    assert not (root / "build/nothing-to-do.json").exists()


def test_a_run_without_an_answer_or_with_an_action_leaves_no_note(root: Path) -> None:
    run(root).keep()
    acted = run(root)
    acted.stop()
    acted.answered(LINES, 1)
    acted.keep()
    assert not (root / "build/nothing-to-do.json").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_run_with_changes_during_or_just_before_it_leaves_no_note(root: Path, place: str) -> None:
    """A second change could have the same time as the first."""
    made = run(root, began=time.time_ns() + 10**9)
    made.answered(LINES, 1)
    made.keep()
    assert not (root / "build/nothing-to-do.json").exists()
    edit(root / place)
    gone = run(root)
    (root / "dist/image.img").unlink()
    gone.answered(LINES, 1)
    gone.keep()
    assert not (root / "build/nothing-to-do.json").exists()
