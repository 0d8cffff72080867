# SPDX-License-Identifier: Apache-2.0
"""The messages between the broker of the clipboard, the windows and `tower clipboard`, and the socket that they pass.

A message is a JSON object of texts, numbers and lists, and bytes behind it. The socket lies in ~/.local/tower/clipboard, which
only its user may enter.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tower.base.jsontext import parse_json
from tower.clipboard.content import MOST, Content, Kind

_HEAD: Final = struct.Struct(">II")
_MOST_WORDS: Final = 1 << 16
_MOST_BYTES: Final = 3 * MOST
Message = tuple[dict[str, Any], bytes]


class WireError(Exception):
    """A message that none of ours sends."""


def packed(data: bytes = b"", /, **words: object) -> bytes:
    """Return a message as the socket has it."""
    text = json.dumps(words).encode()
    return _HEAD.pack(len(text), len(data)) + text + data


def unpacked(held: bytearray) -> Iterator[Message]:
    """Take the complete messages out of the received bytes. Raises WireError."""
    while len(held) >= _HEAD.size:
        words, count = _HEAD.unpack_from(held)
        if words > _MOST_WORDS or count > _MOST_BYTES:
            raise WireError(f"a message of {words} and {count} bytes")
        if len(held) < _HEAD.size + words + count:
            return
        text, data = bytes(held[_HEAD.size :][:words]), bytes(held[_HEAD.size + words :][:count])
        del held[: _HEAD.size + words + count]
        try:
            found = parse_json(text)
        except ValueError:
            raise WireError("a message that is not JSON") from None
        if not isinstance(found, dict):
            raise WireError("a message that is not an object")
        yield found, data


def joined(content: Content) -> tuple[dict[str, int], bytes]:
    """Return the sizes of a content's kinds, and all its bytes."""
    return {kind.value: len(data) for kind, data in content.items()}, b"".join(content.values())


def parted(sizes: Mapping[str, int], data: bytes) -> Content:
    """Return the content that `joined` was given. Raises WireError."""
    found, place = {}, 0
    try:
        for name, size in sizes.items():
            found[Kind(name)] = data[place : place + size]
            place += size
    except (AttributeError, TypeError, ValueError):
        raise WireError("an odd content") from None
    if place != len(data) or any(size < 0 for size in sizes.values()):
        raise WireError("an odd content")
    return found


@contextmanager
def _reached(folder: Path) -> Iterator[str]:
    """Yield a path of the socket that is short enough, wherever the folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/socket"
    finally:
        os.close(handle)


def listener(folder: Path) -> socket.socket:
    """Listen on the socket of a folder; what an earlier broker left there is removed. Raises OSError."""
    made = socket.socket(socket.AF_UNIX)
    try:
        (folder / "socket").unlink(missing_ok=True)
        with _reached(folder) as path:
            before = os.umask(0o177)
            try:
                made.bind(path)
            finally:
                os.umask(before)
        made.listen(64)
    except BaseException:
        made.close()
        raise
    return made


def connected(folder: Path) -> socket.socket:
    """Connect to the broker. Raises OSError if there is none."""
    made = socket.socket(socket.AF_UNIX)
    try:
        with _reached(folder) as path:
            made.connect(path)
    except BaseException:
        made.close()
        raise
    return made
