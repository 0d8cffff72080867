# SPDX-License-Identifier: Apache-2.0
"""Downloads into the vault: resumed, retried, from several mirrors, and never under a name before they are right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import ConfigError, FetchError, VerifyError
from pipeline.supply import fetch as module
from pipeline.supply.fetch import Mirrors, VanishedError, check_mirrors, fetch, get
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault
from tests.unit.mirror import Mirror, Quiet, serving

CONTENT = bytes(range(256)) * 5000
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACK_OFF", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as made:
        yield made


def offered(mirror: Mirror, content: bytes = CONTENT, name: str = "a") -> LockedFile:
    mirror.files[f"/pool/{name}"] = content
    return LockedFile(name, "1", digest_bytes(content), len(content), f"pool/{name}")


def bring(files: list[LockedFile], vault: Vault, *mirrors: str) -> Quiet:
    quiet = Quiet()
    fetch(files, vault, Mirrors(mirrors, vanished="import a vault"), quiet, title="files")
    return quiet


def test_fetched_once_and_then_without_a_network(mirror: Mirror, tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    wanted = [offered(mirror, bytes([number]) * 1000, f"p{number}") for number in range(20)]
    assert bring(wanted, vault, mirror.address).made.moved == 20_000
    assert all(vault.read(file) == mirror.files[f"/{file.location}"] for file in wanted)
    bring(wanted, vault, NOWHERE)
    assert len(mirror.asked) == 20
    assert not list((tmp_path / "untrusted_").iterdir())


def test_an_interrupted_download_is_continued(mirror: Mirror, tmp_path: Path) -> None:
    file = offered(mirror)
    mirror.breaks = 2
    assert bring([file], Vault(tmp_path), mirror.address).made.moved == len(CONTENT)
    starts = [int((start or "bytes=0-")[6:-1]) for _, start in mirror.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2] < len(CONTENT)


def test_a_server_that_cannot_resume(mirror: Mirror, tmp_path: Path) -> None:
    file, vault = offered(mirror), Vault(tmp_path)
    mirror.resumes = False
    vault.untrusted(file).parent.mkdir()
    vault.untrusted(file).write_bytes(CONTENT[:1000])
    bring([file], vault, mirror.address)
    assert vault.read(file) == CONTENT


def test_a_mirror_that_is_down_and_one_that_stumbles(mirror: Mirror, tmp_path: Path) -> None:
    file = offered(mirror)
    mirror.refuses = 2
    bring([file], Vault(tmp_path), NOWHERE, mirror.address)
    assert len(mirror.asked) == 3


def test_a_mirror_that_serves_other_bytes_is_passed_over(mirror: Mirror, tmp_path: Path) -> None:
    file = offered(mirror)
    with serving() as bad:
        bad.files[f"/{file.location}"] = CONTENT[:-1] + b"!"
        bring([file], Vault(tmp_path), bad.address, mirror.address)
    assert Vault(tmp_path).read(file) == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_other_bytes_than_the_locks_never_get_a_name(mirror: Mirror, tmp_path: Path, served: bytes) -> None:
    file, vault = offered(mirror), Vault(tmp_path)
    mirror.files[f"/{file.location}"] = served
    with pytest.raises(VerifyError, match="lock"):
        bring([file], vault, mirror.address)
    assert not vault.path(file).exists()
    mirror.files[f"/{file.location}"] = CONTENT
    bring([file], vault, mirror.address)


def test_everything_that_vanished_is_named(mirror: Mirror, tmp_path: Path) -> None:
    files = [offered(mirror, bytes([number]) * 9, f"p{number}") for number in range(3)]
    del mirror.files["/pool/p0"], mirror.files["/pool/p2"]
    with serving() as empty, pytest.raises(VanishedError, match="no mirror has it any more") as caught:
        bring(files, Vault(tmp_path), empty.address, mirror.address)
    assert "p0" in caught.value.message
    assert "p2" in caught.value.message
    assert caught.value.hint == "import a vault"
    assert Vault(tmp_path).is_whole(files[1])
    assert mirror.paths.count("/pool/p0") == 1


def test_an_unreachable_mirror_names_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        bring([LockedFile("a", "1", digest_bytes(b"a"), 1, "a")], Vault(tmp_path), NOWHERE)
    assert "network" in caught.value.hint


def test_small_files_are_fetched_up_to_their_limit(mirror: Mirror) -> None:
    mirror.files["/x"] = b"text"
    mirror.refuses = 1
    assert get(Mirrors((NOWHERE, mirror.address)), "x", limit=4) == b"text"
    with pytest.raises(FetchError, match="longer than 3"):
        get(Mirrors((mirror.address,)), "x", limit=3)
    with pytest.raises(VanishedError):
        get(Mirrors((mirror.address,)), "y", limit=3)
    mirror.breaks = 100
    with pytest.raises(FetchError):
        get(Mirrors((mirror.address,)), "x", limit=4)


def test_mirrors_are_https() -> None:
    assert check_mirrors(["https://a.example/alpine/", "http://127.0.0.1:80"], "x") == (
        "https://a.example/alpine",
        "http://127.0.0.1:80",
    )
    for bad in ("http://a.example", "ftp://a.example", "a.example", "https://"):
        with pytest.raises(ConfigError, match="https"):
            check_mirrors([bad], "x")
    with pytest.raises(ConfigError, match="no mirror"):
        check_mirrors([], "x")
