# SPDX-License-Identifier: Apache-2.0
"""Files of format 3 that nobody should accept: offsets, counts, sizes and orders that lie, whoever signed them."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from backports import zstd

from pipeline.apk.adb import fields
from pipeline.apk.adb.adbfile import ADB, DATA, INDEX, PACKAGE, SIG
from pipeline.apk.adb.block_signature import make
from pipeline.apk.adb.encoder import Encoder, Packer, block_head
from pipeline.apk.adb.values import OBJECT, TYPE_SHIFT
from pipeline.apk.adb.writer import write_package
from pipeline.apk.format.index import read_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import KeyRing, Signer, generate_key
from pipeline.apk.format.tarstream import TarEntry
from pipeline.base.errors import VerifyError

INFO = PkgInfo("evil", "1-r0", "x86_64")


def block(kind: int, content: bytes) -> bytes:
    """A block with its padding."""
    head = block_head(kind, len(content))
    return head + content + bytes(-len(head + content) % 8)


def file_of(*blocks: bytes, schema: bytes = PACKAGE, start: bytes = b"ADB.") -> bytes:
    """A file that is not packed."""
    return start + schema + b"".join(blocks)


def metadata(change: Callable[[Encoder, dict[int, int], dict[int, int]], None] | None = None) -> bytes:
    """The metadata of a package without files; `change` gets the slots of its info and of the root."""
    encoder = Encoder("evil")
    info = {fields.INFO["name"]: encoder.text("evil"), fields.INFO["version"]: encoder.text("1-r0")}
    info[fields.INFO["arch"]] = encoder.text("x86_64")
    root: dict[int, int] = {}
    if change is not None:
        change(encoder, info, root)
    root.setdefault(fields.PKG_INFO, encoder.object(info))
    return encoder.finish(encoder.object(root))


def refused(data: bytes, message: str, ring: KeyRing | None = None, *, index: bool = False) -> None:
    """The file is refused, with its name and the reason."""
    with pytest.raises(VerifyError, match=message) as caught:
        if index:
            read_index(io.BytesIO(data), ring, name="evil.apk")
        else:
            read_package(io.BytesIO(data), ring, name="evil.apk").verify_data()
    assert caught.value.message.startswith("evil.apk: ")


def test_the_plain_one_is_read() -> None:
    """What the tests below change is good before they do."""
    read_package(io.BytesIO(file_of(block(ADB, metadata()))), None).verify_data()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ADB", "begins with"),
        (b"ADBd", "truncated"),
        (b"ADBc\1", "truncated in its header"),
        (b"ADBc\1\x0a", "unknown algorithm"),
        (b"ADBc\3\1", "unknown algorithm"),
        (b"ADBc\2\x17", "unknown algorithm"),
        (b"ADBx", "begins with"),
        (b"ADB.pckg", "no metadata"),
        (b"ADB.pck", "truncated in its header"),
        (b"ADBd" + zlib.compress(b"ADB.pckg", wbits=-15) + b"x", "trailing|truncated"),
        (b"ADBd" + zlib.compress(b"no container", wbits=-15), "unpacks to"),
        (b"ADBd" + zlib.compress(b"ADBd", wbits=-15), "truncated in its header"),
        (b"ADBc\2\1" + zstd.compress(b"ADB.pckg")[:-1], "truncated"),
        (b"ADBc\2\1" + zstd.compress(b"ADB.pckg") + zstd.compress(b"x"), "trailing|no metadata"),
        (b"ADBc\2\1" + b"no zstd at all", "damaged"),
        (file_of(block(ADB, metadata()), schema=b"idb\0"), "is a database of installed packages, not a package"),
        (file_of(block(ADB, metadata()), schema=b"pckh"), "unknown schema b'pckh'"),
        (file_of(block(ADB, metadata())) + b"\1", "truncated in the head of a block"),
        (file_of(block(ADB, metadata()), block(ADB, metadata())), "a metadata block is not the first"),
        (file_of(block(SIG, bytes(99))), "a signature block before any metadata"),
        (file_of(block(DATA, bytes(8)), block(ADB, metadata())), "a data block before any metadata"),
        (file_of(block(ADB, metadata()), block(DATA, bytes(8))), "a block of data for no file"),
        (file_of(block(ADB, metadata()), block(DATA, bytes(8)), block(SIG, bytes(99))), "for no file|after data"),
        (file_of(block(ADB, metadata()), block(SIG, bytes(18))), "signature of 18 bytes"),
        (file_of(block(ADB, metadata()), *[block(SIG, bytes((0, 4, number)) + bytes(99)) for number in range(17)]), "too many"),
        (file_of(block(ADB, metadata()), *[block(SIG, bytes(99))] * 2), "two signatures by the same key"),
        (file_of(block(ADB, metadata()), block(SIG, bytes(5000))), "5000 bytes, 4096 are allowed"),
        (file_of(struct.pack("<I", 3)), "metadata block of 3 bytes, its head alone has 4"),
        (file_of(struct.pack("<IIQ", 3 << 30, 0, 15)), "block of 15 bytes, its head alone has 16"),
        (file_of(struct.pack("<IIQ", 3 << 30, 1, 1 << 20)), "reserved bits"),
        (file_of(struct.pack("<IIQ", 3 << 30 | 3, 0, 1 << 20)), "unknown type 3"),
        (file_of(struct.pack("<IIQ", 3 << 30, 0, 1 << 62)), "bytes, 16777216 are allowed"),
        (file_of(struct.pack("<I", (1 << 30) - 1)), "1073741819 bytes, 16777216 are allowed"),
        (file_of(block(ADB, bytes(7))), "7 bytes, its header alone has 8"),
        (file_of(block(ADB, b"\1" + metadata()[1:])), "metadata of version 1"),
        (file_of(block(ADB, metadata()[:2] + b"\1\0" + metadata()[4:])), "reserved bits"),
        (file_of(block(ADB, bytes(64))), "root: value of type 0"),
    ],
)
def test_containers(data: bytes, message: str) -> None:
    refused(data, message)


def word(kind: int, place: int) -> int:
    """A value's word."""
    return kind << TYPE_SHIFT | place


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", word(8, 1 << 27), "outside of the metadata"),
        ("name", word(8, 3), "outside of the metadata"),
        ("name", word(10, 0x40), "outside of the metadata"),
        ("name", word(1, 5), "name: value of type 1, bytes were expected"),
        ("name", 0, "info: lacks its name"),
        ("version", 0, "info: lacks its version"),
        ("name", word(15, 5), "info: lacks its name"),
        ("version", word(15, 5), "a value that apk could not convert"),
        ("arch", 0, "arch '' is not an architecture"),
        ("builddate", word(8, 8), "builddate: value of type 8, a number was expected"),
        ("builddate", word(3, 1 << 27), "outside of the metadata"),
        ("builddate", 1, "value of type 0, a number was expected"),
        ("depends", word(OBJECT, 1 << 27), "outside of the metadata or not aligned"),
        ("depends", word(OBJECT, 9), "outside of the metadata or not aligned"),
        ("depends", word(OBJECT, 0), "outside of the metadata or not aligned"),
        ("depends", word(9, 8), "value of type 9, an array or an object was expected"),
        ("hashes", word(8, 8), "20 .SHA-1. or 32 .SHA-256. are allowed"),
        ("commit", word(8, 8), "a commit has 20"),
    ],
)
def test_values(name: str, value: int, message: str) -> None:
    def change(_encoder: Encoder, info: dict[int, int], _root: dict[int, int]) -> None:
        info[fields.INFO[name]] = value

    refused(file_of(block(ADB, metadata(change))), message)


