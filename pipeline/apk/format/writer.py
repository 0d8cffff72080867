# SPDX-License-Identifier: Apache-2.0
"""Write packages: equal input gives equal bytes, whatever the time, the folder and the order of listing.

Data is written first, into a temporary file, because the control in front of it holds its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import zlib

from pipeline.apk.format.hostile import EntryChecker, Policy
from pipeline.apk.format.pkginfo import SCRIPTS
from pipeline.apk.format.tarstream import BLOCK, CHECKSUM, KINDS, XATTR, TarEntry, name_bytes
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from pipeline.apk.format.gzipstream import Hash
    from pipeline.apk.format.pkginfo import PkgInfo
    from pipeline.apk.format.signature import Signer

    Source = bytes | os.PathLike[str] | Callable[[], BinaryIO] | None
    """The content of a file: bytes, a path, or a function that opens a stream; None for an entry without content."""
else:
    Source = object

_CHUNK = 1 << 18
_MOST_OWNER = 31
_FLAGS = {kind: flag for flag, kind in KINDS.items() if flag != b"\0"}


class GzipWriter:
    """Writes one gzip member without name and time; `hashes` get the packed bytes."""

    def __init__(self, out: BinaryIO, level: int = 6, hashes: tuple[Hash, ...] = ()) -> None:
        self._out = out
        self._hashes = hashes
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        """Pack more bytes."""
        self._emit(self._zlib.compress(data))

    def close(self) -> None:
        """End the member; the underlying stream stays open."""
        self._emit(self._zlib.flush())

    def _emit(self, packed: bytes) -> None:
        for digest in self._hashes:
            digest.update(packed)
        self._out.write(packed)


def open_source(source: Source) -> BinaryIO:
    """Open the content of a file."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, os.PathLike):
        return open(source, "rb")  # noqa: PTH123 (pathlib is slow to import)
    return io.BytesIO() if source is None else source()


def _measure(source: Source) -> tuple[int, str]:
    """Return size and SHA-1 of a source's content."""
    size, digest = 0, hashlib.sha1(usedforsecurity=False)
    with open_source(source) as stream:
        while data := stream.read(_CHUNK):
            size += len(data)
            digest.update(data)
    return size, digest.hexdigest()


_BLOCK_OF_DISK = 4096


def _octal(value: int, width: int) -> bytes:
    digits = f"{value:0{width - 1}o}".encode()
    # Too large for octal: use base 256, as GNU tar does; apk reads it.
    return digits + b"\0" if len(digits) < width else b"\x80" + value.to_bytes(width - 1, "big")


def _record(key: str, value: bytes) -> bytes:
    body = b" " + key.encode() + b"=" + value + b"\n"
    length = len(body)
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _block(name: bytes, flag: bytes, entry: TarEntry, size: int, target: bytes) -> bytes:
    header = bytearray(BLOCK)
    major, minor = entry.device

    def put(start: int, data: bytes) -> None:
        header[start : start + len(data)] = data

    put(0, name)
    put(100, _octal(entry.mode, 8))
    put(108, _octal(entry.uid, 8))
    put(116, _octal(entry.gid, 8))
    put(124, _octal(size, 12))
    put(136, _octal(entry.mtime, 12))
    put(148, b" " * 8)
    put(156, flag)
    put(157, target)
    put(257, b"ustar\x0000")
    put(265, _owner(entry.uname, entry.name))
    put(297, _owner(entry.gname, entry.name))
    put(329, _octal(major, 8))
    put(337, _octal(minor, 8))
    put(148, f"{sum(header):06o}\0 ".encode())
    return bytes(header)


def _owner(owner: str, name: str) -> bytes:
    """Return the name of a user or group for a header; apk reads no longer ones. Raises FormatError."""
    data = owner.encode()
    if len(data) > _MOST_OWNER:
        raise FormatError(f"{name}: owner {owner!r} has {len(data)} bytes, {_MOST_OWNER} are allowed")
    return data


def dump_header(entry: TarEntry) -> bytes:
    """Return the header of `entry`: a ustar block, after a pax header for data that does not fit or is apk's own."""
    name, target = name_bytes(entry.name) + (b"/" if entry.kind == "dir" else b""), name_bytes(entry.target)
    records: list[bytes] = []
    if len(name) > 100:
        records.append(_record("path", name))
    if len(target) > 100:
        records.append(_record("linkpath", target))
    if entry.checksum:
        records.append(_record(CHECKSUM, entry.checksum.encode()))
    records += [_record(XATTR + key, value) for key, value in sorted(entry.xattrs)]
    head = b""
    if records:
        pax = b"".join(records)
        head = _block(b"PaxHeaders/" + name[:80].rstrip(b"/"), b"x", TarEntry("", mtime=entry.mtime), len(pax), b"")
        head += pax + bytes(-len(pax) % BLOCK)
    return head + _block(name[:100], _FLAGS[entry.kind], entry, entry.size, target[:100])


def dump_entries(out: GzipWriter, entries: Iterable[tuple[TarEntry, Source]]) -> None:
    """Write entries with their content. Raises FormatError if a file has changed since it was measured."""
    for entry, source in entries:
        out.write(dump_header(entry))
        if entry.kind != "file":
            continue
        left, digest = entry.size, hashlib.sha1(usedforsecurity=False)
        with open_source(source) as stream:
            while data := stream.read(_CHUNK):
                left -= len(data)
                digest.update(data)
                out.write(data)
        if left or (entry.checksum and digest.hexdigest() != entry.checksum):
            raise FormatError(f"{entry.name}: changed while it was being packed")
        out.write(bytes(-entry.size % BLOCK))


def _replace(entry: TarEntry, **changes: object) -> TarEntry:
    return TarEntry(**({name: getattr(entry, name) for name in TarEntry.__slots__} | changes))


