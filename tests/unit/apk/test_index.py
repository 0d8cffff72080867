# SPDX-License-Identifier: Apache-2.0
"""Indexes: written the same from any order, read back the same, refused when damaged."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.apk.format.index import IndexEntry, dump_index_text, entry_of, parse_index_text, read_index, write_index
from pipeline.apk.format.package import TarEntry, write_package
from pipeline.apk.format.pkginfo import PkgInfo, is_name
from pipeline.apk.format.signature import KeyRing, Signer
from pipeline.base.errors import FormatError, VerifyError
from tests.unit.apk.forge import END, gz, item, raw_tar, signature, stream

SUM = "Q1" + "A" * 27 + "="
ONE = f"C:{SUM}\nP:foo\nV:1-r0\n\n"
TEXT = st.text(st.characters(exclude_categories=("C", "Z")), max_size=20)
WORDS = st.lists(st.text("abc0123:./=<>~-", min_size=1, max_size=10), max_size=4).map(tuple)
ENTRY = st.builds(
    IndexEntry,
    checksum=st.just(SUM),
    name=st.text("abc+_", min_size=1, max_size=8).filter(is_name),
    version=st.just("1-r0"),
    arch=st.just("noarch"),
    size=st.integers(0, 1 << 50),
    installed_size=st.integers(0, 1 << 50),
    description=TEXT,
    url=TEXT,
    license=TEXT,
    origin=TEXT,
    maintainer=TEXT,
    builddate=st.integers(0, 1 << 40),
    commit=TEXT,
    depends=WORDS,
    provides=WORDS,
    install_if=WORDS,
    provider_priority=st.none() | st.integers(1, 100),
)


@given(st.lists(ENTRY, max_size=5, unique_by=lambda entry: entry.name))
def test_round_trip(entries: list[IndexEntry]) -> None:
    text = dump_index_text(entries)
    assert text == dump_index_text(entries[::-1])
    assert parse_index_text(text) == tuple(sorted(entries, key=lambda entry: entry.name))


def test_file(ring: KeyRing, signer: Signer) -> None:
    entries = [dataclasses.replace(parse_index_text(ONE)[0], name=name) for name in ("b", "a")]
    out, again = io.BytesIO(), io.BytesIO()
    write_index(out, "the lab", entries, signer, 1_700_000_000)
    write_index(again, "the lab", reversed(entries), signer, 1_700_000_000)
    assert out.getvalue() == again.getvalue()
    index = read_index(stream(out.getvalue()), ring)
    assert (index.description, [entry.name for entry in index.entries]) == ("the lab", ["a", "b"])
    assert index.signatures[0].key_name == "test-1.rsa.pub"
    assert index.entries[0].file_name == "a-1-r0.apk"
    for at in range(len(out.getvalue())):
        bad = bytearray(out.getvalue())
        bad[at] ^= 0xFF
        with pytest.raises(VerifyError):
            read_index(stream(bytes(bad)), ring)


def test_unsigned(ring: KeyRing) -> None:
    out = io.BytesIO()
    write_index(out, "", [], None, 0)
    assert read_index(stream(out.getvalue()), None).entries == ()
    with pytest.raises(VerifyError, match=r"APKINDEX\.tar\.gz: not signed"):
        read_index(stream(out.getvalue()), ring, name="APKINDEX.tar.gz")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("P:foo\nV:1\n\n", "index:1: lacks C:"),
        (f"C:{SUM}\nV:1\n\n", "lacks P:"),
        (f"C:{SUM}\nP:foo\n\n", "lacks V:"),
        (ONE[:-1], "truncated"),
        (ONE + ONE.replace("Q1", "Q1x").replace("xA", "x"), "index:8: foo-1-r0 occurs twice, as two packages"),
        ("P:foo\nP:bar\n\n", "index:2: field P: occurs twice"),
        ("foo\n\n", "not 'letter:value'"),
        (ONE.replace("P:", "S:1x\nP:"), "S: is not a number"),
        (ONE.replace("P:", "t:-1\nP:"), "t: is not a number"),
        (ONE.replace("P:", "I:" + "9" * 25 + "\nP:"), "I: is not a number"),
        (ONE.replace("Q1", "Q2"), "not a checksum"),
        (ONE.replace("A=", "*="), "not a checksum"),
        (ONE.replace("foo", "../foo"), "P: is not a package name"),
        (ONE.replace("V:1-r0", "V:1/../.."), "V: cannot be a version"),
        (ONE.replace("P:", "A:../x\nP:"), "A: is not an architecture"),
    ],
)
def test_bad_text(text: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_index_text(text, "index")


def test_bad_files() -> None:
    good = gz(raw_tar([item("DESCRIPTION", b"x\n"), item("APKINDEX", ONE.encode())]) + END)
    assert len(read_index(stream(good), None).entries) == 1
    for data, reason in [
        (b"", "index: truncated"),
        (good[:-1], "index: truncated"),
        (good + b"x", "bytes after the index"),
        (good + good, "bytes after the index"),
        (gz(raw_tar([item("DESCRIPTION", b"x")])), "no APKINDEX"),
        (gz(raw_tar([item("APKINDEX", b"")] * 2)), "'APKINDEX' .file. occurs twice"),
        (gz(raw_tar([item("APKINDEX", type=tarfile.SYMTYPE, linkname="x")])), "occurs twice, or is not a file"),
        (gz(raw_tar([item("APKINDEX", b"P:\xff\n\n")])), "APKINDEX:1: not UTF-8"),
    ]:
        with pytest.raises(FormatError, match=reason):
            read_index(stream(data), None)


def test_signed_by_an_unknown_key(ring: KeyRing, signer: Signer) -> None:
    good = gz(raw_tar([item("APKINDEX", b"")]))
    signed = signature(good, signer) + good
    assert read_index(stream(signed), ring).entries == ()
    with pytest.raises(VerifyError, match="no valid signature by a trusted key"):
        read_index(stream(signed), KeyRing({}))


def test_entry_of(tmp_path: Path, ring: KeyRing, signer: Signer) -> None:
    path = tmp_path / "foo-1-r0.apk"
    info = PkgInfo("foo", "1-r0", "noarch", "About foo", depends=("bar",), replaces=("baz",), replaces_priority=3)
    with path.open("wb") as out:
        write_package(out, info, {}, [(TarEntry("usr/a"), b"four")], epoch=7, signer=signer)
    entry = entry_of(path, ring)
    assert (entry.name, entry.size, entry.installed_size, entry.builddate) == ("foo", path.stat().st_size, 4, 7)
    assert (entry.depends, entry.replaces, entry.replaces_priority) == (("bar",), ("baz",), 3)
    assert "r:" not in dump_index_text([entry])
    assert (entry.arch, entry_of(path, ring, arch="aarch64").arch) == ("noarch", "aarch64")
    with pytest.raises(VerifyError):
        entry_of(path, KeyRing({}))


def test_entry_of_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "foo-1-r0.apk"
    with path.open("wb") as out:
        write_package(out, PkgInfo("foo", "1-r0", "x86_64"), {}, [], epoch=7)
    with pytest.raises(FormatError, match="is for x86_64, the repository for aarch64"):
        entry_of(path, arch="aarch64")