@pytest.mark.parametrize("count", [0, 1 << 20, (1 << 32) - 1])
def test_counts(count: int) -> None:
    """A list whose count is none, or more than there is."""

    def change(encoder: Encoder, info: dict[int, int], _root: dict[int, int]) -> None:
        info[fields.INFO["depends"]] = word(OBJECT, encoder._put(struct.pack("<I", count), 4))

    refused(file_of(block(ADB, metadata(change))), "slots at")


@pytest.mark.parametrize(
    ("name", "version", "match", "message"),
    [
        ("a=1", "2", 1, "are not a name and a version"),
        ("a>", "", 1, "wants an operator"),
        ("!a", "", 1, "are not a name and a version"),
        ("a b", "", 1, "white space"),
        ("", "1", 1, "no name"),
        ("a", "1", 10, "unknown operator 10"),
        ("a", "1", 7, "unknown operator 7"),
        ("a", "=1", 1, "are not a name and a version"),
        ("a\n", "", 1, "white space"),
    ],
)
def test_dependencies(name: str, version: str, match: int, message: str) -> None:
    """Parts of a dependency that would be another one as a text."""

    def change(encoder: Encoder, info: dict[int, int], _root: dict[int, int]) -> None:
        item = encoder.object({1: encoder.text(name), 2: encoder.text(version), 3: encoder.number(match)})
        info[fields.INFO["depends"]] = encoder.array([item])

    refused(file_of(block(ADB, metadata(change))), message)


