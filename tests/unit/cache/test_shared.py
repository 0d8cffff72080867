# SPDX-License-Identifier: Apache-2.0
"""Records whose files cannot all have their place, however well they are signed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.base.canonical import Digest, digest_bytes
from pipeline.base.errors import VerifyError
from pipeline.store.artifact import FileRecord
from pipeline.store.cache.oci import Registry, RegistryPlace
from pipeline.store.cache.shared import SharedCache
from pipeline.store.cache.signed_record import Vouched

EMPTY = FileRecord(digest_bytes(b""), 0)


@pytest.fixture
def cache() -> SharedCache:
    """One that asks nothing of its registry, as all files are empty."""
    said: list[str] = []
    return SharedCache(Registry(RegistryPlace.parse("127.0.0.1:1/none")), (), said.append)


def bring(cache: SharedCache, folder: Path, outputs: Any) -> None:
    cache._bring_files(Vouched(outputs, 1.0, "nobody"), folder)


def test_empty_files(cache: SharedCache, tmp_path: Path) -> None:
    bring(cache, tmp_path, {"a": EMPTY, "b/c": EMPTY})
    assert (tmp_path / "b" / "c").read_bytes() == b""


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")])
def test_a_file_and_a_folder(cache: SharedCache, tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(VerifyError, match=r"below a file|file and a folder"):
        bring(cache, tmp_path, dict.fromkeys(names, EMPTY))


def test_an_empty_file_that_should_hold_something(cache: SharedCache, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="its sha256 is not"):
        bring(cache, tmp_path, {"a": FileRecord(Digest("a" * 64), 0)})
