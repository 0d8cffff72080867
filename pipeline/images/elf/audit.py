# SPDX-License-Identifier: Apache-2.0
"""The rules of the audit, for the tree of one image, and the comparison with the reviewed list.

Every linked ELF file must be of the image's architecture, and find its interpreter and its libraries as its dynamic linker
would: by DT_RPATH, DT_RUNPATH, the linker's own list, and its default folders. The linker, musl's or glibc's, is
determined for each file; a file that would get a library of the other C library is refused.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from pipeline.images.elf.binary import MACHINES, Elf
from pipeline.images.elf.root_tree import Entry, RootTree, paths_below

_MODULE: Final = re.compile(r"(?:usr/)?lib/modules/[^/]+/(?P<folder>.+)/[^/]+\.ko(\.gz|\.xz|\.zst)?")
_DEFAULT: Final = ("/lib", "/usr/lib")
_SETUID: Final = 0o6000
_MUSL: Final = "musl"
_GLIBC: Final = "glibc"
_DEPTH: Final = 3
"""Depth to which folders of kernel modules are reviewed: kernel/drivers/net."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """A reviewed exception from the rules: the files that match `path`, and the reason."""

    path: str
    what: str
    """A machine that is not the image's, or the name of a missing library or interpreter."""
    why: str


@dataclass(frozen=True, slots=True)
class Lists:
    """The parts of an image that have to be reviewed; each list is sorted."""

    setuid: tuple[str, ...] = ()
    """`4755 0:0 usr/bin/doas`."""
    services: tuple[str, ...] = ()
    """`default/sshd`: runlevel and service."""
    modules: tuple[str, ...] = ()
    """Folders that hold kernel modules."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of one file."""

    path: str
    what: str
    subject: str
    """The machine, library or interpreter that it is about; an exception names it."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def lists_of(tree: RootTree) -> Lists:
    """Return the parts of an image that have to be reviewed."""
    entries = tree.entries.values()
    setuid = (f"{e.mode:04o} {e.uid}:{e.gid} {e.path}" for e in entries if e.kind == "file" and e.mode & _SETUID)
    services = (e.path.removeprefix("etc/runlevels/") for e in paths_below(tree, "etc/runlevels") if e.kind in ("link", "file"))
    modules = {_shortened(match["folder"]) for path in tree.entries if (match := _MODULE.fullmatch(path))}
    return Lists(tuple(sorted(setuid)), tuple(sorted(services)), tuple(sorted(modules)))


def _shortened(folder: str) -> str:
    return "/".join(folder.split("/")[:_DEPTH])


def findings(tree: RootTree, arch: str) -> Iterator[Finding]:
    """Yield the faults of the ELF files of a tree."""
    folders = {libc: _linker_folders(tree, arch, libc) for libc in (_MUSL, _GLIBC)}
    marks = (f"ld-musl-{arch}.so.1", f"ld-musl-{arch}.path")
    usual = (_MUSL, _GLIBC) if any(path.rpartition("/")[2] in marks for path in tree.entries) else (_GLIBC, _MUSL)
    machine = MACHINES[arch]
    for path, entry in sorted(tree.entries.items()):
        elf = entry.elf
        if elf is None:
            continue
        if elf.machine != machine:
            yield Finding(path, f"is for {elf.machine}, the image is for {machine}", elf.machine)
            continue
        if elf.interpreter and not _is_elf(tree.resolve(elf.interpreter), machine):
            yield Finding(path, f"its interpreter {elf.interpreter} is not there", elf.interpreter)
        libc = libc_of(path, elf)
        # A library that names no C library belongs to the C library with which it finds all of its libraries.
        tried = [list(_unmet(tree, entry, elf, one, folders[one])) for one in ((libc,) if libc else usual)]
        yield from min(tried, key=len)


def _unmet(tree: RootTree, entry: Entry, elf: Elf, libc: str, folders: Sequence[str]) -> Iterator[Finding]:
    """Yield libraries that the dynamic linker of `libc` does not find, or finds as the other C library's."""
    for name in elf.needed:
        places = (tree.resolve(place) for place in _places(name, entry, elf, folders))
        found = next((place for place in places if place is not None and _is_elf(place, elf.machine)), None)
        if found is None or found.elf is None:
            yield Finding(entry.path, f"needs {name}, which is not where it looks", name)
        elif libc_of(found.path, found.elf) not in ("", libc):
            yield Finding(entry.path, f"needs {name} for {libc}, and finds {found.path}, which is not", name)


def libc_of(path: str, elf: Elf) -> str:
    """Return the C library that a file is for, `musl` or `glibc`; "" if it does not say."""
    if elf.interpreter:
        return _MUSL if "/ld-musl-" in elf.interpreter else _GLIBC
    if any(name.startswith("libc.musl-") for name in (elf.soname, *elf.needed)):
        return _MUSL
    if "libc.so.6" in (elf.soname, *elf.needed) or "-linux-gnu/" in path:
        return _GLIBC
    return ""


def _is_elf(entry: Entry | None, machine: str) -> bool:
    return entry is not None and entry.elf is not None and entry.elf.machine == machine


def _places(name: str, entry: Entry, elf: Elf, folders: Sequence[str]) -> Iterator[str]:
    if "/" in name:
        yield name
        return
    origin = "/" + posixpath.dirname(entry.path)
    for folder in (*elf.rpath, *elf.runpath):
        yield f"{folder.replace('$ORIGIN', origin).replace('${ORIGIN}', origin)}/{name}"
    for folder in folders:
        yield f"{folder}/{name}"


def _linker_folders(tree: RootTree, arch: str, libc: str) -> list[str]:
    """Return the folders of a dynamic linker: musl's path file, or glibc's configuration and default folders."""
    if libc == _MUSL:
        musl = tree.entries.get(f"etc/ld-musl-{arch}.path")
        return re.split(r"[:\n]+", musl.text.strip()) if musl is not None else ["/lib", "/usr/local/lib", "/usr/lib"]
    found: list[str] = []
    for path, entry in sorted(tree.entries.items()):
        if path == "etc/ld.so.conf" or fnmatchcase(path, "etc/ld.so.conf.d/*.conf"):
            found += [line.strip() for line in entry.text.splitlines() if line.strip().startswith("/")]
    triplet = f"{arch}-linux-gnu"
    return [*found, *(f"{folder}/{triplet}" for folder in _DEFAULT), "/lib64", "/usr/lib64", *_DEFAULT]


# --- against what was reviewed --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reviewed:
    """The reviewed lists of one image."""

    lists: Lists
    exceptions: tuple[Exempt, ...] = ()


def compare(tree: RootTree, arch: str, reviewed: Reviewed) -> list[str]:
    """Return every fault of an image: damaged and missing files, unreviewed entries, and reviewed entries that are gone."""
    faults = list(tree.damaged)
    used: set[Exempt] = set()
    for finding in findings(tree, arch):
        excused = {one for one in reviewed.exceptions if one.what == finding.subject and fnmatchcase(finding.path, one.path)}
        used |= excused
        if not excused:
            faults.append(str(finding))
    faults += [f"{one.path}: {one.what}: an exception that nothing needs" for one in reviewed.exceptions if one not in used]
    here = lists_of(tree)
    for what, names, known in (
        ("setuid file", here.setuid, reviewed.lists.setuid),
        ("enabled service", here.services, reviewed.lists.services),
        ("folder of kernel modules", here.modules, reviewed.lists.modules),
    ):
        faults += [f"{name}: {what} that nobody reviewed" for name in names if name not in known]
        faults += [f"{name}: {what} that was reviewed, and is not there" for name in known if name not in names]
    return faults
