# SPDX-License-Identifier: Apache-2.0
"""Read Alpine's formats as far as `tower` needs them: the package files of an index, and whether a file is the one it names.

In the second format, an index and a package are gzip members one after the other: signature, then control or index. For the
third, see `adbindex`. apk verifies signatures, here and on the host; nothing is read here before `apk verify` has accepted
it, and everything is bounded.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from tower.base.errors import PackageError
from tower.base.regular import open_regular
from tower.base.tarfiles import DamagedTarError, read_tar
from tower.install import adbindex
from tower.install.apkwords import is_file

INDEX: Final = "APKINDEX.tar.gz"
"""The name of an index in a repository of our own making, also for one of the third format: apk looks at the content."""
NOARCH: Final = "noarch"
"""The architecture of packages for all of them, and the folder of a repository where apk 3 looks for those."""
MOST_INDEX: Final = 64 << 20
"""The most bytes of an index; Alpine's largest has three MiB."""
_MOST_PLAIN: Final = 512 << 20
_MOST_CONTROL: Final = 16 << 20
_MOST_FILES: Final = 100
_CHUNK: Final = 64 << 10
_MOST_DIGITS: Final = 12
_DIGESTS: Final = (20, 32)
"""The bytes of a digest in an index of the third format: SHA-1 for packages of the second, SHA-256 for those of the third."""
_SUM: Final = re.compile(r"Q1[A-Za-z0-9+/]{27}=")


@dataclass(frozen=True, slots=True)
class Package:
    """A package file, as a signed index names it."""

    name: str
    version: str
    checksum: str
    """SHA-1 of its control member, in hexadecimal; the control has the SHA-256 of the rest. In the third format, SHA-256 of
    its metadata, which has those of its files."""
    size: int
    installed_size: int
    for_all: bool = False
    """Whether the index says that it is for all architectures: apk 3 looks for its file in the folder `noarch`."""

    @property
    def file_name(self) -> str:
        """The name of its file in a repository."""
        return f"{self.name}-{self.version}.apk"


@dataclass(frozen=True, slots=True)
class Index:
    """The packages of an index, and when it was made (seconds since 1970, from its signed part).

    In the third format, the time of the latest build among its packages stands for that of the index.
    """

    made: int
    packages: Mapping[tuple[str, str], Package]
    odd: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The fault of each record that cannot be used."""


def read_index(path: Path) -> Index:
    """Read an index that apk has verified. Raises PackageError if it is not an index."""
    if is_third(path):
        return _read_third(path)
    try:
        with open_regular(path) as stream:
            _skip_member(stream)
            plain = _inflate(stream, _MOST_PLAIN)
        member = next(one for one in read_tar(plain, most=_MOST_FILES) if one.name == "APKINDEX" and one.content is not None)
    except StopIteration:
        raise PackageError(f"{path.name}: is not an index of packages: there is no APKINDEX in it") from None
    except (OSError, EOFError, DamagedTarError, zlib.error) as error:
        raise PackageError(f"{path.name}: is not an index of packages: {error}") from error
    text = (member.content or b"").decode(errors="replace")
    packages: dict[tuple[str, str], Package] = {}
    odd: dict[tuple[str, str], str] = {}
    for record in filter(None, text.split("\n\n")):
        fields = {line[0]: line[2:] for line in record.split("\n") if line[1:2] == ":"}
        key = fields.get("P", ""), fields.get("V", "")
        try:
            packages[key] = _package(*key, fields)
        except ValueError as error:
            odd[key] = str(error)
    return Index(member.made, packages, odd)


def is_third(path: Path) -> bool:
    """Tell whether a file begins as one of the third format. Raises PackageError if it cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(len(adbindex.MAGIC)) == adbindex.MAGIC
    except OSError as error:
        raise PackageError(f"{path.name}: cannot be read: {error}") from error