def tree(encoder: Encoder, files: Mapping[str, Mapping[int, int]], folder: str = "usr", folders: int = 1) -> int:
    """A list of folders with some files; their slots may be changed."""
    acl = encoder.object({1: encoder.number(0o644), 2: encoder.text("root"), 3: encoder.text("root")})
    usual = {fields.FILE_ACL: acl, fields.FILE_HASH: encoder.blob(hashlib.sha256().digest())}
    words = [encoder.object({fields.FILE_NAME: encoder.text(name), **usual, **slots}) for name, slots in files.items()]
    path = encoder.object({fields.DIR_NAME: encoder.text(folder), fields.DIR_ACL: acl, fields.DIR_FILES: encoder.array(words)})
    return encoder.array([path] * folders)


def entry(name: str = "a", folder: str = "usr", folders: int = 1, **blobs: bytes | int) -> bytes:
    """A package with one file, some slots of which are replaced: by bytes, or by a word."""

    def change(encoder: Encoder, _info: dict[int, int], root: dict[int, int]) -> None:
        slots = {}
        for slot, value in blobs.items():
            slots[getattr(fields, f"FILE_{slot.upper()}")] = value if isinstance(value, int) else encoder.blob(value)
        root[fields.PKG_PATHS] = tree(encoder, {name: slots}, folder, folders)

    return file_of(block(ADB, metadata(change)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (entry("../a"), "not the name of a file"),
        (entry("b/a"), "not the name of a file"),
        (entry(".."), "'..' component"),
        (entry(folder="/usr"), "absolute path"),
        (entry(folder="usr/../etc"), "'..' component"),
        (entry(folder="usr/"), "empty"),
        (entry("a\n"), "control character"),
        (entry(""), "not the name of a file"),
        (entry(folders=2), "folder 'usr' occurs twice"),
        (entry(acl=0), "acl: value of type 0"),
        (entry(hash=0), "has no digest"),
        (entry(hash=b"123"), "digest of 3 bytes"),
        (entry(hash=bytes(32)), "content differs"),
        (entry(size=word(1, 5)), "its data is missing"),
        (entry(target=b"\0"), "invalid target"),
        (entry(target=b"\0\x80"), "invalid target"),
        (entry(target=b"\0\x80usr/b"), "hard link to 'usr/b'|hard link to usr/b"),
        (entry(target=b"\0\x80../b"), "component"),
        (entry(target=b"\0\xa0b\0c"), "invalid target"),
        (entry(target=b"\0\x20" + bytes(8)), "device node"),
        (entry(target=b"\0\x20" + bytes(7)), "invalid target"),
        (entry(target=b"\0\xc0xxx"), "invalid target"),
        (entry(mtime=word(8, 8)), "a number was expected"),
    ],
)
def test_files(data: bytes, message: str) -> None:
    refused(data, message)


