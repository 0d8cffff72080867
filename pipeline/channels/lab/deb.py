# SPDX-License-Identifier: Apache-2.0
"""Read `.deb` files: an ar archive of two tar files, treated as hostile until its digest is the locked one.

The whole file is hashed before a byte of it is parsed. Even then nothing is followed: links are noted, not made,
names that leave the tree are refused, sizes and counts are bounded.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from tower.base.regular import open_regular

from pipeline.base import proc
from pipeline.base.canonical import Digest
from pipeline.base.errors import FormatError, StoreError, VerifyError
from pipeline.channels.lab.package_tree import Node, PackageTree, clean_path
from pipeline.formats.packed import DecompressedStream
from pipeline.formats.tarstream import Content, TarEntry, read_tar

if TYPE_CHECKING:
    from pipeline.formats.tarfields import Readable

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
        """Return the named relation fields, one tuple of alternatives each, without versions and qualifiers."""
        text = ",".join(self.fields.get(name, "") for name in names)
        groups = (tuple(_bare(choice) for choice in group.split("|")) for group in text.split(","))
        return tuple(group for group in groups if any(group))


def _bare(relation: str) -> str:
    return re.split(r"[\s(:\[<]", relation.strip(), maxsplit=1)[0]


@contextmanager
def open_verified(path: Path, sha256: Digest) -> Iterator[IO[bytes]]:
    """Open the file if its SHA-256 is that of the lock. Raises VerifyError otherwise."""
    try:
        stream = open_regular(path)
    except FileNotFoundError as error:
        raise VerifyError(f"{path.name}: is not in the download cache", hint="run: ./ci/doit fetch") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}", hint="remove it, then run: ./ci/doit fetch") from error
    with stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256:
            raise VerifyError(f"{path.name}: sha256 is {found}, the lock says {sha256}", hint="run: ./ci/doit fetch")
        stream.seek(0)
        yield stream


def read_control(stream: IO[bytes], name: str) -> Control:
    """Return the control fields of the package in `stream`. Raises FormatError naming `name` and the reason."""
    stream.seek(0)
    with _member(stream, name, "control.tar") as packed:
        for entry, content in _entries(packed, name, _MAX_CONTROL):
            if entry.name.removeprefix("./") == "control" and entry.kind == "file":
                return _parse_control(content.read().decode(errors="replace"), name)
    raise FormatError(f"{name}: control.tar holds no file named control")


def unpack(stream: IO[bytes], name: str, tree: PackageTree) -> None:
    """Unpack the package's files into `tree`. Raises FormatError naming `name` and the reason."""
    stream.seek(0)
    with _member(stream, name, "data.tar") as packed:
        for entry, content in _entries(packed, name, _MAX_DATA):
            where = f"{name}: {entry.name!a}"
            path = clean_path(entry.name, where)
            if not path:
                continue
            if entry.kind == "dir":
                tree.add(Node(path, "dir", entry.mode, entry.uid, entry.gid))
            elif entry.kind == "symlink":
                tree.add(Node(path, "link", 0o777, entry.uid, entry.gid, entry.target))
            elif entry.kind == "hardlink":
                tree.copy(clean_path(entry.target, where), path, where)
            elif entry.kind == "file":
                tree.add_file(Node(path, "file", entry.mode, entry.uid, entry.gid), content)
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


def _entries(packed: Readable, name: str, limit: int) -> Iterator[tuple[TarEntry, Content]]:
    total = 0
    for count, (entry, content) in enumerate(read_tar(packed, name)):
        total += entry.size
        if total > limit or count > _MAX_MEMBERS:
            raise FormatError(f"{name}: {entry.name!a}: more than {limit} bytes or {_MAX_MEMBERS} members")
        yield entry, content


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
def _member(stream: IO[bytes], name: str, prefix: str) -> Iterator[Readable]:
    """Yield the tar archive in the ar member `<prefix>`, `.gz`, `.xz` or `.zst`, as a stream."""
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
    form = member[len(prefix) :].removeprefix(".")
    window = cast("IO[bytes]", _Slice(stream, size))
    if form == "zst":
        with _unzstd(window, name) as plain:
            yield plain
    elif form in ("", "gz", "xz"):
        yield DecompressedStream(window, form, name)
    else:
        raise FormatError(f"{name}: {member}: unknown compression")


def _unzstd(window: IO[bytes], name: str) -> IO[bytes]:
    """Return the unpacked member, in an unnamed temporary file; by the program, as Python has no zstd yet."""
    packed = tempfile.TemporaryFile()  # noqa: SIM115
    with packed:
        while data := window.read(_COPY):
            packed.write(data)
        packed.seek(0)
        unpacked = tempfile.TemporaryFile()  # noqa: SIM115
        done = proc.run(("zstd", "-dc"), stdin=packed, stdout=unpacked, timeout=_ZSTD_SECONDS, check=False)
    if done.status:
        raise FormatError(f"{name}: damaged: {done.stderr.decode(errors='replace').strip()}")
    unpacked.seek(0)
    return unpacked
