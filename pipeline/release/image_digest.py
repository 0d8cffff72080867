# SPDX-License-Identifier: Apache-2.0
"""The canonical digest of an image: its content without the parts that only the owner of a private key can make.

A disk image has no such parts: its canonical form is its unpacked bytes, whatever compressed them. An ISO carries a
signed repository, because it must be installed without a network. Its canonical form is the list of its files: packages
and indexes of either of apk's formats without their signatures, and the initramfs without the modloop's signature and the public
key that checks those signatures. Their places in the ISO are left out, since they depend on the length of the signatures.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from tower.base.errors import TowerError
from tower.base.regular import open_regular
from tower.image.unpack import unpacked

from pipeline.apk.adb import block_signature
from pipeline.apk.adb.adbfile import SIG, AdbFile
from pipeline.apk.adb.packing import AdbStream
from pipeline.apk.format.gzipstream import RawSource
from pipeline.apk.format.keyfile import key_id, read_modulus
from pipeline.apk.format.tarstream import read_tar
from pipeline.base import proc
from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.errors import FormatError, ToolError, VerifyError
from pipeline.formats.iso9660 import IsoFile, files

_CHUNK: Final = 1 << 20
_BOOT_CODE: Final = 432
"""The number of bytes of code in the first sector; the place of the loader in the ISO follows them."""
_BOOT_INFO: Final = (8, 64)
"""The part of isolinux.bin in which mkisofs notes the place of the file."""
_INDEX: Final = "APKINDEX.tar.gz"
_INITRAMFS: Final = re.compile(r"boot/initramfs-[^/]+")
_SIGNED: Final = re.compile(rb"(\./)?var/cache/misc/[^/]*\.SIGN\.RSA\.[^/]+")
_SIGNER: Final = re.compile(r"\.SIGN\.RSA(?:256|512)?\.([^/]+)")
_SIGNATURE_MOST: Final = 64 << 10
_THIRD: Final = b"ADB"
_SCHEMA: Final = 255
"""Stands for the type of a block where the schema comes."""
_KEYS: Final = b"etc/apk/keys/"
_CPIO: Final = b"070701"
_UNPACK_SECONDS: Final = 120


def canonical_digest(image: Path) -> Digest:
    """Return the digest, which every rebuild gives, whoever signs. Raises FormatError if the image cannot be read."""
    try:
        if image.suffix == ".iso":
            with open_regular(image) as stream:
                return digest_json([*_boot_code(stream), *_rows(stream, image)])
        with unpacked(image) as plain:
            digest = hashlib.sha256()
            while chunk := plain.read(_CHUNK):
                digest.update(chunk)
            return Digest(digest.hexdigest())
    except TowerError as error:
        raise FormatError(error.message) from error


def _boot_code(stream: BinaryIO) -> list[JsonValue]:
    stream.seek(0)
    return [["", "boot code", hashlib.sha256(stream.read(_BOOT_CODE)).hexdigest()]]


def _rows(stream: BinaryIO, where: Path) -> Iterator[JsonValue]:
    listed = files(stream, where)
    own = _own_keys(stream, listed)
    for file in listed:
        # The boot catalog holds only the places of the boot images in the ISO.
        if file.path == "boot/syslinux/boot.cat":
            continue
        yield [file.path, "link", file.link] if file.link else [file.path, "file", _content(stream, file, own)]


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The public keys that check the medium's own indexes: by the names of their files, or by the identifiers of format 3."""

    names: frozenset[bytes] = frozenset()
    ids: frozenset[bytes] = frozenset()

    def has(self, name: bytes, content: bytes) -> bool:
        """Tell whether a file of an initramfs is one of these keys."""
        if name in self.names:
            return True
        if not self.ids or not name.startswith(_KEYS):
            return False
        try:
            return key_id(read_modulus(content, name.decode(errors="replace"))) in self.ids
        except VerifyError:
            return False


_NONE: Final = OwnKeys()


def _own_keys(stream: BinaryIO, listed: tuple[IsoFile, ...]) -> OwnKeys:
    names: set[bytes] = set()
    ids: set[bytes] = set()
    for file in listed:
        if file.path.rpartition("/")[2] == _INDEX:
            data = file.read(stream)
            if data.startswith(_THIRD):
                ids |= signing_ids(data)
            elif (match := _SIGNER.fullmatch(signature_name(data))) is not None:
                names.add(_KEYS + match[1].encode())
    return OwnKeys(frozenset(names), frozenset(ids))