def good(data: bytes = b"12345678", **entries: bytes) -> bytes:
    """A package with files in `usr`, not packed."""
    out = io.BytesIO()
    files = {"a": data, **entries}
    write_package(out, INFO, {}, [(TarEntry(f"usr/{name}"), text) for name, text in files.items()], epoch=0, level=0)
    return out.getvalue()


def test_data_of_other_files() -> None:
    """Data lies in the order of its files, names its file, and has its size and digest."""
    package = good(b=b"abcdefgh")
    first, second = package.index(b"12345678") - 12, package.index(b"abcdefgh") - 12
    one, two = package[first : first + 24], package[second : second + 24]
    refused(package[:first] + two + one, "data of file 2 in folder 2 with 8 bytes in the place of file 1")
    refused(package[:first] + one, "usr/b: truncated, its data is missing")
    refused(package + two, "a block of data for no file")
    refused(package[:first] + one + one, "data of file 1 in folder 2")
    refused(package.replace(b"12345678", b"12345679"), "content differs")
    refused(package[:first] + block(DATA, one[4:12] + b"123456789") + two, "with 9 bytes in the place")
    refused(package[:first] + block(DATA, one[4:8]) + two, "too short for 8")
    refused(package.replace(b"12345678", b"12345678" + b"\1" * 4, 1)[: len(package)], "garbage between two blocks|differs|head")


def test_files_that_share_a_place_do_not_become_large() -> None:
    """A small file with a list of a million names for one file, or a million folders with it, takes little memory."""

    def change(encoder: Encoder, _info: dict[int, int], root: dict[int, int]) -> None:
        root[fields.PKG_PATHS] = tree(encoder, {"a": {}}, folders=1_000_000)

    data = file_of(block(ADB, metadata(change)))
    tracemalloc.start()
    try:
        refused(data, "occurs twice")
        assert tracemalloc.get_traced_memory()[1] < 40 * len(data)
    finally:
        tracemalloc.stop()


def index_of(change: Callable[[Encoder, dict[int, int]], list[int]], spec: str = "") -> bytes:
    """An index, not packed; `change` gets the slots of a good package and returns the list of all."""
    encoder = Encoder("index")
    slots = {fields.INFO["name"]: encoder.text("a"), fields.INFO["version"]: encoder.text("1-r0")}
    slots[fields.INFO["hashes"]] = encoder.blob(bytes(32))
    packages = encoder.array(change(encoder, slots))
    root = encoder.object({fields.NDX_PACKAGES: packages, fields.NDX_SPEC: encoder.text(spec)})
    return file_of(block(ADB, encoder.finish(root)), schema=INDEX)


def test_indexes() -> None:
    read_index(io.BytesIO(index_of(lambda encoder, slots: [encoder.object(slots)])), None)
    twice = index_of(lambda encoder, slots: [encoder.object(slots)] * 2)
    assert len(read_index(io.BytesIO(twice), None).entries) == 1
    for slot, text, message in (
        ("name", "../a", "not a package name"),
        ("version", "1/2", "cannot be a version"),
        ("arch", "../x", "not an architecture"),
    ):

        def change(encoder: Encoder, slots: dict[int, int], slot: str = slot, text: str = text) -> list[int]:
            return [encoder.object(slots | {fields.INFO[slot]: encoder.text(text)})]

        refused(index_of(change), message, index=True)
    other = fields.INFO["hashes"]
    refused(index_of(lambda e, s: [e.object(s), e.object(s | {other: e.blob(bytes(20))})]), "occurs twice, as two", index=True)
    refused(index_of(lambda e, s: [e.object(s | {other: 0})]), "lacks its hashes", index=True)
    refused(index_of(lambda e, s: [e.object(s)], spec="http://x/${name}"), "pkgname-spec|are named", index=True)
    plain = index_of(lambda encoder, slots: [encoder.object(slots)])
    refused(plain + block(DATA, bytes(8)), "an index with a data block", index=True)
    refused(file_of(block(ADB, metadata())), "is a package, not an index", index=True)