def _read_third(path: Path) -> Index:
    packages: dict[tuple[str, str], Package] = {}
    odd: dict[tuple[str, str], str] = {}
    made = 0
    try:
        with open_regular(path) as stream:
            metadata = adbindex.read_metadata(stream, adbindex.INDEX_SCHEMA, MOST_INDEX)
        for values, slots in adbindex.packages(metadata):
            name, version = (values.blob(slots[slot]).decode(errors="replace") for slot in (adbindex.NAME, adbindex.VERSION))
            made = max(made, values.number(slots[adbindex.BUILT]))
            checksum = values.blob(slots[adbindex.HASHES])
            sizes = values.number(slots[adbindex.SIZE]), values.number(slots[adbindex.INSTALLED_SIZE])
            if not (name and version and is_file(f"{name}-{version}.apk")):
                odd[name, version] = f"{name[:80]!r} and {version[:80]!r} do not make a file name"
            elif len(checksum) not in _DIGESTS:
                odd[name, version] = f"its digest has {len(checksum)} bytes"
            elif max(sizes) >= 10**_MOST_DIGITS:
                odd[name, version] = f"a size is not a number of at most {_MOST_DIGITS} digits: {max(sizes)}"
            else:
                for_all = values.blob(slots[adbindex.ARCH]) == NOARCH.encode()
                packages[name, version] = Package(name, version, checksum.hex(), *sizes, for_all)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise PackageError(f"{path.name}: is not an index of packages: {error}") from error
    return Index(made, packages, odd)


def _package(name: str, version: str, fields: Mapping[str, str]) -> Package:
    """Return the package of a record. Raises ValueError if no file could match it."""
    if not (name and version and is_file(f"{name}-{version}.apk")):
        raise ValueError(f"{name[:80]!r} and {version[:80]!r} do not make a file name")
    checksum = fields.get("C", "")
    if _SUM.fullmatch(checksum) is None:
        raise ValueError(f"C: is not a checksum: {checksum[:80]!r}")
    sizes = [fields.get(letter, "0") for letter in "SI"]
    for size in sizes:
        if not (size.isascii() and size.isdigit() and len(size) <= _MOST_DIGITS):
            raise ValueError(f"a size is not a number of at most {_MOST_DIGITS} digits: {size[:80]!r}")
    digest = base64.b64decode(checksum[2:], validate=True).hex()
    return Package(name, version, digest, int(sizes[0]), int(sizes[1]), fields.get("A") == NOARCH)


def control_checksum(path: Path) -> str:
    """Return the checksum of a signed package, in hexadecimal, as in an index. Raises PackageError."""
    try:
        if is_third(path):
            with open_regular(path) as stream:
                metadata = adbindex.read_metadata(stream, adbindex.PACKAGE_SCHEMA, _MOST_CONTROL)
            return hashlib.sha256(metadata).hexdigest()
        with open_regular(path) as stream:
            _skip_member(stream)
            found = hashlib.sha1(usedforsecurity=False)  # Alpine chose SHA-1; the signature covers the same bytes
            _skip_member(stream, found.update)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise PackageError(f"{path.name}: is not a package: {error}") from error
    return found.hexdigest()


def _skip_member(stream: BinaryIO, see: Callable[[bytes], object] | None = None) -> None:
    """Read one gzip member and leave the stream behind it; `see` is called with its raw bytes."""
    unpack, plain = zlib.decompressobj(wbits=31), 0
    while not unpack.eof:
        data = stream.read(_CHUNK)
        if not data:
            raise EOFError("it ends in the middle")
        plain += len(unpack.decompress(data, _MOST_CONTROL))
        if plain > _MOST_CONTROL or unpack.unconsumed_tail:
            raise EOFError(f"its head is too long: it unpacks to more than {_MOST_CONTROL} bytes")
        used = len(data) - len(unpack.unused_data)
        if see is not None:
            see(data[:used])
    stream.seek(-len(unpack.unused_data), io.SEEK_CUR)


def _inflate(stream: BinaryIO, most: int) -> bytes:
    """Unpack the rest of a stream, one gzip member."""
    packed = stream.read(MOST_INDEX + 1)
    if len(packed) > MOST_INDEX:
        raise EOFError(f"it is too long: it has more than {MOST_INDEX} bytes")
    unpack = zlib.decompressobj(wbits=31)
    plain = unpack.decompress(packed, most)
    if unpack.unconsumed_tail:
        raise EOFError(f"it is too long: it unpacks to more than {most} bytes")
    if not unpack.eof or unpack.unused_data:
        raise EOFError("it does not end where it should")
    return plain
