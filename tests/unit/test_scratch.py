# SPDX-License-Identifier: Apache-2.0
"""Temporary folders: gone at the end, left alone while their owner lives, removed once it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base import scratch
from pipeline.base.scratch import mounts_below, remove_tree, sweep, temporary_folder

OWNER = """
import sys, time
from pathlib import Path
from pipeline.base.scratch import temporary_folder
with temporary_folder("vm", Path(sys.argv[1])) as folder:
    (folder / "disk").write_text("large")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path: Path, checkout: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process with a folder, and the folder."""
    argv = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(argv, cwd=checkout, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_folder_goes_with_its_context(tmp_path: Path) -> None:
    with temporary_folder("vm", tmp_path) as folder:
        (folder / "inside").mkdir()
        assert folder.name.startswith("tower-vm-")
        assert folder.stat().st_mode & 0o077 == 0
        assert sweep(tmp_path, "vm") == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), temporary_folder("vm", tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_owner_stays(owner: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
    with temporary_folder("vm", tmp_path) as mine:
        assert (owner[1] / "disk").read_text() == "large"
        assert sorted(tmp_path.iterdir()) == sorted([owner[1], mine])


def test_the_folder_of_a_killed_owner_goes_with_the_next(owner: tuple[subprocess.Popen[str], Path], tmp_path: Path) -> None:
    process, folder = owner
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "disk").exists()
    with temporary_folder("audit", tmp_path):
        assert folder.exists(), "another kind"
    with temporary_folder("vm", tmp_path):
        assert not folder.exists()


def test_links_young_folders_and_those_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "tower-vm-link").symlink_to(elsewhere)
    young = tmp_path / "tower-vm-young"
    young.mkdir()
    old = tmp_path / "tower-vm-old"
    old.mkdir()
    os.utime(old, (0, 0))
    assert sweep(tmp_path, "vm") == [old]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "tower-vm-link", "tower-vm-young"]
    os.utime(young, (0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert sweep(tmp_path, "vm") == [], "of another user"


def test_a_mount_within_is_detached_and_its_content_kept(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    folder, outside = tmp_path / "a folder", tmp_path / "outside"
    for path in (folder / "dev" / "shm", outside / "shm"):
        path.mkdir(parents=True)
    (outside / "shm" / "kept").write_text("kept")
    subprocess.run(["mount", "--bind", outside, folder / "dev"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "dev" / "shm"], check=True)
    try:
        assert len(mounts_below(folder)) == 2
        assert remove_tree(folder)
        assert (outside / "shm" / "kept").read_text() == "kept"
    finally:
        for place in mounts_below(tmp_path):
            subprocess.run(["umount", "--lazy", place], check=False)


def test_a_mount_that_stays_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()
    monkeypatch.setattr(scratch, "mounts_below", lambda _: [tmp_path / "tree" / "no-mount"])
    assert not remove_tree(tmp_path / "tree")
    assert (tmp_path / "tree" / "file").exists()
