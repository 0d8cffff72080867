# SPDX-License-Identifier: Apache-2.0
"""The vault: content decides, swapped files are found, tars carry it over, and gc keeps what locks name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from pipeline.base.canonical import Digest, digest_bytes
from pipeline.base.errors import StoreError, VerifyError
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import VERIFIED_NS, Vault
from pipeline.supply.vault_place import scratch
from tests.unit.mirror import Quiet
from tests.unit.tars import END, HOSTILE, flipped, headers


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
        with pytest.raises(VerifyError, match="differs from the lock") as caught:
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
        rows = f"{DIGEST} 5\n".encode()
        first = tarfile.TarInfo("list")
        first.size = len(rows)
        tar.addfile(first, io.BytesIO(rows))
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
def test_an_import_verifies_everything(tmp_path: Path, name: str, data: bytes, kind: bytes) -> None:
    vault = Vault(tmp_path / "vault")
    with pytest.raises(VerifyError):
        vault.load(archive(tmp_path / "bad.tar", name, data, kind), Quiet())
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "bad.tar"]


def test_imports_that_cannot_be_read(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    with pytest.raises(StoreError):
        vault.load(tmp_path / "none.tar", Quiet())
    for place in ("folder", "pipe"):
        os.mkfifo(tmp_path / place) if place == "pipe" else (tmp_path / place).mkdir()
        with pytest.raises(StoreError, match=f"is a {place}, not a regular file"):
            vault.load(tmp_path / place, Quiet())


def exported(folder: Path, count: int = 5) -> tuple[bytes, list[LockedFile]]:
    """What `vault:export` writes of so many files."""
    vault = Vault(folder / "rich")
    files = [kept(vault, f"{number}" * (300 * number)) for number in range(1, count + 1)]
    vault.export(files, folder / "vault.tar", Quiet())
    return (folder / "vault.tar").read_bytes(), files


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_an_import_that_is_cut_anywhere(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Between two files, too: `2 of 5` is an error."""
    plain, files = exported(tmp_path)
    whole, source, vault = pack(plain.rstrip(b"\0") + bytes(2048)), tmp_path / "cut.tar", Vault(tmp_path / "vault")
    step = 512 if whole.startswith(b"list") else 97
    for place in range(0, len(whole) - 2048 if step == 512 else len(whole), step):
        for length in {max(place - 1, 0), place, place + 1}:
            source.write_bytes(whole[:length])
            with pytest.raises(VerifyError) as caught:
                vault.load(source, Quiet())
            assert caught.value.hint
    source.write_bytes(whole)
    assert vault.load(source, Quiet()) == len(files)


def test_an_import_of_which_files_are_missing(tmp_path: Path) -> None:
    """However well it ends."""
    whole, files = exported(tmp_path)
    places = list(headers(whole))
    assert len(places) == 6
    source, vault = tmp_path / "short.tar", Vault(tmp_path / "vault")
    for data, message in (
        (whole[: places[3]] + END, "2 of the 5 files in its list"),
        (whole[: places[1]] + END, "0 of the 5 files in its list"),
        (whole[: places[2]] + whole[places[3] :], "4 of the 5 files in its list"),
        (whole[places[1] :], "does not begin with the list"),
        (whole[: places[2]] + whole[places[1] :], "occurs twice"),
        (END, "does not begin with the list"),
    ):
        source.write_bytes(data)
        with pytest.raises(VerifyError, match=message):
            vault.load(source, Quiet())
    assert not vault.missing(files)


def test_an_import_with_a_bit_changed(tmp_path: Path) -> None:
    """Any bit of any header, and some of the rest."""
    whole, _ = exported(tmp_path, 2)
    source, vault = tmp_path / "odd.tar", Vault(tmp_path / "vault")
    content = (whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(0, len(whole.rstrip(b"\0")), 7))
    for number, changed in enumerate((*content, *flipped(whole, iter(list(headers(whole)))))):
        if number % 41 == 0:
            source.write_bytes(changed)
            with pytest.raises(VerifyError):
                vault.load(source, Quiet())


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_imports(tmp_path: Path, kind: str) -> None:
    (tmp_path / "bad.tar").write_bytes(HOSTILE[kind])
    with pytest.raises(VerifyError):
        Vault(tmp_path / "vault").load(tmp_path / "bad.tar", Quiet())


# --- what has no business in a vault ------------------------------------------------------------------------


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    file = kept(vault, "hello")
    vault.path(file).unlink()
    (vault.path(file) / "mine").mkdir(parents=True)
    uses: list[Callable[[], object]] = [
        lambda: vault.missing([file]),
        lambda: vault.read(file),
        lambda: vault.copy(file, tmp_path / "copy"),
        lambda: vault.put(b"hello"),
        lambda: vault.recheck(file),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="is a folder, but must be a file") as caught:
            use()
        assert caught.value.hint.endswith(f"rm -r {vault.path(file)}")
    assert (vault.path(file) / "mine").is_dir()


@pytest.mark.parametrize("make", [os.mkfifo, lambda place: socket(AF_UNIX).bind(os.fspath(place))])
def test_a_pipe_or_socket_in_place_of_a_file(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vault removes a pipe or socket and does not wait for it."""
    vault = Vault(tmp_path / "v")
    for use in (vault.read, lambda file: vault.copy(file, tmp_path / "copy")):
        file = kept(vault, "hello")
        vault.path(file).unlink()
        monkeypatch.chdir(vault.path(file).parent)  # names of sockets are short
        make(Path(file.sha256))
        with pytest.raises(VerifyError, match="is not in the vault"):
            use(file)
    make(Path(file.sha256))
    assert vault.missing([file]) == [file]


def test_a_file_in_place_of_a_folder_of_the_vault(tmp_path: Path) -> None:
    """A file where a folder of the vault belongs."""
    for name in ("untrusted_", "sha256"):
        vault = Vault(tmp_path / name)
        vault.folder.mkdir()
        (vault.folder / name).touch()
        with pytest.raises(StoreError) as caught:
            vault.put(b"hello")
        assert name in caught.value.message
        with pytest.raises(StoreError):
            vault.missing([LockedFile("a", "1", DIGEST, 5)])


def test_the_remains_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    """Files of its own that no process holds; not those of one that is still at work."""
    vault = Vault(tmp_path)
    kept(vault, "hello")
    place = tmp_path / "untrusted_"
    (place / "new-left").write_text("half")
    (place / f"{DIGEST}").write_text("half of a download, which is gone on with")
    with scratch(place) as busy:
        kept(vault, "other")
        assert busy.exists()
        assert sorted(path.name for path in place.iterdir()) == sorted([busy.name, DIGEST])


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