def test_dependencies_that_share_a_place_are_read_once() -> None:
    """Many packages with one long list: the list is held once, and all lists together are bounded."""

    def change(encoder: Encoder, slots: dict[int, int]) -> list[int]:
        item = encoder.object({1: encoder.text("so:x")})
        depends = encoder.array([item] * 100_000)
        return [
            encoder.object(slots | {fields.INFO["name"]: encoder.text(f"a{number}"), fields.INFO["depends"]: depends})
            for number in range(1000)
        ]

    entries = read_index(io.BytesIO(index_of(change)), None).entries
    assert len({id(entry.depends) for entry in entries}) == 1

    def many(encoder: Encoder, slots: dict[int, int]) -> list[int]:
        item = encoder.object({1: encoder.text("so:x")})
        place = encoder._put(struct.pack("<I", 400_001) + item.to_bytes(4, "little") * 400_000 + bytes(64), 4)
        found = []
        for number in range(4):
            place += 4 if number else 0
            encoder._data[place : place + 4] = struct.pack("<I", 400_001 - number)
            name = encoder.text(f"a{number}")
            found.append(encoder.object(slots | {1: name, fields.INFO["depends"]: word(OBJECT, place)}))
        return found

    refused(index_of(many), "dependencies in all|outside|expected", index=True)


def test_signatures(signer: Signer, ring: KeyRing, tmp_path: Path) -> None:
    """One trusted signature is enough, unless another trusted one does not hold."""
    generate_key(tmp_path, "other", bits=2048)
    other = Signer(tmp_path / "other.rsa", "other.rsa.pub")
    text = metadata()
    ours, theirs = (block(SIG, make(one, PACKAGE, text)) for one in (signer, other))
    for blocks in ((ours,), (theirs, ours), (ours, theirs)):
        read_package(io.BytesIO(file_of(block(ADB, text), *blocks)), ring).verify_data()
    both = KeyRing({"test-1.rsa.pub": ring.key("test-1.rsa.pub"), "other.rsa.pub": (tmp_path / "other.rsa.pub").read_bytes()})
    assert read_package(io.BytesIO(file_of(block(ADB, text), theirs, ours)), both).signer == "other.rsa.pub"
    damaged = theirs[:-20] + bytes(20)
    refused(file_of(block(ADB, text), damaged), "no valid signature by a trusted key", ring)
    refused(file_of(block(ADB, text), ours, damaged), "the signature by other.rsa.pub does not hold", both)
    refused(file_of(block(ADB, text)), "not signed", ring)
    index = block(SIG, make(signer, INDEX, text))
    refused(file_of(block(ADB, text), index), "does not hold", ring)
    for head in (b"\1\4", b"\0\2", b"\0\0"):
        refused(file_of(block(ADB, text), block(SIG, head + ours[6:])), "no valid signature", ring)


@pytest.mark.parametrize("number", [3, 5])
def test_other_digests_of_the_metadata(number: int, signer: Signer, ring: KeyRing) -> None:
    """apk writes SHA-512 and reads two more."""
    text = metadata()
    digest = hashlib.sha256(text).digest()[: 32 if number == 3 else 20]
    head = bytes((0, number)) + signer.key_id
    signed = block(SIG, head + signer.sign(PACKAGE + head + digest, "RSA512"))
    assert read_package(io.BytesIO(file_of(block(ADB, text), signed)), ring).signer == "test-1.rsa.pub"


def test_packed_data_that_unpacks_to_much() -> None:
    """A small packed file that unpacks to gigabytes is refused before it is in memory."""
    out = io.BytesIO()
    packer = Packer(out)
    packer.write(b"ADB." + PACKAGE + struct.pack("<IIQ", 3 << 30, 0, 1 << 40))
    for _ in range(64):
        packer.write(bytes(1 << 20))
    packer.close()
    tracemalloc.start()
    try:
        refused(out.getvalue(), "16777216 are allowed")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
