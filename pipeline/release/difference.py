# SPDX-License-Identifier: Apache-2.0
"""Find where two files differ, down to the member inside: archives, file systems, disk images, compressed or not.

For `doit verify:reproducible`. Each format is taken apart into members; members that differ are taken apart
in turn. A file that no tool of this machine can open is compared byte by byte.
"""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base import proc
from pipeline.base.canonical import digest_file
from pipeline.base.errors import FormatError, ToolError
from pipeline.formats.tarstream import read_tar

if TYPE_CHECKING:
    from pipeline.formats.tarfields import Readable

_DEPTH = 8
_LINES = 40
_SECONDS = 600
_CHUNK = 1 << 20
_SECTOR = 512


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a container: its name, its metadata, and its content if it has any."""

    name: str
    meta: str
    content: Path | None


def differences(first: Path, second: Path, name: str, *, scratch: Path) -> list[str]:
    """List where two files differ, naming the innermost members; an empty list if they are equal.

    `scratch` is a folder with enough space for the unpacked files.
    """
    if digest_file(first) == digest_file(second):
        return []
    return list(itertools.islice(_compare(first, second, name, scratch, _DEPTH), _LINES))


def _compare(first: Path, second: Path, name: str, scratch: Path, depth: int) -> Iterator[str]:
    """Do the work of `differences` for files that are known to differ; yields at least one line."""
    kind, other = _kind(first), _kind(second)
    if kind != other or kind is None or depth == 0:
        yield f"{name}: {_bytes(first, second)}"
        return
    with tempfile.TemporaryDirectory(dir=scratch) as left, tempfile.TemporaryDirectory(dir=scratch) as right:
        try:
            mine, theirs = kind(first, Path(left)), kind(second, Path(right))
        except (
            ToolError,
            OSError,
            EOFError,
            ValueError,
            struct.error,
            FormatError,
            zipfile.BadZipFile,
            lzma.LZMAError,
            zlib.error,
        ) as error:
            yield f"{name}: {_bytes(first, second)} (not taken apart: {str(error).splitlines()[0]})"
            return
        said = False
        for line in _compare_members(mine, theirs, name, scratch, depth):
            said = True
            yield line
        if not said:
            yield f"{name}: its members are equal, but the container differs: {_bytes(first, second)}"


def _compare_members(mine: list[Member], theirs: list[Member], name: str, scratch: Path, depth: int) -> Iterator[str]:
    before, after = {member.name: member for member in mine}, {member.name: member for member in theirs}
    for inner in sorted({*before, *after}):
        old, new = before.get(inner), after.get(inner)
        full = f"{name}: {inner}" if inner else name
        if old is None or new is None:
            yield f"{full}: is only in the {'first' if new is None else 'second'}"
            continue
        if old.meta != new.meta:
            yield f"{full}: {old.meta} / {new.meta}"
        if old.content is not None and new.content is not None and digest_file(old.content) != digest_file(new.content):
            yield from _compare(old.content, new.content, full, scratch, depth - 1)
    shared = [member.name for member in mine if member.name in after]
    if shared != [member.name for member in theirs if member.name in before]:
        yield f"{name}: the order of its members differs"


def _bytes(first: Path, second: Path) -> str:
    sizes = (first.stat().st_size, second.stat().st_size)
    with first.open("rb") as left, second.open("rb") as right:
        place = 0
        while True:
            one, two = left.read(_CHUNK), right.read(_CHUNK)
            if one != two or not one:
                break
            place += len(one)
    place += next((index for index, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    lengths = f"{sizes[0]} bytes" if sizes[0] == sizes[1] else f"{sizes[0]} / {sizes[1]} bytes"
    return f"{lengths}, the first difference is at {place}"


# --- formats ------------------------------------------------------------------------------------------------

Unpack = Callable[[Path, Path], list[Member]]


def _kind(path: Path) -> Unpack | None:
    """Return the function that takes a file apart, chosen by the file's first bytes."""
    with path.open("rb") as stream:
        head = stream.read(0x8006)
    starts: tuple[tuple[int, bytes, Unpack], ...] = (
        (0, b"\x1f\x8b", _gzip),
        (0, b"\xfd7zXZ\0", _xz),
        (0, b"\x28\xb5\x2f\xfd", _zstd),
        (0, b"PK\x03\x04", _zip),
        (0, b"070701", _cpio),
        (0, b"hsqs", _squashfs),
        (257, b"ustar", _tar),
        (0x8001, b"CD001", _iso),
        (1024 + 56, b"\x53\xef", _ext),
        (82, b"FAT32", _fat),
        (54, b"FAT1", _fat),
        (510, b"\x55\xaa", _disk),
    )
    return next((unpack for place, magic, unpack in starts if head[place : place + len(magic)] == magic), None)


def _single(path: Path) -> list[Member]:
    return [Member("", "", path)]


def _gzip(path: Path, folder: Path) -> list[Member]:
    out = folder / "content"
    with gzip.open(path) as packed, out.open("wb") as plain:
        shutil.copyfileobj(packed, plain, _CHUNK)
    with path.open("rb") as stream:
        header = stream.read(10)
    return [Member("", f"gzip header {header.hex()}", out)]


def _xz(path: Path, folder: Path) -> list[Member]:
    out = folder / "content"
    with lzma.open(path) as packed, out.open("wb") as plain:
        shutil.copyfileobj(packed, plain, _CHUNK)
    return _single(out)


def _zstd(path: Path, folder: Path) -> list[Member]:
    out = folder / "content"
    proc.run(("zstd", "-q", "-d", "-o", out, path), timeout=_SECONDS)
    return _single(out)


