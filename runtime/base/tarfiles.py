# SPDX-License-Identifier: Apache-2.0
"""Read the files of a small tar that another machine sent: all of them, or an error.

Python's own reader takes a damaged header, and a missing end, for the end of the archive, and loops for ever on a
negative size. This one insists on an end, on a checksum for each header, and refuses what it does not know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_BLOCK: Final = 512
_END: Final = bytes(2 * _BLOCK)
_MAGICS: Final = (b"ustar\x0000", b"ustar  \0", b"ustar\0\0\0", bytes(8))
_FILES: Final = b"0\0"
_OTHERS: Final = b"123456"
"""Entries without content: links, devices, folders and pipes."""
_LONG_NAME, _LONG_LINK, _PAX = b"L", b"K", b"x"
_MOST_EXTENDED: Final = 64 << 10
_MOST_NAME: Final = 4096
_NUMBER: Final = re.compile(rb"[ \0]*([0-7]{0,12})[ \0]*")
_RECORD: Final = re.compile(rb"([0-9]{1,6}) ([^=\n]+)=")
_FIELDS: Final = frozenset((b"path", b"linkpath", b"mtime", b"atime", b"ctime", b"uid", b"gid", b"uname", b"gname"))


class DamagedTarError(ValueError):
    """The bytes are not a whole tar; the text says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One entry; `content` is None if it is no regular file, `made` is its time in seconds since 1970."""

    name: str
    made: int
    content: bytes | None


def read_tar(data: bytes, *, most: int) -> tuple[Member, ...]:
    """Return the entries of a tar, at most `most`. Raises DamagedTarError."""
    found: list[Member] = []
    fields: dict[bytes, bytes] = {}
    at = 0
    while (header := data[at : at + _BLOCK]) != bytes(_BLOCK):
        size = _checked_size(header)
        kind, content = header[156:157], data[at + _BLOCK : at + _BLOCK + size]
        at += _BLOCK + size + -size % _BLOCK
        if at > len(data) or data[at - (-size % _BLOCK) : at].strip(b"\0"):
            raise DamagedTarError("it is cut off, or has data between its files")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX):
            fields |= _extended(kind, content, fields)
            continue
        if kind not in (_FILES[:1], _FILES[1:]) and (kind not in _OTHERS or size):
            raise DamagedTarError(f"it has an entry of an unknown type, or unexpected content ({kind!r})")
        found.append(Member(_name(header, fields), _made(header, fields), content if kind in _FILES else None))
        fields = {}
        if len(found) > most:
            raise DamagedTarError(f"it has more than {most} files")
    if fields or data[at : at + len(_END)] != _END or data[at:].strip(b"\0"):
        raise DamagedTarError("it has no end, or data after its end")
    return tuple(found)


def _checked_size(header: bytes) -> int:
    field = header[148:156]
    total = sum(header) - sum(field) + 8 * ord(" ")
    if len(header) != _BLOCK or field not in (b"%06o\0 " % total, b"%07o\0" % total) or header[257:265] not in _MAGICS:
        raise DamagedTarError("it is cut off, or one of its headers is damaged")
    return _number(header[124:136])


def _number(field: bytes) -> int:
    match = _NUMBER.fullmatch(field)
    if match is None:
        raise DamagedTarError("a number in one of its headers is invalid")
    return int(match[1] or b"0", 8)


def _extended(kind: bytes, content: bytes, before: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what a long name of GNU tar, or a pax header, says about the next entry."""
    if len(content) > _MOST_EXTENDED or len(before) > len(_FIELDS):
        raise DamagedTarError(f"one of its headers is longer than {_MOST_EXTENDED} bytes, or has too many records")
    if kind != _PAX:
        name = b"path" if kind == _LONG_NAME else b"linkpath"
        if content[-1:] != b"\0" or name in before:
            raise DamagedTarError("one of its long names is damaged, or occurs twice")
        return {name: content[:-1]}
    found: dict[bytes, bytes] = {}
    at = 0
    while match := _RECORD.match(content, at):
        end = at + int(match[1])
        if match[2] not in _FIELDS or {**before, **found}.get(match[2]) is not None or content[end - 1 : end] != b"\n":
            raise DamagedTarError("one of its headers has an unknown record, or one twice")
        found[match[2]], at = content[match.end() : end - 1], end
    if at != len(content) or not found:
        raise DamagedTarError("one of its headers is damaged")
    return found


def _name(header: bytes, fields: dict[bytes, bytes]) -> str:
    name = fields.get(b"path")
    if name is None:
        name, prefix = header[:100].split(b"\0", 1)[0], header[345:500].split(b"\0", 1)[0]
        name = prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name
    if len(name) > _MOST_NAME:
        raise DamagedTarError(f"it has a name of more than {_MOST_NAME} bytes")
    if not name or b"\0" in name:
        raise DamagedTarError("one of its names is invalid")
    return name.decode(errors="surrogateescape")


def _made(header: bytes, fields: dict[bytes, bytes]) -> int:
    given = fields.get(b"mtime")
    if given is None:
        return _number(header[136:148])
    seconds = given.partition(b".")[0]
    if not seconds.isdigit() or len(seconds) > 12:
        raise DamagedTarError("one of its times is invalid")
    return int(seconds)
