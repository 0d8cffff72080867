# SPDX-License-Identifier: Apache-2.0
"""What comes out of a sandbox: a tar stream from the engine, taken apart with distrust.

Only regular files and folders with plain names are taken, only what the stage declared, each path once. Files are
hashed while they are written, and blocks of zeros become holes, so a disk image takes the room of its content.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, cast

from pipeline.artifact import FileRecord
from pipeline.canonical import Digest
from pipeline.errors import StageError

_CHUNK = 1 << 16  # also the grain of holes; larger pieces cost twice the time: every one is fresh memory
_ZEROS = bytes(_CHUNK)


def receive(
    pieces: Iterator[bytes],
    folder: Path,
    *,
    declared: Sequence[str] | None,
    max_bytes: int,
    check: Callable[[], None] | None = None,
) -> dict[str, FileRecord]:
    """Write the members of a tar stream of `/out` into `folder`, which is empty; the record of each file.

    `declared` holds paths and globs: a path must be there (a folder stands for all it holds), and what matches
    none is an error; None takes everything. Raises StageError for anything else than that, for links, special
    files and odd names, and for more than `max_bytes`; OSError where `folder` cannot be written.
    """
    outputs: dict[str, FileRecord] = {}
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _Reader(pieces, check)), mode="r|", bufsize=_CHUNK) as tar:
            for member in tar:
                name = _relative(member.name)
                if name == "":
                    continue
                _accept(member, name, declared, outputs)
                if member.isdir():
                    (folder / name).mkdir(mode=0o755, exist_ok=True)
                    continue
                max_bytes -= member.size
                if max_bytes < 0:
                    raise StageError(
                        f"{name}: the outputs are larger than a stage may make", hint="see the limits of the sandbox"
                    )
                stream = tar.extractfile(member)
                if stream is not None:
                    outputs[name] = _write(stream, folder / name, member)
    except (tarfile.TarError, EOFError) as error:
        raise StageError(f"the outputs came back broken: {error}", hint="run the same command again") from error
    _require(declared or (), outputs)
    return outputs


def _relative(name: str) -> str:
    """The path below /out: the engine puts the name of the folder itself first."""
    return name.rstrip("/").partition("/")[2]


def _accept(member: tarfile.TarInfo, name: str, declared: Sequence[str] | None, outputs: dict[str, FileRecord]) -> None:
    shown = name.encode("ascii", "backslashreplace").decode()
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise StageError(f"/out/{shown}: not a plain path")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name) or len(name.encode()) > 1000:
        raise StageError(f"/out/{shown}: a name must be UTF-8, without control characters and of sensible length")
    if member.islnk():
        raise StageError(f"/out/{shown}: is a hard link to {member.linkname}", hint="copy the file instead (cp, not cp -l)")
    if member.issym():
        raise StageError(f"/out/{shown}: is a symbolic link", hint="outputs are regular files and folders; put links into a tar")
    if not (member.isreg() or member.isdir()):
        raise StageError(f"/out/{shown}: is a device, pipe or socket; outputs are regular files and folders")
    if name in outputs:
        raise StageError(f"/out/{shown}: came twice")
    if declared is not None and not (_is_declared(name, declared) or (member.isdir() and _leads_to(name, declared))):
        raise StageError(
            f"/out/{shown}: is not among the outputs of the stage ({', '.join(declared) or 'none'})",
            hint="name it in outputs of stage.toml, or write it to /work",
        )


def _is_declared(name: str, declared: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or name.startswith(f"{pattern.rstrip('/')}/") for pattern in declared)


def _leads_to(name: str, declared: Sequence[str]) -> bool:
    """Whether a declared path or glob can lie below the folder `name`."""
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


def _write(stream: IO[bytes], path: Path, member: tarfile.TarInfo) -> FileRecord:
    digest = hashlib.sha256()
    executable = bool(member.mode & 0o100)
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755 if executable else 0o644)
    with open(fd, "wb", buffering=0) as out:  # noqa: PTH123  (a descriptor, opened with O_EXCL and O_NOFOLLOW)
        while piece := stream.read(_CHUNK):
            digest.update(piece)
            _write_sparse(fd, piece)
        out.truncate(member.size)
    return FileRecord(Digest(digest.hexdigest()), member.size, executable)


def _write_sparse(fd: int, piece: bytes) -> None:
    """Write a piece, or seek over it if it is all zeros: the file gets holes where the stage's file had them."""
    if piece == _ZEROS[: len(piece)]:
        os.lseek(fd, len(piece), os.SEEK_CUR)
        return
    data = memoryview(piece)
    while data:
        data = data[os.write(fd, data) :]


class _Reader:
    """The pieces of a stream as the `read` that tarfile wants."""

    def __init__(self, pieces: Iterator[bytes], check: Callable[[], None] | None) -> None:
        self._pieces = pieces
        self._check = check
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer do not mean the end, none do."""
        if not self._rest:
            if self._check is not None:
                self._check()
            self._rest = next(self._pieces, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def close(self) -> None:
        """Let the engine's answer go."""
        with suppress(AttributeError):
            self._pieces.close()  # type: ignore[attr-defined]