def _tar(path: Path, folder: Path) -> list[Member]:
    """Unpack a tar, or an .apk: its signature, control and data follow each other without an end-of-archive between them."""
    found: list[Member] = []
    with path.open("rb") as stream:
        for number, (entry, content) in enumerate(read_tar(stream, path.name, end=False)):
            owner = f"{entry.uid}:{entry.gid} ({entry.uname}:{entry.gname})"
            more = f"link {entry.target!r} {dict(entry.xattrs)} {entry.checksum}".rstrip()
            meta = f"type {entry.kind} mode {entry.mode:o} owner {owner} time {entry.mtime} {more}"
            found.append(Member(entry.name, meta, _keep(content, folder / str(number)) if entry.kind == "file" else None))
    return found


def _zip(path: Path, folder: Path) -> list[Member]:
    found: list[Member] = []
    with zipfile.ZipFile(path) as packed:
        for number, info in enumerate(packed.infolist()):
            meta = f"time {info.date_time} mode {info.external_attr >> 16:o} method {info.compress_type}"
            with packed.open(info) as data:
                found.append(Member(info.filename, meta, _keep(data, folder / str(number))))
    return found


def _keep(data: Readable, place: Path) -> Path:
    with place.open("wb") as out:
        while piece := data.read(_CHUNK):
            out.write(piece)
    return place


def _cpio(path: Path, folder: Path) -> list[Member]:
    """Unpack the `newc` form, which the kernel reads; several archives may follow each other."""
    data = path.read_bytes()
    found: list[Member] = []
    place = 0
    while data[place : place + 6] == b"070701":
        fields = [int(data[place + 6 + 8 * index : place + 14 + 8 * index], 16) for index in range(13)]
        inode, mode, uid, gid, links, mtime, size = fields[:7]
        name_end = place + 110 + fields[11]
        name = data[place + 110 : name_end - 1].decode(errors="replace")
        start = -(-name_end // 4) * 4
        place = -(-(start + size) // 4) * 4
        if name == "TRAILER!!!":
            while data[place : place + 1] == b"\0":
                place += 1
            continue
        content = folder / str(len(found))
        content.write_bytes(data[start : start + size])
        found.append(Member(name, f"inode {inode} mode {mode:o} owner {uid}:{gid} links {links} time {mtime}", content))
    if place < len(data):
        rest = folder / "rest"
        rest.write_bytes(data[place:])
        found.append(Member("(what follows)", "", rest))
    return found


def _squashfs(path: Path, folder: Path) -> list[Member]:
    proc.run(("unsquashfs", "-quiet", "-no-progress", "-no-xattrs", "-dest", folder / "root", path), timeout=_SECONDS)
    return _tree(folder / "root")


def _iso(path: Path, folder: Path) -> list[Member]:
    root = folder / "root"
    proc.run(("xorriso", "-osirrox", "on", "-indev", path, "-extract", "/", root), timeout=_SECONDS)
    # The folders have the time of the extraction, not that of the medium.
    return _tree(root, skip_root=True)


def _ext(path: Path, folder: Path) -> list[Member]:
    root = folder / "root"
    root.mkdir()
    proc.run(("debugfs", "-R", "rdump / root", path.absolute()), cwd=folder, timeout=_SECONDS)
    header = folder / "superblock"
    header.write_bytes(proc.run(("dumpe2fs", "-h", path), timeout=_SECONDS).stdout)
    return [*_tree(root), Member("(superblock)", "", header)]


def _fat(path: Path, folder: Path) -> list[Member]:
    root = folder / "root"
    root.mkdir()
    proc.run(("mcopy", "-s", "-m", "-n", "-i", path.name, "::/", root.absolute()), cwd=path.parent, timeout=_SECONDS)
    return _tree(root)


def _tree(root: Path, *, skip_root: bool = False) -> list[Member]:
    found: list[Member] = []
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(place) / name
            info = path.lstat()
            regular = stat.S_ISREG(info.st_mode)
            link = f" link {str(path.readlink())!r}" if path.is_symlink() else ""
            time = "" if skip_root and path.is_dir() else f" time {int(info.st_mtime)}"
            meta = f"mode {info.st_mode:o} owner {info.st_uid}:{info.st_gid}{time}{link}"
            found.append(Member(path.relative_to(root).as_posix(), meta, path if regular else None))
    return found


def _disk(path: Path, folder: Path) -> list[Member]:
    """Split a disk image with a DOS partition table: the part before the first partition, and each partition."""
    with path.open("rb") as stream:
        table = stream.read(_SECTOR)[446:510]
        parts = [(table[at + 4], *struct.unpack_from("<II", table, at + 8)) for at in range(0, 64, 16)]
        used = [(number, kind, start, count) for number, (kind, start, count) in enumerate(parts, 1) if count]
        first = min((start for _, _, start, _ in used), default=0)
        rows = [
            ("(before the first partition)", 0, first),
            *((f"partition {number}", start, count) for number, _, start, count in used),
        ]
        found: list[Member] = []
        for index, (name, start, count) in enumerate(rows):
            stream.seek(start * _SECTOR)
            out = folder / str(index)
            with out.open("wb") as plain:
                for size in _pieces(count * _SECTOR):
                    plain.write(stream.read(size))
            found.append(Member(name, f"sectors {start}+{count}", out))
    return found


def _pieces(total: int) -> Iterator[int]:
    while total > 0:
        yield min(_CHUNK, total)
        total -= _CHUNK
