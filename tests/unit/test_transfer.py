# SPDX-License-Identifier: Apache-2.0
"""Into the sandbox: equal content gives equal bytes, and nothing goes in that the key does not know."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_json, digest_tree, tree_entries
from pipeline.base.errors import SandboxError, StoreError
from pipeline.sandbox.transfer import Input, send
from pipeline.store.artifact import DamagedError
from pipeline.store.store import Artifact, Store


def members(*inputs: Input, epoch: int = 0) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(send(inputs, epoch=epoch)))) as tar:
        return {member.name: member for member in tar}


def test_a_stream_for_one_folder_names_what_is_below_it() -> None:
    inputs = [Input("/in/a/b", {"x": b"1"}), Input("/in/c", {"y": b"2"})]
    with tarfile.open(fileobj=io.BytesIO(b"".join(send(inputs, below="/in", epoch=5)))) as tar:
        assert [(member.name, member.isdir(), member.mtime) for member in tar] == [
            (".", True, 5), ("a", True, 5), ("a/b", True, 5), ("a/b/x", False, 5), ("c", True, 5), ("c/y", False, 5),
        ]  # fmt: skip


def make_tree(root: Path) -> Path:
    (root / "sub" / "empty").mkdir(parents=True)
    (root / "sub" / "__pycache__").mkdir()
    (root / "sub" / "__pycache__" / "a.pyc").write_bytes(b"x")
    (root / "sub" / "a.pyc").write_bytes(b"x")
    (root / "sub" / "backup~").write_bytes(b"x")
    (root / "sub.d").mkdir()
    (root / "sub.d" / "ünï").write_bytes(b"y" * 1000)
    (root / "run").write_bytes(b"#!/bin/sh\n")
    (root / "run").chmod(0o700)
    (root / "link").symlink_to("sub/nowhere")
    (root / "dirlink").symlink_to("sub")
    return root


def artifact(root: Path) -> Artifact:
    store, document = Store(root), {"a": 1}
    with store.building(digest_json({"a": 1}), dict(document)) as work:
        (work.path / "d").mkdir()
        (work.path / "d" / "x").write_bytes(b"x" * 700)
        (work.path / "tool").write_bytes(b"t")
        (work.path / "tool").chmod(0o755)
        return work.commit(1)


def test_everything_but_content_is_made_equal(tmp_path: Path) -> None:
    found = members(Input("/in/tree", make_tree(tmp_path / "t")), epoch=86400)
    assert {name: (oct(row.mode), row.linkname) for name, row in found.items()} == {
        "in": ("0o755", ""),
        "in/tree": ("0o755", ""),
        "in/tree/dirlink": ("0o777", "sub"),
        "in/tree/link": ("0o777", "sub/nowhere"),
        "in/tree/run": ("0o755", ""),
        "in/tree/sub": ("0o755", ""),
        "in/tree/sub/empty": ("0o755", ""),
        "in/tree/sub.d": ("0o755", ""),
        "in/tree/sub.d/ünï": ("0o644", ""),
    }
    assert {(row.uid, row.gid, row.uname, row.mtime) for row in found.values()} == {(0, 0, "", 86400)}


def test_two_copies_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_tree(tmp_path / "a"), make_tree(tmp_path / "b")
    os.utime(second / "run", (1, 1))
    (second / "sub").chmod(0o700)
    assert b"".join(send([Input("/in/t", first)], epoch=5)) == b"".join(send([Input("/in/t", second)], epoch=5))


def test_order_of_inputs_does_not_matter(tmp_path: Path) -> None:
    tree, other = Input("/in/t", make_tree(tmp_path / "a")), Input("/in/b", {"x": b"1"})
    assert b"".join(send([tree, other], epoch=5)) == b"".join(send([other, tree], epoch=5))


def test_only_entries_that_the_key_knows_are_sent(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "t")
    assert members(Input("/in/t", root, digest_tree(root)))
    assert {name.removeprefix("in/t/") for name in members(Input("/in/t", root))} - {"in", "in/t"} == {
        str(row[0]) for row in tree_entries(root)
    }
    assert members(Input("/src/one.toml", root / "run", digest_tree(root / "run"))).keys() == {"src", "src/one.toml"}


def test_a_source_that_changed_is_an_error(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "t")
    item = Input("/in/t", root, digest_tree(root))
    (root / "run").write_bytes(b"other")
    with pytest.raises(StoreError, match="changed during the build"):
        members(item)


def test_an_artifact_is_hashed_on_the_way(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    found = members(Input("/in/a", made))
    assert {name: oct(row.mode) for name, row in found.items()} == {
        "in": "0o755", "in/a": "0o755", "in/a/d": "0o755", "in/a/d/x": "0o644", "in/a/tool": "0o755",
    }  # fmt: skip
    (made.path / "d" / "x").chmod(0o644)
    (made.path / "d" / "x").write_bytes(b"y" * 700)
    with pytest.raises(DamagedError, match=r"d/x: sha256 .* the record of") as caught:
        members(Input("/in/a", made))
    assert caught.value.key == made.key
    (made.path / "d" / "x").unlink()
    with pytest.raises(DamagedError, match="d/x: missing"):
        members(Input("/in/a", made))


@pytest.mark.parametrize("target", ["", "/", "in", "/in/../etc", "/in/", "//in/a", "/in/./a"])
def test_odd_targets_are_refused(target: str) -> None:
    with pytest.raises(SandboxError, match="plain absolute path"):
        Input(target, {})


def test_two_inputs_at_one_place_are_refused() -> None:
    with pytest.raises(SandboxError, match="two inputs hold it"):
        members(Input("/in/a", {"x": b""}), Input("/in/a", {"x": b""}))
    with pytest.raises(SandboxError, match="file of one input and a folder of another"):
        members(Input("/in/a", {"x": b""}), Input("/in/a/x/y", {"z": b""}))


def test_missing_and_special_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"No such file.*\(input /in/a\)"):
        members(Input("/in/a", tmp_path / "missing"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreError, match="neither a file"):
        members(Input("/in/a", tmp_path))


def test_a_transfer_can_be_stopped() -> None:
    def check() -> None:
        raise SandboxError("stopped")

    with pytest.raises(SandboxError, match="stopped"):
        list(send([Input("/in/a", {"x": b""})], epoch=0, check=check))


def test_nothing_is_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as stream:
        stream.truncate(64 << 20)
    assert max(len(piece) for piece in send([Input("/in/a", tmp_path)], epoch=0)) <= 1 << 20
