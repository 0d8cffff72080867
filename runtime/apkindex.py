# SPDX-License-Identifier: Apache-2.0
"""What `tower` reads of Alpine's formats: which package files an index names, and whether a file is the one it names.

An index and a package are gzip members one after the other: signature, then control or index. Signatures are apk's
business, here and on the host; nothing here is read before `apk verify` has found it good, and all of it is bounded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tower.errors import PackageError
from tower.tarfiles import DamagedError, read_tar

INDEX: Final = "APKINDEX.tar.gz"
MOST_INDEX: Final = 64 << 20
"""Bytes of an index; the largest of Alpine's has three MiB."""
_MOST_PLAIN: Final = 512 << 20
_MOST_CONTROL: Final = 16 << 20
_MOST_FILES: Final = 100
_CHUNK: Final = 64 << 10
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
_SUM: Final = re.compile(r"Q1[A-Za-z0-9+/]{27}=")


@dataclass(frozen=True, slots=True)
class Package:
    """A package file, as a signed index names it."""

    name: str
    version: str
    checksum: str
    """SHA-1 of its control member, in hexadecimal; that holds the SHA-256 of the rest."""
    size: int
    installed_size: int

    @property
    def file_name(self) -> str:
        """What it is called in a repository."""
        return f"{self.name}-{self.version}.apk"


@dataclass(frozen=True, slots=True)
class Index:
    """All that an index names, and when it was made (seconds since 1970, from its signed part)."""

    made: int
    packages: Mapping[tuple[str, str], Package]


def read_index(path: Path) -> Index:
    """An index that apk has verified. Raises PackageError if it is none."""
    try:
        with path.open("rb") as stream:
            _skip_member(stream)
            plain = _inflate(stream, _MOST_PLAIN)
        member = next(one for one in read_tar(plain, most=_MOST_FILES) if one.name == "APKINDEX" and one.content is not None)
    except StopIteration:
        raise PackageError(f"{path.name}: is not an index of packages: there is no APKINDEX in it") from None
    except (OSError, EOFError, DamagedError, zlib.error) as error:
        raise PackageError(f"{path.name}: is not an index of packages: {error}") from error
    text = (member.content or b"").decode(errors="replace")
    packages = (_package(record) for record in text.split("\n\n"))
    return Index(member.made, {(one.name, one.version): one for one in packages if one is not None})


def _package(record: str) -> Package | None:
    """A record; one of a form that no file could have is left out, so that it cannot be chosen."""
    fields = {line[0]: line[2:] for line in record.split("\n") if line[1:2] == ":"}
    name, version, checksum = fields.get("P", ""), fields.get("V", ""), fields.get("C", "")
    sizes = [fields.get(letter, "0") for letter in "SI"]
    wanted = _NAME.fullmatch(name) and _NAME.fullmatch(version) and _SUM.fullmatch(checksum)
    if not wanted or not all(size.isascii() and size.isdigit() and len(size) <= 12 for size in sizes):
        return None
    try:
        digest = base64.b64decode(checksum[2:], validate=True).hex()
    except binascii.Error:
        return None
    return Package(name, version, digest, int(sizes[0]), int(sizes[1]))


def control_checksum(path: Path) -> str:
    """SHA-1, in hexadecimal, of the second member of a signed package, as an index has it. Raises PackageError."""
    try:
        with path.open("rb") as stream:
            _skip_member(stream)
            found = hashlib.sha1(usedforsecurity=False)  # Alpine's choice; the signature covers the same bytes
            _skip_member(stream, found.update)
    except (OSError, EOFError, zlib.error) as error:
        raise PackageError(f"{path.name}: is not a package: {error}") from error
    return found.hexdigest()


def _skip_member(stream: BinaryIO, see: Callable[[bytes], object] | None = None) -> None:
    """Read one gzip member and leave the stream behind it; `see` is told its raw bytes."""
    unpack, plain = zlib.decompressobj(wbits=31), 0
    while not unpack.eof:
        data = stream.read(_CHUNK)
        if not data:
            raise EOFError("it ends in the middle")
        plain += len(unpack.decompress(data, _MOST_CONTROL))
        if plain > _MOST_CONTROL or unpack.unconsumed_tail:
            raise EOFError("its head is too long")
        used = len(data) - len(unpack.unused_data)
        if see is not None:
            see(data[:used])
    stream.seek(-len(unpack.unused_data), io.SEEK_CUR)


def _inflate(stream: BinaryIO, most: int) -> bytes:
    """The rest of a stream, one gzip member, unpacked."""
    unpack = zlib.decompressobj(wbits=31)
    plain = unpack.decompress(stream.read(MOST_INDEX), most)
    if not unpack.eof or unpack.unused_data:
        raise EOFError("it does not end where it should, or is too long")
    return plain
