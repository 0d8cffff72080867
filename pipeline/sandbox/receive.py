# SPDX-License-Identifier: Apache-2.0
"""The output of a sandbox, taken with distrust: a tar stream from the engine, or the folder itself if that is on this machine.

Only regular files and folders with plain names are accepted, only those that the stage declared, each path once. Files
are hashed while they are written, and blocks of zeros become holes, so that a disk image takes the space of its content;
files of this machine are moved, or copied from another file system.

Engines silently leave out what they cannot pack; so the sandbox lists the files in /out when the stage ends (`made`), and
the stream must match that list.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from tower.base.regular import open_regular

from pipeline.base.canonical import Digest
from pipeline.base.errors import FormatError, StageError
from pipeline.formats.tarstream import Content, EncodingError, TarEntry, read_tar
from pipeline.sandbox import made
from pipeline.store.artifact import FileRecord

if TYPE_CHECKING:
    from pipeline.formats.tarstream import Kind

_CHUNK = 1 << 16  # also the size of holes; larger pieces take twice the time: every one is new memory
_ZEROS = bytes(_CHUNK)
_MOVED_CHUNK = 1 << 20
_LONGEST_NAME, _LONGEST_PART = 1000, 255
_SPECIAL = "is a device, pipe or socket; outputs are regular files and folders"


def receive(
    pieces: Iterator[bytes],
    folder: Path,
    *,
    declared: Sequence[str] | None,
    max_bytes: int,
    check: Callable[[], None] | None = None,
    listed: bool = False,
) -> dict[str, FileRecord]:
    """Write the members of a tar stream of `/out` into `folder`, which is empty; return the record of each file.

    `declared` holds paths and globs: a path must be there (a folder stands for everything in it), and a file that matches
    none is an error; None accepts everything. With `listed` the stream holds the list of `made`, which is not an output.
    Raises StageError for undeclared files, links, special files and odd names, for more than `max_bytes`, and
    for a damaged or truncated stream; OSError if `folder` cannot be written.
    """
    taken = _Taken(folder, declared, max_bytes)
    seen: bytes | None = None
    try:
        for entry, content in read_tar(PieceReader(pieces, check), "/out"):
            name = taken.below(entry.name)
            if listed and name == made.NAME and entry.kind == "file" and seen is None:
                seen = made.read(entry, content)
            elif name or entry.kind != "dir":
                taken.take(name, entry, partial(_write, content))
    except EncodingError as error:
        raise StageError(f"/{error.name}: the name of an output must be UTF-8") from error
    except FormatError as error:
        raise StageError(f"the outputs came back broken: {error.message}", hint="run the same command again") from error
    if listed:
        made.compare(seen, taken.kinds)
    _require(declared or (), taken.outputs)
    return taken.outputs


def can_collect(source: Path) -> bool:
    """Tell whether `collect` can take everything in `source`: it must be a folder with nothing but what is ours."""
    try:
        return stat.S_ISDIR(source.lstat().st_mode) and all(info.st_uid == os.geteuid() for _, info in _below(source, ""))
    except OSError:
        return False


def collect(
    source: Path, folder: Path, *, declared: Sequence[str] | None, max_bytes: int, check: Callable[[], None] | None = None
) -> dict[str, FileRecord]:
    """Do as `receive` with `listed`, but take the files from `source`, which is /out; nothing else may change it.

    Raises StageError as `receive` does, and OSError.
    """
    taken = _Taken(folder, declared, max_bytes)
    names: dict[int, str] = {}
    seen: bytes | None = None
    for name, info in _below(source, ""):
        is_socket = stat.S_ISSOCK(info.st_mode)
        kind = _KINDS.get(stat.S_IFMT(info.st_mode), "fifo")
        if kind == "file" and info.st_nlink > 1 and names.setdefault(info.st_ino, name) != name:
            kind = "hardlink"
        if name == made.NAME and kind == "file":
            with open_regular(source / name, follow=False) as stream:
                seen = made.read(TarEntry(name, size=info.st_size), stream)
        elif not is_socket:  # as an engine, which has no way to pack one; the comparison names it
            entry = TarEntry(name, kind, stat.S_IMODE(info.st_mode), size=info.st_size, target=names.get(info.st_ino, ""))
            taken.take(name, entry, partial(_move, source / name, check))
    made.compare(seen, taken.kinds)
    _require(declared or (), taken.outputs)
    return taken.outputs


_KINDS: Final[Mapping[int, Kind]] = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}


def _below(folder: Path, above: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder by its path, sorted, folders before what is in them; links are not followed."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
    for entry in found:
        info = entry.stat(follow_symlinks=False)
        yield f"{above}{entry.name}", info
        if stat.S_ISDIR(info.st_mode):
            yield from _below(folder / entry.name, f"{above}{entry.name}/")


def _move(source: Path, check: Callable[[], None] | None, path: Path, entry: TarEntry) -> FileRecord:
    executable = bool(entry.mode & 0o100)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.rename(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with open_regular(source, follow=False) as stream:
            return _write(stream, path, entry, check)
    path.chmod(0o755 if executable else 0o644)
    digest = hashlib.sha256()
    with open_regular(path, follow=False) as stream:
        while piece := stream.read(_MOVED_CHUNK):
            if check is not None:
                check()
            digest.update(piece)
    return FileRecord(Digest(digest.hexdigest()), entry.size, executable)


class _Taken:
    """What has been taken so far."""

    def __init__(self, folder: Path, declared: Sequence[str] | None, max_bytes: int) -> None:
        self.outputs: dict[str, FileRecord] = {}
        self.kinds: dict[str, str] = {}
        """file or dir, for all paths, including folders that were not named themselves."""
        self._folder = folder
        self._declared = declared
        self._left = max_bytes
        self._named: set[str] = set()
        self._top: str | None = None

    def below(self, name: str) -> str:
        """Return the path below /out: the engine puts the name of the folder itself first. Raises FormatError."""
        top, _, path = name.partition("/")
        if top != (self._top or top):
            raise FormatError(f"/out: {name!a} is not in {self._top!a}, unlike the entries before it")
        self._top = top
        return path

    def take(self, name: str, entry: TarEntry, write: Callable[[Path, TarEntry], FileRecord]) -> None:
        """Take a folder, or a file, which `write` brings to a path. Raises StageError for other kinds and undeclared ones."""
        self._accept(name, entry)
        if entry.kind == "dir":
            (self._folder / name).mkdir(mode=0o755, parents=True, exist_ok=True)
            return
        self._left -= entry.size
        if self._left < 0:
            raise StageError(f"{name}: the outputs are larger than a stage may make", hint="see the limits of the sandbox")
        self.outputs[name] = write(self._folder / name, entry)

    def _accept(self, name: str, entry: TarEntry) -> None:
        where = f"/out/{made.shown(name)}"
        parts = name.split("/")
        if "" in parts or "." in parts or ".." in parts:
            raise StageError(f"{where}: not a plain path")
        odd = any(unicodedata.category(char) in ("Cc", "Cs") for char in name)
        if odd or len(name.encode()) > _LONGEST_NAME or any(len(part.encode()) > _LONGEST_PART for part in parts):
            raise StageError(f"{where}: a name must be UTF-8, without control characters and of sensible length")
        if entry.kind == "hardlink":
            raise StageError(f"{where}: is a hard link to {entry.target}", hint="copy the file instead (cp, not cp -l)")
        if entry.kind == "symlink":
            raise StageError(f"{where}: is a symbolic link", hint="outputs are regular files and folders; put links into a tar")
        if entry.kind not in ("file", "dir"):
            raise StageError(f"{where}: {_SPECIAL}")
        if name in self._named:
            raise StageError(f"{where}: came twice")
        self._named.add(name)
        self._place(name, entry.kind, where)
        declared = self._declared
        folder_of_one = entry.kind == "dir" and _leads_to(name, declared or ())
        if declared is not None and not (_is_declared(name, declared) or folder_of_one):
            raise StageError(
                f"{where}: is not among the outputs of the stage ({', '.join(declared) or 'none'})",
                hint="name it in outputs of stage.toml, or write it to /work",
            )

    def _place(self, name: str, kind: str, where: str) -> None:
        """Note a path and its parent folders."""
        if self.kinds.setdefault(name, kind) != kind:
            raise StageError(f"{where}: came as a file and as a folder")
        parent = name.rpartition("/")[0]
        while parent and self.kinds.get(parent) != "dir":
            if parent in self.kinds:
                raise StageError(f"{where}: lies below {parent}, which is a file")
            self.kinds[parent] = "dir"
            parent = parent.rpartition("/")[0]


def _is_declared(name: str, declared: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/") for pattern in declared)


def _leads_to(name: str, declared: Sequence[str]) -> bool:
    """Tell whether a declared path or glob can match below the folder `name`."""
    depth = name.count("/") + 1
    return any(
        fnmatchcase(name, "/".join(pattern.split("/")[:depth])) for pattern in declared if pattern.count("/") >= depth
    )  # fmt: skip


def _require(declared: Sequence[str], outputs: dict[str, FileRecord]) -> None:
    for pattern in declared:
        plain = pattern.rstrip("/")
        if not any(name == plain or name.startswith(f"{plain}/") or fnmatchcase(name, pattern) for name in outputs):
            have = ", ".join(sorted(outputs)[:10])
            raise StageError(f"/out/{pattern}: the stage did not make it; it made {have or 'nothing'}")


def _write(content: Content | BinaryIO, path: Path, entry: TarEntry, check: Callable[[], None] | None = None) -> FileRecord:
    digest = hashlib.sha256()
    executable = bool(entry.mode & 0o100)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755 if executable else 0o644)
    with open(fd, "wb", buffering=0) as out:  # noqa: PTH123  (a descriptor, opened with O_EXCL and O_NOFOLLOW)
        while piece := content.read(_CHUNK):
            if check is not None:
                check()
            digest.update(piece)
            _write_sparse(fd, piece)
        out.truncate(entry.size)
    return FileRecord(Digest(digest.hexdigest()), entry.size, executable)


def _write_sparse(fd: int, piece: bytes) -> None:
    """Write a piece, or seek over it if it is all zeros: the file gets holes like the stage's file."""
    if piece == _ZEROS[: len(piece)]:
        os.lseek(fd, len(piece), os.SEEK_CUR)
        return
    data = memoryview(piece)
    while data:
        data = data[os.write(fd, data) :]


class PieceReader:
    """Adapts the pieces of a stream to the `read` that the tar reader needs."""

    def __init__(self, pieces: Iterator[bytes], check: Callable[[], None] | None) -> None:
        self._pieces = pieces
        self._check = check
        self._piece = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; fewer do not mean the end, b"" does."""
        while self._at >= len(self._piece):
            if self._check is not None:
                self._check()
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece, self._at = piece, 0
        data = self._piece[self._at : self._at + size]
        self._at += len(data)
        return data
