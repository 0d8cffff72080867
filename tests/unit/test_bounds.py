# SPDX-License-Identifier: Apache-2.0
"""Bounds of what the factory reads and writes: real data fits; what does not is an error that names the bound."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.apk.format import head, signature
from pipeline.apk.format.hostile import EntryChecker, Policy
from pipeline.apk.format.signature import KeyRing, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import dump_header, memory_member
from pipeline.apk.solver import pool
from pipeline.base.errors import FormatError, VerifyError
from pipeline.channels.lab import scan
from pipeline.channels.lab.debian_version import alpine_version
from pipeline.formats import ext4, iso9660, tarstream
from pipeline.images.elf import root_tree
from pipeline.images.elf.root_tree import RootTree
from pipeline.supply import vault


@pytest.mark.parametrize("load", [KeyRing.load, pool.read_keys], ids=["KeyRing", "solver"])
def test_a_key_is_not_shortened(tmp_path: Path, load: Callable[[str], object]) -> None:
    _, public = generate_key(tmp_path, "k", 2048)
    load(str(tmp_path))
    public.write_bytes(public.read_bytes() + bytes(signature.MAX_KEY_FILE))
    with pytest.raises(VerifyError, match=r"k\.rsa\.pub: more than 65536 bytes"):
        load(str(tmp_path))


def test_an_owner_is_not_shortened() -> None:
    entry = TarEntry("x", uname="u" * 31, gname="g" * 31)
    assert b"u" * 31 + b"\0" + b"g" * 31 + b"\0" in dump_header(entry)
    with pytest.raises(FormatError, match=r"x: owner .* has 32 bytes, 31 are allowed"):
        dump_header(TarEntry("x", uname="u" * 32))
    with pytest.raises(FormatError, match="31 are allowed"):
        dump_header(TarEntry("x", gname="\N{EURO SIGN}" * 11))


def test_too_many_signatures() -> None:
    names = [f".SIGN.RSA.{number}.rsa.pub" for number in range(head._MAX_SIGNATURES + 1)]
    plain = _plain(memory_member(dict.fromkeys(names, b"x"), 0, end=True))
    with pytest.raises(FormatError, match="too many signatures, 16 are allowed"):
        head._signatures(plain, "x")


def _plain(member: bytes) -> bytes:
    return gzip.decompress(member)


def test_archive_entries_beyond_the_bounds_are_refused() -> None:
    checker = EntryChecker("x", Policy(max_file=10, max_total=15))
    checker.check(TarEntry("a", size=10))
    with pytest.raises(FormatError, match="b: 6 bytes, 16 with those before it; 10 of a file and 15 of all"):
        checker.check(TarEntry("b", size=6))
    with pytest.raises(FormatError, match="1 to 4096 bytes are allowed"):
        EntryChecker("x").check(TarEntry("l", "symlink", target="t" * 5000))


def test_a_tar_beyond_its_bounds_names_them() -> None:
    entry = TarEntry("x", size=tarstream.MAX_SIZE + 1)
    with pytest.raises(FormatError, match=rf"more than is allowed \({tarstream.MAX_SIZE}\)"):
        list(tarstream.read_tar(io.BytesIO(dump_header(entry)), "x"))


def _piece(name: bytes, after: tuple[int, int] | None) -> bytes:
    """Fields of Rock Ridge: a part of a name, and where they go on: block and size."""
    found = b"NM" + bytes([5 + len(name), 1, after is not None]) + name
    if after is not None:
        block, size = after
        found += b"CE" + bytes([28, 1]) + b"".join(struct.pack("<I", one) + struct.pack(">I", one) for one in (block, 0, size))
    return found


def _chain(pieces: int) -> tuple[bytes, io.BytesIO]:
    disc = bytearray(iso9660.SECTOR * (pieces + 1))
    for block in range(1, pieces):
        data = _piece(b"%02d" % block, (block + 1, 100) if block + 1 < pieces else None)
        disc[block * iso9660.SECTOR : block * iso9660.SECTOR + len(data)] = data
    return _piece(b"00", (1, 100) if pieces > 1 else None), io.BytesIO(bytes(disc))


def test_a_name_on_a_disc_is_not_shortened() -> None:
    where = Path("x.iso")
    fields, disc = _chain(iso9660._MOST_PIECES)
    assert iso9660._rock_ridge(fields, disc, where)[0] == "".join(f"{number:02d}" for number in range(16))
    fields, disc = _chain(iso9660._MOST_PIECES + 1)
    with pytest.raises(FormatError, match="in more than 16 places"):
        iso9660._rock_ridge(fields, disc, where)
    with pytest.raises(FormatError, match="for 5000 bytes elsewhere, 2048 are allowed"):
        iso9660._rock_ridge(_piece(b"x", (1, 5000)), disc, where)


def test_a_list_of_folders_is_not_shortened() -> None:
    found = RootTree()
    long = b"/usr/lib\n" * 10_000
    for path in ("etc/ld.so.conf", "etc/ld.so.conf.d/a.conf", "etc/ld-musl-x86_64.path"):
        found.add_file(path, 0o644, (0, 0), lambda most: long[:most])
    assert [line.partition(":")[0] for line in found.damaged] == list(found.entries)
    assert all(f"more than {root_tree._MOST_TEXT} bytes" in line for line in found.damaged)
    found = RootTree()
    found.add_file("etc/ld.so.conf", 0o644, (0, 0), lambda most: long[:60_000])
    assert not found.damaged
    assert len(found.entries["etc/ld.so.conf"].text) == 60_000


def test_a_file_of_pkg_config_is_not_shortened() -> None:
    def read(text: str) -> tuple[str, set[str]]:
        return scan._read_pc(text.encode(), "x.pc")

    assert read(f"Version: 1.2\nDescription: {'x' * 900_000}\nRequires: a >= 1\n") == ("1.2", {"pc:a>=1"})
    with pytest.raises(FormatError, match="1048576 are allowed"):
        read(f"Version: 1.2\nDescription: {'x' * (1 << 20)}\nRequires: a >= 1\n")
    with pytest.raises(FormatError, match="more than 40 times"):
        read("a=${b}\nb=${a}x\nVersion: ${a}\n")


def test_a_number_in_a_version_is_not_shortened() -> None:
    assert alpine_version("1.0+git123456789012345678-1") == "1.0_git123456789012345678-r100"
    with pytest.raises(FormatError, match="more than 18 digits"):
        alpine_version("1.0+git1234567890123456789-1")


def test_the_list_of_a_vault_beyond_its_bound(tmp_path: Path) -> None:
    entry = TarEntry(vault._LIST, size=vault._MOST_LIST + 1)
    content = tarstream.Content(io.BytesIO(), entry, "x")
    with pytest.raises(VerifyError, match=f"{vault._MOST_LIST} are allowed"):
        vault._read_list(iter([(entry, content)]), tmp_path)


def test_a_folder_of_ext4_beyond_its_bound(tmp_path: Path) -> None:
    image = tmp_path / "x.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "4M"], check=True, env={"PATH": "/usr/sbin:/sbin"})
    with image.open("rb") as stream:
        system = ext4.Ext4(stream, "x.ext4")
        folder = ext4.Inode(0o040755, 0, 0, ext4._MOST_FOLDER + 1, 0, bytes(60))
        with pytest.raises(FormatError, match=f"{ext4._MOST_FOLDER} are allowed"):
            list(system._names(folder, "usr/"))
