# SPDX-License-Identifier: Apache-2.0
"""ELF files of any machine, written by hand: enough of one for a dynamic linker to read."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pipeline.images.elf.binary import Elf, read_elf
from pipeline.images.elf.root_tree import Entry, RootTree

Files = Mapping[str, bytes | str | tuple[int, bytes]]
X86, ARM = 62, 183
LINKER = "/lib64/ld-linux-x86-64.so.2"
_NULL, _NEEDED, _STRTAB, _SONAME, _RPATH, _STRSZ, _RUNPATH = 0, 1, 5, 14, 15, 10, 29


def elf(
    *needed: str, machine: int = X86, interpreter: str = "", soname: str = "", rpath: str = "", runpath: str = "", kind: int = 3
) -> bytes:
    """An ELF file of 64 bits: header, program headers, strings, dynamic section."""
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        place = len(strings)
        strings.extend(value.encode() + b"\0")
        return place

    tags = [(_NEEDED, text(name)) for name in needed]
    tags += [(tag, text(value)) for tag, value in ((_SONAME, soname), (_RPATH, rpath), (_RUNPATH, runpath)) if value]
    interp = interpreter.encode() + b"\0" if interpreter else b""
    count = 3 if interp else 2
    start = 64 + 56 * count
    at_strings = start + len(interp)
    at_dynamic = (at_strings + len(strings) + 7) & ~7
    tags += [(_STRTAB, at_strings), (_STRSZ, len(strings)), (_NULL, 0)]
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    total = at_dynamic + len(dynamic)

    def segment(number: int, place: int, size: int) -> bytes:
        return struct.pack("<IIQQQQQQ", number, 4, place, place, place, size, size, 8)

    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
    table = segment(1, 0, total) + segment(2, at_dynamic, len(dynamic)) + (segment(3, start, len(interp)) if interp else b"")
    body = head + table + interp + bytes(strings)
    return body.ljust(at_dynamic, b"\0") + dynamic


def tree(files: Files) -> RootTree:
    """A tree: a str is the target of a link, a pair a file with its mode."""
    made = RootTree()
    for path, content in files.items():
        if isinstance(content, str):
            made.add(Entry(path, "link", 0o777, link=content))
        else:
            mode, data = content if isinstance(content, tuple) else (0o755, content)
            made.add_file(path, mode, (0, 0), lambda most, data=data: data if most is None else data[:most])  # type: ignore[misc]
    return made


def parsed(*needed: str, **more: str) -> Elf:
    """One that was read again."""
    return read_elf(elf(*needed, **more), "x")  # type: ignore[arg-type]
