# SPDX-License-Identifier: Apache-2.0
"""Which libraries a program loads, read from the ELF file itself.

Nothing is run, so that the root may be one of another architecture than this machine's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from initfs.root import RootTree

PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 1, 5, 15, 29
DEFAULT_FOLDERS = ("lib", "usr/lib", "lib64", "usr/lib64", "usr/local/lib")


@dataclass(frozen=True)
class Needs:
    """What the dynamic loader is asked for by one file."""

    machine: tuple[int, int]
    interpreter: str
    libraries: tuple[str, ...]
    folders: tuple[str, ...]


def read_needs(path: Path) -> Needs | None:
    """The needs of an ELF file; None for any other file and for a static program."""
    with path.open("rb") as stream:
        data = stream.read(4)
        if data != b"\x7fELF":
            return None
        data += stream.read()
    try:
        return _parse(data)
    except (struct.error, ValueError, UnicodeDecodeError) as error:
        raise SystemExit(f"mkinitfs: {path}: damaged ELF file: {error}") from error


def _parse(data: bytes) -> Needs | None:
    wide, order = data[4] == 2, "<" if data[5] == 1 else ">"
    machine = struct.unpack_from(order + "H", data, 18)[0]
    segments = _segments(data, order, wide)
    parts = {kind: data[offset : offset + length] for kind, offset, _, length in segments if kind != PT_LOAD}
    loads = [segment[1:] for segment in segments if segment[0] == PT_LOAD]
    dynamic = parts.get(PT_DYNAMIC, b"")
    interpreter = parts.get(PT_INTERP, b"").rstrip(b"\0").decode()
    if not dynamic:
        return None
    entries = [*struct.iter_unpack(order + ("qQ" if wide else "iI"), dynamic)]
    table = next((value for tag, value in entries if tag == DT_STRTAB), None)
    if table is None:
        return None
    strings = next(
        (table - address + offset for offset, address, length in loads if address <= table < address + length),
        None,
    )
    if strings is None:
        raise ValueError("the string table is in no segment")
    needed: list[str] = []
    folders: list[str] = []
    for tag, value in entries:
        if tag in (DT_NEEDED, DT_RPATH, DT_RUNPATH):
            begin = strings + value
            text = data[begin : data.index(b"\0", begin)].decode()
            if tag == DT_NEEDED:
                needed.append(text)
            else:
                folders += text.split(":")
    return Needs((data[4], machine), interpreter, tuple(needed), tuple(folders))


def _segments(data: bytes, order: str, wide: bool) -> list[tuple[int, int, int, int]]:
    """Kind, offset, address and length in the file of every segment."""
    start = struct.unpack_from(order + ("Q" if wide else "I"), data, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", data, 54 if wide else 42)
    found: list[tuple[int, int, int, int]] = []
    for at in range(start, start + size * count, size):
        if wide:
            kind, _flags, offset, address, _physical, length = struct.unpack_from(order + "IIQQQQ", data, at)
        else:
            kind, offset, address, _physical, length = struct.unpack_from(order + "IIIII", data, at)
        found.append((kind, offset, address, length))
    return found


class Closure:
    """Collects files and, for programs and libraries among them, all they load."""

    def __init__(self, root: RootTree) -> None:
        self.root = root
        self.files: set[str] = set()
        self.links: set[str] = set()
        self.missing: list[str] = []
        self._multiarch = root.folders("usr/lib/*-linux-*")

    def add(self, path: str) -> None:
        """Take a file with the links that lead to it and the libraries it needs."""
        real, followed = self.root.resolve(path)
        self.links.update(followed)
        host = self.root.host(real)
        if real in self.files or not host.is_file():
            return
        self.files.add(real)
        needs = read_needs(host)
        if needs is None:
            return
        if needs.interpreter:
            self.add(needs.interpreter)
        for name in needs.libraries:
            self._add_library(name, real, needs)

    def _add_library(self, name: str, user: str, needs: Needs) -> None:
        if "/" in name:
            self.add(name)
            return
        origin = f"/{PurePosixPath(user).parent}"
        for folder in self._search(needs.folders, origin):
            real, _ = self.root.resolve(f"{folder}/{name}")
            host = self.root.host(real)
            if host.is_file() and _machine(host) == needs.machine:
                self.add(f"{folder}/{name}")
                return
        self.missing.append(f"{name} (for /{user})")

    def _search(self, own: Iterable[str], origin: str) -> list[str]:
        special = [folder.replace("$ORIGIN", origin).replace("${ORIGIN}", origin) for folder in own]
        return [*special, *self._multiarch, *DEFAULT_FOLDERS]


def _machine(path: Path) -> tuple[int, int] | None:
    with path.open("rb") as stream:
        head = stream.read(20)
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    return head[4], struct.unpack_from("<H" if head[5] == 1 else ">H", head, 18)[0]