def _content(stream: BinaryIO, file: IsoFile, own: OwnKeys) -> str:
    name = file.path.rpartition("/")[2]
    if name.endswith(".apk") or name == _INDEX:
        return hashlib.sha256(without_signature(file.read(stream))).hexdigest()
    if _INITRAMFS.fullmatch(file.path):
        return hashlib.sha256(without_signatures_inside(file.read(stream), file.path, own)).hexdigest()
    digest = hashlib.sha256()
    if name == "isolinux.bin":
        data = bytearray(file.read(stream))
        data[slice(*_BOOT_INFO)] = bytes(_BOOT_INFO[1] - _BOOT_INFO[0])
        digest.update(data)
    else:
        for chunk in file.chunks(stream, _CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def without_signature(data: bytes) -> bytes:
    """Return a package or index without its signatures: the first gzip member, or the blocks of format 3; other data as it is.

    What is of format 3 comes back unpacked. Raises FormatError if it is damaged.
    """
    if data.startswith(_THIRD):
        return _without_signature_blocks(data)
    first, rest = _first_member(data)
    return rest if _is_signature(first) else data


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the schema of a file of format 3, then its blocks: type and content."""
    file = AdbFile(AdbStream(RawSource(BytesIO(data), "a file of format 3")))
    yield _SCHEMA, file.schema
    while (block := file.next()) is not None:
        yield block.kind, file.take(block.size)


def _without_signature_blocks(data: bytes) -> bytes:
    rest = bytearray()
    for kind, content in _blocks(data):
        if kind != SIG:
            rest += bytes((kind,)) + len(content).to_bytes(8, "little") + content
    return bytes(rest)


def signing_ids(data: bytes) -> frozenset[bytes]:
    """Return the identifiers of the keys that signed a file of format 3. Raises FormatError."""
    found = (content for kind, content in _blocks(data) if kind == SIG)
    return frozenset(block_signature.parse(content, "a file of format 3").key_id for content in found)


def signature_name(data: bytes) -> str:
    """Return the name of the first file of a package or index, which tells the signing key; "" if there is none."""
    return next(iter(_names(_first_member(data)[0])), "")


def _first_member(data: bytes) -> tuple[bytes, bytes]:
    """Return the content of the first gzip member, if it is small, and the bytes after the member."""
    reader = zlib.decompressobj(wbits=31)
    try:
        first = reader.decompress(data, _SIGNATURE_MOST)
    except zlib.error:
        return b"", data
    return (first, reader.unused_data) if reader.eof else (b"", data)


def _is_signature(member: bytes) -> bool:
    names = _names(member)
    return bool(names) and all(name.startswith(".SIGN.") for name in names)


def _names(member: bytes) -> list[str]:
    """Return the files of a signature's member, which has no end-of-archive blocks; an empty list if it is no tar."""
    try:
        return [entry.name for entry, _ in read_tar(BytesIO(member), "signature")]
    except FormatError:
        return []


def _unpacked(data: bytes, where: str) -> bytes:
    try:
        if data.startswith(b"\x1f\x8b"):
            return gzip.decompress(data)
        if data.startswith(b"\xfd7zXZ\0"):
            return lzma.decompress(data)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            return proc.run(("zstd", "-q", "-d", "-c"), stdin=data, timeout=_UNPACK_SECONDS, hint="apt-get install zstd").stdout
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ToolError) as error:
        raise FormatError(f"{where}: cannot be unpacked: {error}") from error
    return data


def without_signatures_inside(data: bytes, where: str, own: OwnKeys = _NONE) -> bytes:
    """Return the list of an initramfs' files without the modloop's signature and the keys `own`; other data as it is.

    Raises FormatError.
    """
    plain = _unpacked(data, where)
    rows = bytearray()
    place = 0
    while plain[place : place + 6] == _CPIO:
        head = plain[place : place + 110]
        try:
            size, length = int(head[54:62], 16), int(head[94:102], 16)
        except ValueError as error:
            raise FormatError(f"{where}: a record of its archive is damaged") from error
        name = plain[place + 110 : place + 109 + length]
        body = (place + 110 + length + 3) & ~3
        place = (body + size + 3) & ~3
        if place > len(plain) + 3:
            raise FormatError(f"{where}: its archive is cut off")
        text, data = name.rstrip(b"\0"), plain[body : body + size]
        if not _SIGNED.fullmatch(text) and not own.has(text.removeprefix(b"./"), data):
            # Without inode numbers (which count the records) and their checksum.
            content = hashlib.sha256(data).digest()
            rows += head[14:54] + head[62:94] + name + b"\0" + content
    return bytes(rows) + plain[place:].strip(b"\0")
