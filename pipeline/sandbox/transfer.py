# SPDX-License-Identifier: Apache-2.0
"""The input of a sandbox: files of this machine as one tar stream, since they travel only through the engine's API.

Everything but the content is made equal on the way (order, owner, mode, time), and the bytes are hashed in passing, so
that a stage sees exactly what its key says. Nothing is held in memory as a whole. The way back is
`pipeline.sandbox.receive`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tower.base.regular import open_regular

from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.errors import SandboxError, StoreError
from pipeline.store.artifact import Artifact, DamagedError

_CHUNK = 1 << 16  # larger pieces take twice the time: every one is new memory
_BLOCK = tarfile.BLOCKSIZE
_PASSED_OVER = (".pyc", "~", ".swp")

Source = Path | Artifact | Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a stage: placed at `target`, an absolute path in the sandbox, read-only.

    `source` is a file or folder of this machine, an artifact, or files given by their bytes. With `digest`
    (`canonical.digest_tree` of a path, taken when the key was made) a source that changed since is an error.
    """

    target: str
    source: Source
    digest: Digest | None = None

    def __post_init__(self) -> None:
        path = PurePosixPath(self.target)
        if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or path.root != "/" or str(path) != self.target:
            raise SandboxError(f"{self.target!r}: the place of an input must be a plain absolute path below /")


def send(inputs: Sequence[Input], *, below: str = "/", epoch: int, check: Callable[[], None] | None = None) -> Iterator[bytes]:
    """Yield the inputs as one tar stream, to be unpacked in `below`, which contains them all; equal content gives equal bytes.

    Raises DamagedError for a damaged artifact, and StoreError for a source that cannot be read
    or changed since its digest was taken. `check` is called for every piece and may raise to give up.
    """
    tar = _Tar(epoch, below)
    for item in sorted(inputs, key=lambda item: item.target.encode()):
        try:
            for piece in _send_one(tar, item):
                if check is not None:
                    check()
                yield piece
        except OSError as error:
            raise StoreError(f"{error.filename or item.source}: {error.strerror} (input {item.target})") from error
    yield bytes(2 * _BLOCK)


def _send_one(tar: _Tar, item: Input) -> Iterator[bytes]:
    if isinstance(item.source, Artifact):
        return _send_artifact(tar, item.target, item.source)
    if isinstance(item.source, Path):
        return _send_path(tar, item, item.source)
    return _send_bytes(tar, item.target, item.source)


def _send_artifact(tar: _Tar, target: str, artifact: Artifact) -> Iterator[bytes]:
    yield from tar.folder(target)
    for name in sorted(artifact.outputs, key=str.encode):
        want, path = artifact.outputs[name], artifact.path / name
        try:
            found = yield from tar.file(f"{target}/{name}", path, want.executable)
        except FileNotFoundError:
            raise DamagedError(f"{path}: missing", key=artifact.key) from None
        if found != want.sha256:
            text = f"{path}: sha256 {found[:12]}, the record of {artifact.key[:12]} says {want.sha256[:12]}"
            raise DamagedError(text, key=artifact.key)


def _send_path(tar: _Tar, item: Input, source: Path) -> Iterator[bytes]:
    """Yield what `canonical.tree_entries` sees; its digest is computed again from the bytes that were sent."""
    rows: list[list[JsonValue]] = []
    for name in _tree_names(source):
        path = source if name == "." else source / name
        place = item.target if name == "." else f"{item.target}/{name}"
        mode = path.lstat().st_mode
        executable = bool(mode & stat.S_IXUSR)
        if stat.S_ISDIR(mode):
            yield from tar.folder(place)
            if name != ".":
                rows.append([name, "dir", False, ""])
        elif stat.S_ISLNK(mode):
            link = str(path.readlink())
            yield from tar.link(place, link)
            rows.append([name, "link", False, link])
        elif stat.S_ISREG(mode):
            digest = yield from tar.file(place, path, executable)
            rows.append([name, "file", executable, digest])
        else:
            raise StoreError(f"{path}: neither a file, a folder nor a symbolic link")
    rows.sort(key=lambda row: str(row[0]).encode())
    if item.digest is not None and digest_json([list(row) for row in rows]) != item.digest:
        raise StoreError(f"{source}: changed during the build", hint="run the same command again")


