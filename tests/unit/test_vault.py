# SPDX-License-Identifier: Apache-2.0
"""The vault: content decides, swapped files are found, tars carry it over, and gc keeps what locks name."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.canonical import Digest, digest_bytes
from pipeline.channel import LockedFile
from pipeline.errors import StoreError, VerifyError
from pipeline.vault import VERIFIED_NS, Vault
from tests.unit.mirror import Quiet


def kept(vault: Vault, text: str) -> LockedFile:
    data = text.encode()
    return LockedFile(text[:20], "1", vault.put(data), len(data), text[:20])


def swap(vault: Vault, file: LockedFile) -> None:
    """Other bytes of the same size, with the time of a verified file."""
    vault.path(file).write_bytes(b"x" * file.size)
    os.utime(vault.path(file), ns=(VERIFIED_NS, VERIFIED_NS))


def test_put_and_read(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    file = kept(vault, "hello")
    assert vault.read(file) == b"hello"
    vault.copy(file, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"hello"
    (tmp_path / "moved").write_bytes(b"other")
    assert vault.put_file(tmp_path / "moved") == digest_bytes(b"other")
    assert not (tmp_path / "moved").exists()


def test_a_swapped_file_is_found_when_used_and_then_gone(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    for use in (vault.read, lambda file: vault.copy(file, tmp_path / "copy")):
        file = kept(vault, "hello")
        swap(vault, file)
        with pytest.raises(VerifyError, match="not what the lock says") as caught:
            use(file)
        assert caught.value.hint == "run: ./ci/doit fetch"
        assert not vault.path(file).exists()
        assert not (tmp_path / "copy").exists()
        with pytest.raises(VerifyError, match="is not in the vault"):
            use(file)


def test_a_changed_file_is_missing(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    one, two, three = (kept(vault, text) for text in ("one", "two", "three"))
    vault.path(one).write_bytes(b"eno")
    vault.path(two).unlink()
    assert vault.missing([one, two, three]) == sorted([one, two])
    swap(vault, three)
    assert vault.is_whole(three)
    assert not vault.recheck(three)


def test_an_untrusted_file_gets_no_name(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    file = LockedFile("a", "1", digest_bytes(b"right"), 5)
    vault.untrusted(file).parent.mkdir()
    vault.untrusted(file).write_bytes(b"wrong")
    with pytest.raises(VerifyError, match="the lock says"):
        vault.accept(file)
    assert not vault.untrusted(file).exists()
    vault.untrusted(file).write_bytes(b"right")
    vault.accept(file)
    assert vault.read(file) == b"right"


def test_export_and_import(tmp_path: Path) -> None:
    vault, other = Vault(tmp_path / "a"), Vault(tmp_path / "b")
    files = [kept(vault, text) for text in ("one", "two", "three")]
    assert vault.export([*files, files[0]], tmp_path / "1.tar", Quiet()) == 3
    vault.export(reversed(files), tmp_path / "2.tar", Quiet())
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert other.load(tmp_path / "1.tar", Quiet()) == 3
    assert [other.read(file) for file in files] == [b"one", b"two", b"three"]
    swap(vault, files[0])
    with pytest.raises(VerifyError):
        vault.export(files, tmp_path / "3.tar", Quiet())
    assert not (tmp_path / "3.tar").exists()
    with pytest.raises(StoreError, match="cannot be written"):
        vault.export(files[1:], tmp_path / "no" / "4.tar", Quiet())


def archive(path: Path, name: str, data: bytes, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = len(data) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
        tar.addfile(info, io.BytesIO(data))
    return path


DIGEST = digest_bytes(b"right")
GOOD = f"sha256/{DIGEST[:2]}/{DIGEST}"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        (GOOD, b"wrong", tarfile.REGTYPE),
        (f"../{GOOD}", b"right", tarfile.REGTYPE),
        (f"/{GOOD}", b"right", tarfile.REGTYPE),
        (f"sha256/00/{DIGEST}", b"right", tarfile.REGTYPE),
        (f"{GOOD}\n", b"right", tarfile.REGTYPE),
        (GOOD, b"", tarfile.SYMTYPE),
        (GOOD, b"", tarfile.DIRTYPE),
    ],
)
def test_an_import_believes_nothing(tmp_path: Path, name: str, data: bytes, kind: bytes) -> None:
    vault = Vault(tmp_path / "vault")
    with pytest.raises(VerifyError):
        vault.load(archive(tmp_path / "bad.tar", name, data, kind), Quiet())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "bad.tar"]


def test_imports_that_cannot_be_read(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    with pytest.raises(StoreError):
        vault.load(tmp_path / "none.tar", Quiet())
    whole = archive(tmp_path / "a.tar", GOOD, b"right").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:514])
    with pytest.raises(VerifyError, match="truncated"):
        vault.load(tmp_path / "cut.tar", Quiet())


def test_an_import_onto_a_full_disk(tmp_path: Path, small_disk: Callable[[str], Path]) -> None:
    rich = Vault(tmp_path / "rich")
    files = [kept(rich, f"{number}" * 300_000) for number in range(3)]
    rich.export(files, tmp_path / "vault.tar", Quiet())
    vault = Vault(small_disk("800k"))
    with pytest.raises(StoreError, match=f"{vault.folder}: No space left on device") as caught:
        vault.load(tmp_path / "vault.tar", Quiet())
    assert "bytes free" in caught.value.message
    assert len(vault.missing(files)) == 1, "those before it stay"
    assert not list((vault.folder / "untrusted_").iterdir())


def test_gc(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    one, two = kept(vault, "one"), kept(vault, "second")
    vault.untrusted(LockedFile("x", "1", Digest("0" * 64), 9)).write_bytes(b"half")
    now = vault.path(one).stat().st_ctime
    assert vault.gc([one.sha256], 30, now).removed == 0
    swept = vault.gc([one.sha256], 30, now + 31 * 86400)
    assert (swept.removed, swept.freed, swept.left) == (2, 10, 3)
    assert vault.is_whole(one)
    assert not vault.is_whole(two)