def _prepare(entries: Iterable[tuple[TarEntry, Source]], epoch: int) -> list[tuple[TarEntry, Source]]:
    """Return the entries measured, with checksums, mtime `epoch` and missing folders; hard links last, all sorted by name."""
    found: dict[str, tuple[TarEntry, Source]] = {}
    for entry, source in entries:
        if entry.name in found:
            raise FormatError(f"{entry.name} occurs twice")
        size, checksum = 0, ""
        if entry.kind == "file":
            size, checksum = _measure(source)
        elif entry.kind == "symlink":
            checksum = hashlib.sha1(name_bytes(entry.target), usedforsecurity=False).hexdigest()
        found[entry.name] = (_replace(entry, size=size, checksum=checksum, mtime=epoch), source)
    for name in list(found):
        while (name := name.rpartition("/")[0]) and name not in found:
            found[name] = (TarEntry(name, "dir", 0o755, mtime=epoch), None)
    return sorted(found.values(), key=lambda pair: (pair[0].kind == "hardlink", name_bytes(pair[0].name).split(b"/")))


def tree_entries(root: Path, owners: Mapping[str, tuple[str, str]] | None = None) -> Iterator[tuple[TarEntry, Source]]:
    """Yield the entries of the tree below `root`; all owned by root:root except the paths in `owners` (user, group).

    Files with the same inode become hard links to the first of them. Raises FormatError.
    """
    first: dict[tuple[int, int], str] = {}
    pending = [root]
    while pending:
        for item in sorted(os.scandir(pending.pop()), key=lambda item: os.fsencode(item.name)):
            name = os.path.relpath(item.path, root)
            status = item.stat(follow_symlinks=False)
            mode = status.st_mode & 0o7777
            uname, gname = (owners or {}).get(name, ("root", "root"))
            if item.is_symlink():
                yield TarEntry(name, "symlink", 0o777, uname=uname, gname=gname, target=os.fspath((root / name).readlink())), None
            elif item.is_dir():
                pending.append(root / name)
                yield TarEntry(name, "dir", mode, uname=uname, gname=gname), None
            elif not item.is_file():
                raise FormatError(f"{item.path}: neither a file, a folder nor a symbolic link")
            elif status.st_nlink > 1 and (same := first.setdefault((status.st_dev, status.st_ino), name)) != name:
                yield TarEntry(name, "hardlink", mode, uname=uname, gname=gname, target=same), None
            else:
                yield TarEntry(name, "file", mode, uname=uname, gname=gname), root / name


def _pack(
    out: BinaryIO, entries: Iterable[tuple[TarEntry, Source]], *, end: bool, level: int, hashes: tuple[Hash, ...] = ()
) -> None:
    writer = GzipWriter(out, level, hashes)
    dump_entries(writer, entries)
    if end:
        writer.write(bytes(2 * BLOCK))
    writer.close()


def memory_member(files: Mapping[str, bytes], epoch: int, *, end: bool, level: int = 9) -> bytes:
    """Return a gzip member with small files; without `end` it lacks the tar's end, as all members but the last must."""
    out = io.BytesIO()
    entries = [
        (TarEntry(name, mode=0o755 if name in SCRIPTS else 0o644, size=len(data), mtime=epoch), data)
        for name, data in files.items()
    ]
    _pack(out, entries, end=end, level=level)
    return out.getvalue()


def signature_member(data: bytes, signer: Signer, epoch: int) -> bytes:
    """Return the gzip member that holds the signature over `data`.

    It is stored, not packed, so that its length does not depend on the key: indexes and databases note the size of packages.
    """
    return memory_member({signer.member_name: signer.sign(data)}, epoch, end=False, level=0)


def write_package(
    out: BinaryIO,
    info: PkgInfo,
    scripts: Mapping[str, bytes],
    entries: Iterable[tuple[TarEntry, Source]],
    *,
    epoch: int,
    signer: Signer | None = None,
    level: int = 6,
    policy: Policy | None = None,
) -> PkgInfo:
    """Write a package and return its info as written: with datahash, builddate and, if it was 0, size.

    Entries come in any order; times become `epoch`, missing folders are added. Entries that our own reader would
    refuse under `policy` are refused here. Without a signer the package is unsigned (`package.sign_package`). Raises FormatError.
    """
    import shutil
    import tempfile

    unknown = sorted(set(scripts) - set(SCRIPTS))
    if unknown:
        raise FormatError(f"{info.name}: no script is called {', '.join(unknown)}", hint="one of " + " ".join(SCRIPTS))
    prepared = _prepare(entries, epoch)
    checker = EntryChecker(f"{info.name}-{info.version}.apk", policy or Policy())
    for entry, _source in prepared:
        checker.check(entry)
    digest = hashlib.sha256()
    with tempfile.TemporaryFile() as data:
        _pack(data, prepared, end=True, hashes=(digest,), level=level)
        # apk does not unpack a package of size 0, and so does not get its scripts either: folders, links and scripts
        # alone count as a block, as `du` has it.
        size = info.size or sum(entry.size for entry, _source in prepared) or (_BLOCK_OF_DISK if prepared or scripts else 0)
        builddate = info.builddate or epoch
        fields = {name: getattr(info, name) for name in type(info).__slots__}
        done = type(info)(**(fields | {"size": size, "builddate": builddate, "datahash": digest.hexdigest()}))
        control = memory_member({".PKGINFO": done.dump(), **dict(sorted(scripts.items()))}, epoch, end=False)
        if signer is not None:
            out.write(signature_member(control, signer, epoch))
        out.write(control)
        data.seek(0)
        shutil.copyfileobj(data, out, _CHUNK)
    return done
