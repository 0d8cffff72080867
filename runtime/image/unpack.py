# SPDX-License-Identifier: Apache-2.0
"""The bytes of an image, unpacked on the fly by zstd or xz, whose error messages the user gets to read."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tower.base import proc
from tower.base.errors import ImageProblemError, ToolError
from tower.base.refused import refused
from tower.base.regular import open_regular

_PIPE: Final = 1 << 20
_COMMANDS: Final = {".zst": ("zstd", "-q", "-d", "-c", "--"), ".xz": ("xz", "-q", "-d", "-c", "-T0", "--")}
_PACKINGS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
)
"""The first bytes of packed files."""
_MEMORY: Final = ("too much memory", "Window size larger", "Memory usage limit")


@contextmanager
def unpacked(image: Path) -> Iterator[IO[bytes]]:
    """Yield the bytes of an image, unpacked by a program if its name says that it is packed.

    Raises ImageProblemError with the program's own words if it failed: if the stream ended too early, the program knows
    why.
    """
    command = _COMMANDS.get(image.suffix)
    if command is None:
        with _plain(image) as stream:
            yield stream
        return
    try:
        with proc.reading((*command, image), missing=f"install {command[0]}") as stream:
            fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE)
            yield stream
    except ToolError as error:
        hint = error.hint or _hint(error.message, image)
        raise ImageProblemError(f"{image}: cannot be unpacked: {error.message}", hint=hint) from error


@contextmanager
def _plain(image: Path) -> Iterator[IO[bytes]]:
    try:
        with open_regular(image) as stream:
            head = stream.read(8)
            stream.seek(0)
            if packing := next((name for start, name in _PACKINGS if head.startswith(start)), ""):
                raise ImageProblemError(
                    f"{image}: is packed with {packing}; images must be unpacked, or packed as .zst or .xz",
                    hint="get the image from its makers, with all files beside it, and keep its name",
                )
            yield stream
    except OSError as error:
        raise refused(error, image, kind=ImageProblemError) from error


def _hint(said: str, image: Path) -> str:
    if any(words in said for words in _MEMORY):
        return f"{image.name} needs too much memory to unpack: have it packed again, without --long"
    return "it is damaged or cut off, or has trailing garbage: fetch or build the image again"
