# SPDX-License-Identifier: Apache-2.0
"""A small Alpine on a mirror of this machine, and checkouts that trust its keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.apk.format.signature import Signer
from pipeline.supply import fetch
from tests.unit.alpine.upstream import Upstream, make_keys
from tests.unit.mirror import serving


@pytest.fixture(scope="session")
def signers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Signer]]:
    """A folder with trusted keys, and all signers: by architecture, one more for x86_64, and a stranger."""
    folder = tmp_path_factory.mktemp("alpine-keys")
    trusted = make_keys(folder / "trusted", {"one": "x86_64", "two": "aarch64", "three": "x86_64"})
    stranger = make_keys(folder / "strange", {"stranger": "x86_64"})
    made = {"x86_64": trusted["one"], "aarch64": trusted["two"], "next": trusted["three"], **stranger}
    return folder / "trusted" / "keys", made


@pytest.fixture
def checkout_path(tmp_path: Path, signers: tuple[Path, dict[str, Signer]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with keys and a cache of its own."""
    monkeypatch.setattr(fetch, "_BACK_OFF", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("TOWER_ALPINE_MIRROR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(signers[0], tmp_path / "checkout" / "keys")
    (tmp_path / "checkout" / "runtime").mkdir()
    (tmp_path / "checkout" / "runtime" / "requirements.lock").write_text("# nothing\n")
    return tmp_path / "checkout"


@pytest.fixture
def upstream(checkout_path: Path, signers: tuple[Path, dict[str, Signer]]) -> Iterator[Upstream]:
    """Two repositories: app (which needs lib) and tool in main, more in community."""
    with serving() as mirror:
        made = Upstream(mirror, checkout_path / "keys", signers[1])
        made.add("main", "app", depend="so:lib.so")
        made.add("main", "lib", provides="so:lib.so=1")
        made.add("main", "tool", depend="lib")
        made.add("community", "more")
        made.publish()
        yield made
