# SPDX-License-Identifier: Apache-2.0
"""The input of a sandbox in a folder of this machine: as GNU tar unpacks the same stream, and whole or an error."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.errors import SandboxError
from pipeline.sandbox.transfer import Input, send
from pipeline.sandbox.unpack import unpack

ROOT = Path(__file__).resolve().parents[2]


def make_inputs(folder: Path) -> list[Input]:
    """Make sources of every kind that an input may have."""
    tree = folder / "tree"
    (tree / "d" / "empty").mkdir(parents=True)
    (tree / "d" / ("n" * 240)).write_bytes(os.urandom(300_001))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o4711)
    (tree / "ünï").write_bytes(b"")
    (tree / "link").symlink_to("/etc")
    (tree / "d" / "up").symlink_to("../run")
    return [Input("/in/tree", tree), Input("/in/one", tree / "run"), Input("/in/given", {"a/b": b"1"}), Input("/in/none/x", {})]


def seen(folder: Path) -> dict[str, tuple[object, ...]]:
    """What can be seen of a folder, itself included."""
    rows: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        info = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        rows[str(path.relative_to(folder))] = (oct(info.st_mode), info.st_mtime_ns, info.st_nlink, content)
    return rows


def test_it_is_what_tar_unpacks(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir(mode=0o700)
    theirs.mkdir()
    unpack(send(inputs, below="/in", epoch=86400), ours, epoch=86400)
    stream = b"".join(send(inputs, below="/in", epoch=86400))
    subprocess.run(["tar", "-xpf", "-", "-C", theirs], input=stream, check=True, timeout=60)
    os.utime(theirs, (86400, 86400))  # the stream holds nothing about the folder itself
    theirs.chmod(0o755)
    assert seen(ours) == seen(theirs)
    assert len(seen(ours)) == 15


def test_the_mask_of_new_files_does_not_matter(tmp_path: Path) -> None:
    found = []
    for mask in (0o000, 0o077):
        folder = tmp_path / oct(mask)
        folder.mkdir()
        old = os.umask(mask)
        try:
            unpack(send([Input("/in/a", {"d/x": b"1"})], below="/in", epoch=5), folder, epoch=5)
        finally:
            os.umask(old)
        found.append(seen(folder))
    assert found[0] == found[1]


def test_nothing_there_is_overwritten_or_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "in", tmp_path / "other"
    folder.mkdir()
    other.write_text("kept")
    (folder / "x").symlink_to(other)
    with pytest.raises(FileExistsError):
        unpack(send([Input("/in", {"x": b"1"})], below="/in", epoch=5), folder, epoch=5)
    assert other.read_text() == "kept"


def test_it_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(1 << 20))
    (tmp_path / "in").mkdir()
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise SandboxError("stopped")

    def pieces() -> Iterator[bytes]:
        for number, piece in enumerate(send([Input("/in/big", tmp_path / "big")], below="/in", epoch=5, check=check)):
            if number == 5:
                stopped.set()
            yield piece

    with pytest.raises(SandboxError, match="stopped"):
        unpack(pieces(), tmp_path / "in", epoch=5)


FULL = """\
import sys
from pathlib import Path
from pipeline.base.errors import FactoryError
from pipeline.sandbox.container import fill
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.transfer import Input, send
try:
    fill(Path(sys.argv[1]), send([Input("/in/x", {"x": bytes(1 << 20)})], below="/in", epoch=5), Sandbox("t", "i", (), epoch=5))
except FactoryError as error:
    print(type(error).__name__, error.message)
"""


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=64k small "$1" && exec "$2" -c "$3" "$1"'
    small = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(
        [*small, "sh", tmp_path, sys.executable, FULL], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert "StoreError" in done.stdout
    assert f"{tmp_path}: No space left on device (" in done.stdout
    assert "bytes free); nothing that was finished is lost" in done.stdout
