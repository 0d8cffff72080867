# SPDX-License-Identifier: Apache-2.0
"""Reading `.deb` files: an ar archive of two tar files, taken as hostile until its digest is the locked one.

The whole file is hashed before a byte of it is parsed. Even then nothing is followed: links are noted, not made,
names that leave the tree are refused, sizes and counts are bounded.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from pipeline import proc
from pipeline.canonical import Digest
from pipeline.errors import FormatError, VerifyError
from pipeline.lab.tree import Node, Tree, clean_path

DEB_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}
"""Debian's names of architectures."""

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_MAX_CONTROL = 16 << 20
_MAX_DATA = 4 << 30
_MAX_MEMBERS = 200_000
_ZSTD_SECONDS = 300
_COPY = 1 << 20


@dataclass(frozen=True, slots=True)
class Control:
    """The fields of a Debian package that the lab uses."""

    name: str
    version: str
    architecture: str
    fields: dict[str, str]

    def relations(self, *names: str) -> tuple[tuple[str, ...], ...]:
        """The named relation fields, one tuple of alternatives each; versions and qualifiers are left out."""
        text = ",".join(self.fields.get(name, "") for name in names)
        groups = (tuple(_bare(choice) for choice in group.split("|")) for group in text.split(","))
        return tuple(group for group in groups if any(group))


def _bare(relation: str) -> str:
    return re.split(r"[\s(:\[<]", relation.strip(), maxsplit=1)[0]


@contextmanager
def open_verified(path: Path, sha256: Digest) -> Iterator[IO[bytes]]:
    """The file, opened, once its SHA-256 is what the lock says; VerifyError otherwise."""
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise VerifyError(f"{path.name}: is not in the download cache", hint="run: ./ci/doit fetch") from error
    with stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise VerifyError(f"{path.name}: sha256 is {found}, the lock says {sha256}", hint="run: ./ci/doit fetch")
        stream.seek(0)
        yield stream


def read_control(stream: IO[bytes], name: str) -> Control:
    """The control fields of the package in `stream`; FormatError naming `name` and the reason."""
    stream.seek(0)
    with _damage_named(name), _member(stream, name, "control.tar") as archive:
        for info in _members(archive, name, _MAX_CONTROL):
            if info.name.removeprefix("./") == "control" and info.isreg():
                content = archive.extractfile(info)
                text = content.read().decode(errors="replace") if content else ""
                return _parse_control(text, name)
    raise FormatError(f"{name}: control.tar holds no file named control")


def unpack(stream: IO[bytes], name: str, tree: Tree) -> None:
    """Lay the package's files into `tree`; FormatError naming `name` and the reason."""
    stream.seek(0)
    with _damage_named(name), _member(stream, name, "data.tar") as archive:
        for info in _members(archive, name, _MAX_DATA):
            where = f"{name}: {info.name!r}"
            path = clean_path(info.name, where)
            if not path:
                continue
            mode = info.mode & 0o7777
            if info.isdir():
                tree.add(Node(path, "dir", mode, info.uid, info.gid))
            elif info.issym():
                tree.add(Node(path, "link", 0o777, info.uid, info.gid, info.linkname))
            elif info.islnk():
                tree.copy(clean_path(info.linkname, where), path, where)
            elif info.isreg():
                content = archive.extractfile(info)
                assert content is not None  # noqa: S101 - a regular member has content
                tree.add_file(Node(path, "file", mode, info.uid, info.gid), content)
            else:
                raise FormatError(f"{where}: neither a file, a folder nor a link")


def _parse_control(text: str, name: str) -> Control:
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line[:1] in (" ", "\t"):
            if last:
                fields[last] += "\n" + line
        elif ":" in line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    try:
        return Control(fields["Package"], fields["Version"], fields["Architecture"], fields)
    except KeyError as error:
        raise FormatError(f"{name}: control has no field {error}") from error


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """What the standard library raises on damaged archives, as a FormatError; a full disk stays what it is."""
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise FormatError(f"{name}: damaged archive: {error}") from error


def _members(archive: tarfile.TarFile, name: str, limit: int) -> Iterator[tarfile.TarInfo]:
    total = 0
    for count, info in enumerate(archive):
        total += info.size
        if info.size < 0 or total > limit or count > _MAX_MEMBERS:
            raise FormatError(f"{name}: {info.name!r}: more than {limit} bytes or {_MAX_MEMBERS} members")
        yield info


class _Slice:
    """A read-only window on a part of a file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, amount: int = -1) -> bytes:
        wanted = self._left if amount < 0 else min(amount, self._left)
        data = self._stream.read(wanted)
        self._left -= len(data)
        return data


@contextmanager
def _member(stream: IO[bytes], name: str, prefix: str) -> Iterator[tarfile.TarFile]:
    """The tar archive in the ar member `<prefix>`, `.gz`, `.xz` or `.zst`, read as a stream."""
    if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
        raise FormatError(f"{name}: not an ar archive")
    first = True
    while True:
        header = stream.read(_AR_HEADER)
        if not header:
            raise FormatError(f"{name}: has no member {prefix}")
        size_text = header[48:58].strip()
        if len(header) != _AR_HEADER or header[58:] != b"`\n" or not size_text.isdigit():
            raise FormatError(f"{name}: damaged ar header")
        member, size = header[:16].rstrip(b" /").decode(errors="replace"), int(size_text)
        if first and (member != "debian-binary" or not stream.read(size).startswith(b"2.")):
            raise FormatError(f"{name}: not a Debian package of format 2")
        if not first and member.startswith(prefix):
            break
        stream.seek(size % 2 if first else size + size % 2, 1)
        first = False
    suffix = member[len(prefix) :]
    window: object = _Slice(stream, size)
    if suffix == ".zst":
        suffix, window = "", _unzstd(cast("_Slice", window))
    mode = {"": "r|", ".gz": "r|gz", ".xz": "r|xz"}.get(suffix)
    if mode is None:
        raise FormatError(f"{name}: {member}: compression is not known")
    with tarfile.open(fileobj=window, mode=mode) as archive:  # type: ignore[call-overload]
        yield archive


def _unzstd(window: _Slice) -> IO[bytes]:
    """The unpacked member, in an unnamed temporary file; by the program, as Python has no zstd yet."""
    packed = tempfile.TemporaryFile()  # noqa: SIM115
    with packed:
        while data := window.read(_COPY):
            packed.write(data)
        packed.seek(0)
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115
        proc.run(("zstd", "-dc"), stdin=packed, stdout=unpacked, timeout=_ZSTD_SECONDS)
    unpacked.seek(0)
    return unpacked
