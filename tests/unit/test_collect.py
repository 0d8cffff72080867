# SPDX-License-Identifier: Apache-2.0
"""Out of a folder of this machine: the same files and the same refusals as out of an engine's stream."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes, digest_file
from pipeline.base.errors import StageError
from pipeline.sandbox.made import NAME, wrapped
from pipeline.sandbox.receive import can_collect, collect
from pipeline.store.artifact import FileRecord


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The folder of a volume."""
    (tmp_path / "out").mkdir()
    (tmp_path / "taken").mkdir()
    return tmp_path / "out"


def listed(out: Path) -> None:
    """Write the list as the sandbox does: by its own script, with this folder for /out."""
    script = wrapped(["true"])[2].replace("/out", str(out))
    subprocess.run(["sh", "-c", script, "sh", "true"], check=True, capture_output=True, timeout=30)


def take(out: Path, declared: tuple[str, ...] | None = None, most: int = 1 << 30) -> dict[str, FileRecord]:
    listed(out)
    return collect(out, out.parent / "taken", declared=declared, max_bytes=most)


def test_files_and_folders_are_moved(out: Path) -> None:
    data = os.urandom(3 << 20)
    (out / "root.tar").write_bytes(data)
    (out / "d/e").mkdir(parents=True)
    (out / "d/run").write_bytes(b"x")
    (out / "d/run").chmod(0o4755)
    (out / "closed").write_bytes(b"")
    (out / "closed").chmod(0)
    with (out / "disk").open("wb") as stream:
        stream.truncate(1 << 30)
        stream.write(b"boot")
    assert can_collect(out)
    inode = (out / "root.tar").stat().st_ino
    found = take(out, most=2 << 30)
    taken = out.parent / "taken"
    assert found["root.tar"] == FileRecord(digest_bytes(data), len(data))
    assert found["d/run"] == FileRecord(digest_bytes(b"x"), 1, executable=True)
    assert found["closed"] == FileRecord(digest_bytes(b""), 0)
    assert sorted(found) == ["closed", "d/run", "disk", "root.tar"]
    assert (taken / "root.tar").stat().st_ino == inode
    modes = [stat.S_IMODE((taken / name).stat().st_mode) for name in ("root.tar", "d/run", "closed")]
    assert modes == [0o644, 0o755, 0o644]
    assert (taken / "disk").stat().st_blocks < 100, "holes stay holes"
    assert (taken / "d/e").is_dir()
    assert not (taken / NAME).exists()


def linked(out: Path) -> None:
    (out / "a").write_text("a")
    os.link(out / "a", out / "b")


def socket_in(out: Path) -> None:
    folder = os.open(out, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/s")
    os.close(folder)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (linked, "/out/b: is a hard link to a"),
        (lambda out: (out / "link").symlink_to("/etc/passwd"), "/out/link: is a symbolic link"),
        (lambda out: (out / "folder").symlink_to("/etc"), "/out/folder: is a symbolic link"),
        (lambda out: os.mkfifo(out / "pipe"), "/out/pipe: is a device, pipe or socket"),
        (socket_in, "/out/s: is a socket"),
        (lambda out: (out / "a\nb").write_text(""), "a name must be UTF-8, without control characters"),
        (lambda out: Path(os.fsdecode(bytes(out) + b"/\xff")).write_text(""), "a name must be UTF-8"),
        (lambda out: (out / "other").write_text(""), "is not among the outputs of the stage"),
        (lambda out: (out / "image").write_bytes(bytes(5000)), "larger than a stage may make"),
        (lambda out: None, "/out/image: the stage did not make it"),
    ],
)
def test_invalid_or_missing_outputs_are_refused(out: Path, make: Callable[[Path], object], said: str) -> None:
    make(out)
    with pytest.raises(StageError) as caught:
        take(out, ("image", "a*", "b", "link", "folder", "pipe", "s"), 4000)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out: (out / "image").unlink(), "/out/image: the stage made it, but the engine did not deliver it"),
        (lambda out: (out / "more").write_text(""), "/out/more: the engine delivered it, but the stage did not make it"),
        (lambda out: (out / NAME).unlink(), "the list of the stage's outputs is missing"),
        (lambda out: (out / NAME).write_bytes(b"file im"), "the list of the stage's outputs is cut off"),
    ],
)
def test_outputs_that_differ_from_the_list_are_refused(out: Path, change: Callable[[Path], object], said: str) -> None:
    (out / "image").write_text("image")
    listed(out)
    change(out)
    with pytest.raises(StageError) as caught:
        collect(out, out.parent / "taken", declared=None, max_bytes=1 << 20)
    assert said in str(caught.value)


def test_a_stop_is_heeded(out: Path) -> None:
    (out / "image").write_bytes(bytes(3 << 20))
    listed(out)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(out, out.parent / "taken", declared=None, max_bytes=1 << 30, check=stop)


def test_another_file_system(out: Path) -> None:
    """What cannot be moved is copied, with its holes."""
    data = os.urandom(100_000)
    with (out / "disk").open("wb") as stream:
        stream.truncate(1 << 30)
        stream.write(data)
    listed(out)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != out.stat().st_dev
        taken = collect(out, Path(other), declared=("disk",), max_bytes=2 << 30)
        copy = Path(other, "disk")
        assert (copy.stat().st_size, copy.stat().st_blocks < 300) == (1 << 30, True)
        assert copy.open("rb").read(len(data)) == data
        assert taken["disk"] == FileRecord(digest_file(copy), 1 << 30)


def test_links_files_and_folders_of_others_are_not_collected(out: Path) -> None:
    """Another's file, no folder, or a link to one."""
    (out / "image").write_text("image")
    assert can_collect(out)
    assert not can_collect(out / "image")
    assert not can_collect(out / "nothing")
    (out.parent / "link").symlink_to(out)
    assert not can_collect(out.parent / "link")
    if os.geteuid() == 0:
        os.chown(out / "image", 1, 1)
        assert not can_collect(out)