def _tree_names(root: Path) -> Iterator[str]:
    """Yield the relative paths that enter a key, "." first and every folder before its content."""
    yield "."
    if root.is_symlink() or not root.is_dir():
        return
    names: list[str] = []
    for folder, folders, files in os.walk(root):
        base = Path(folder)
        folders[:] = [name for name in folders if name != "__pycache__"]
        leaves = [*files, *(name for name in folders if (base / name).is_symlink())]
        dropped = {name for name in leaves if name.endswith(_PASSED_OVER)}
        names += [(base / name).relative_to(root).as_posix() for name in {*folders, *files} - dropped]
    yield from sorted(names, key=lambda name: name.encode().split(b"/"))


def _send_bytes(tar: _Tar, target: str, files: Mapping[str, bytes]) -> Iterator[bytes]:
    yield from tar.folder(target)
    for name in sorted(files, key=str.encode):
        yield from tar.data(f"{target}/{name}", files[name])


class _Tar:
    """Makes the pieces of a tar stream in which only names, contents and execute bits can differ."""

    def __init__(self, epoch: int, below: str) -> None:
        self._epoch = epoch
        self._below = PurePosixPath(below)
        self._folders: set[str] = {"/"}
        self._others: set[str] = set()

    def folder(self, place: str) -> Iterator[bytes]:
        """Write a folder and its parents, each once."""
        for path in [*reversed(PurePosixPath(place).parents), PurePosixPath(place)]:
            name = str(path)
            if name not in self._folders and path.is_relative_to(self._below):
                if name in self._others:
                    raise SandboxError(f"{name}: is a file of one input and a folder of another")
                self._folders.add(name)
                yield self._header(name, tarfile.DIRTYPE, mode=0o755)

    def link(self, place: str, target: str) -> Iterator[bytes]:
        """Write a symbolic link."""
        yield from self._leaf(place)
        yield self._header(place, tarfile.SYMTYPE, mode=0o777, link=target)

    def data(self, place: str, data: bytes) -> Iterator[bytes]:
        """Write a file given by its bytes."""
        yield from self._leaf(place)
        yield self._header(place, tarfile.REGTYPE, size=len(data)) + data + bytes(-len(data) % _BLOCK)

    def file(self, place: str, path: Path, executable: bool) -> Generator[bytes, None, Digest]:
        """Write a file of this machine; return the SHA-256 of the bytes sent."""
        digest = hashlib.sha256()
        with open_regular(path) as stream:
            yield from self._leaf(place)
            size = left = os.fstat(stream.fileno()).st_size
            yield self._header(place, tarfile.REGTYPE, mode=0o755 if executable else 0o644, size=size)
            while left:
                piece = stream.read(min(_CHUNK, left))
                if not piece:
                    raise StoreError(f"{path}: became shorter while it was read", hint="run the same command again")
                left -= len(piece)
                digest.update(piece)
                yield piece
        if size % _BLOCK:
            yield bytes(-size % _BLOCK)
        return Digest(digest.hexdigest())

    def _leaf(self, place: str) -> Iterator[bytes]:
        yield from self.folder(str(PurePosixPath(place).parent))
        if place in self._others or place in self._folders:
            raise SandboxError(f"{place}: two inputs hold it")
        self._others.add(place)

    def _header(self, place: str, kind: bytes, *, mode: int = 0o644, size: int = 0, link: str = "") -> bytes:
        info = tarfile.TarInfo(str(PurePosixPath(place).relative_to(self._below)))
        info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, size, link, self._epoch
        return info.tobuf(tarfile.PAX_FORMAT)
