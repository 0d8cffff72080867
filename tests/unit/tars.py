# SPDX-License-Identifier: Apache-2.0
"""Tars as several programs write them, and every way in which one bit or the end of one can be lost."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

BLOCK = 512
END = bytes(2 * BLOCK)
NEGATIVE = b"\xff" * 12
"""A size of -1 as GNU tar writes numbers that do not fit."""


def header(name: str = "a", length: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """One header whose check sum is right; `fields` are bytes in place of those that tar would write."""
    info = tarfile.TarInfo(name)
    info.size, info.type = length, kind
    return summed(info.tobuf(tarfile.GNU_FORMAT), **fields)


def summed(block: bytes, **fields: bytes) -> bytes:
    """A header changed, and its check sum made right again."""
    places = {"name": 0, "mode": 100, "uid": 108, "size": 124, "mtime": 136, "link": 157, "magic": 257}
    changed = bytearray(block)
    for name, value in fields.items():
        changed[places[name] : places[name] + len(value)] = value
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:BLOCK])
    return bytes(changed)


def padded(data: bytes) -> bytes:
    """Content as it lies in a tar."""
    return data + bytes(-len(data) % BLOCK)


def pax(**records: bytes) -> bytes:
    """An extended header with its records."""
    data = b"".join(record(name, value) for name, value in records.items())
    return header("PaxHeader", len(data), b"x") + padded(data)


def record(name: str, value: bytes) -> bytes:
    """One record of pax, with its length in front."""
    body = b" " + name.encode() + b"=" + value + b"\n"
    length = len(body) + 1
    while length != len(str(length)) + len(body):
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def sparse(size: bytes, real: bytes) -> bytes:
    """GNU's old header of a sparse file, with whatever for a map."""
    block = bytearray(header("s", 0, b"S", size=size))
    block[386:482] = b"no map".ljust(96, b"z")
    block[483:495] = real
    return summed(bytes(block))


_PAST = header("a", 4) + padded(b"text")
HOSTILE: Mapping[str, bytes] = {
    "negative size": header("a", size=NEGATIVE) + END,
    "absurd size": header("a", size=b"\x80" + b"\x7f" * 11) + END,
    "negative size in pax": pax(size=b"-512") + header() + END,
    "absurd size in pax": pax(size=b"9" * 20) + header() + END,
    "size that is no number": pax(size=b"1e3") + header() + END,
    "negative owner": header("a", uid=b"\xff" * 8) + END,
    "negative size of a long name": header("@", kind=b"L", size=NEGATIVE) + END,
    "absurd long name": header("@", 1 << 30, b"L") + END,
    "long name without an end": header("@", 2, b"L") + padded(b"xx") + header() + END,
    "long name with a NUL": header("@", 4, b"L") + padded(b"x\0y\0") + header() + END,
    "nested long names": (header("@", 2, b"L") + padded(b"x\0")) * 2000 + header() + END,
    "nested pax": pax(comment=b"x") * 2000 + header() + END,
    "many pax headers of one file": pax(comment=b"x" * 200_000) * 7 + header() + END,
    "endless global headers": (header("g", 600_000, b"g") + padded(record("comment", b"x" * 599_984))) * 3 + _PAST + END,
    "a name for all files": header("g", 10, b"g") + padded(b"10 path=x\n") + _PAST + END,
    "pax of nothing": pax(comment=b"x") + END,
    "name with a NUL": pax(path=b"a\0b") + header() + END,
    "name of megabytes": pax(path=b"a/" * 500_000) + header() + END,
    "name that is no text": pax(path=b"a\xff") + header() + END,
    "no name": header("") + END,
    "unknown pax field": pax(frobnicate=b"1") + header() + END,
    "unknown charset": pax(hdrcharset=b"EBCDIC") + header() + END,
    "record without a length": header("@", 8, b"x") + padded(b"path=x\n\n") + header() + END,
    "record of length 0": header("@", 9, b"x") + padded(b"0 path=x\n") + header() + END,
    "record that is too long": header("@", 10, b"x") + padded(b"99 path=x\n") + header() + END,
    "sparse": sparse(b"00000000000\0", b"00000000000\0") + END,
    "sparse, negative": sparse(b"00000000000\0", NEGATIVE) + END,
    "sparse by pax": b"".join((pax(**{"GNU.sparse.map": b"no,map,at,all", "GNU.sparse.size": b"-1"}), _PAST, END)),
    "sparse by pax, 1.0": pax(**{"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0"}) + header("a", 4) + padded(b"x\ny\n") + END,
    "several volumes": header("a", kind=b"M") + END,
    "unknown type": header("a", kind=b"Z") + END,
    "unknown magic": header("a", magic=b"bustar\0\0") + END,
    "folder with content": header("d", 512, b"5") + bytes(512) + END,
    "link with content": header("l", 512, b"2") + bytes(512) + END,
    "letters in a number": header("a", mtime=b"000zz000000\0") + END,
    "one block of zeros": _PAST + bytes(BLOCK),
    "no end": _PAST,
    "garbage after the end": _PAST + END + b"x",
    "garbage after one block of zeros": _PAST + bytes(BLOCK) + _PAST + END,
    "endless zeros": _PAST + bytes(9 << 20),
    "garbage in the padding": header("a", 4) + b"text" + b"x" * 508 + END,
    "nothing at all": b"",
    "no tar": b"hello world\n" * 100,
}
"""By what is wrong with it; nothing of it may be read to its end."""


def written(form: int) -> bytes:
    """By Python: folders, short and long names, links, empty and large files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for name, size, kind in (
            ("out", 0, tarfile.DIRTYPE),
            ("out/empty", 0, tarfile.REGTYPE),
            ("out/one", 700, tarfile.REGTYPE),
            (f"out/{'long' * 30}/{'name' * 20}", 513, tarfile.REGTYPE),
            ("out/last", 3, tarfile.REGTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.size, info.type, info.mtime = size, kind, 1_700_000_000
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    return raw.getvalue()


def by_program(argv: tuple[str, ...], folder: Path) -> bytes:
    """By a program that writes the folder `out` to its standard output."""
    (folder / "out" / "below").mkdir(parents=True)
    for name, size in (("one", 700), ("below/two", 1024), ("three", 0)):
        (folder / "out" / name).write_bytes(b"x" * size)
    return subprocess.run([*argv, "out"], cwd=folder, capture_output=True, check=True, timeout=20).stdout


def headers(data: bytes) -> Iterator[int]:
    """Where the headers of a sound tar lie, those of long names and pax among them."""
    at = 0
    while data[at : at + BLOCK].strip(b"\0"):
        yield at
        at += BLOCK + len(padded(bytes(int(data[at + 124 : at + 136].strip(b" \0") or b"0", 8))))


def flipped(data: bytes, places: Iterator[int]) -> Iterator[bytes]:
    """`data` with one bit changed, for each bit of the blocks at `places`."""
    for at in places:
        for bit in range(8 * BLOCK):
            changed = bytearray(data)
            changed[at + bit // 8] ^= 1 << bit % 8
            yield bytes(changed)
