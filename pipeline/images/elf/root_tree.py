# SPDX-License-Identifier: Apache-2.0
"""The tree of a system in an image, with all ELF files read: that of a disk's root, or of an ISO's packages.

An ISO has no root of its own: its tree is what all its packages and its apkovl would install.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from tower.base.regular import open_regular

from pipeline.apk.format.package import read_package
from pipeline.base.errors import FormatError
from pipeline.formats import iso9660
from pipeline.formats.ext4 import Ext4
from pipeline.formats.packed import DecompressedStream
from pipeline.formats.tarstream import read_tar
from pipeline.images.disk import partitions
from pipeline.images.elf.binary import HEAD, Elf, elf_head, is_object, machine_of, read_elf

_MOST_LINKS: Final = 40
_MOST_TEXT: Final = 64 << 10
_MOST_OVERLAY: Final = 256 << 20
_TEXTS: Final = ("etc/ld.so.conf", "etc/ld-musl-")


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the tree; `path` has no slash at either end."""

    path: str
    kind: str
    """file, folder, link, or other."""
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    link: str = ""
    elf: Elf | None = None
    text: str = ""
    """The content of the few files that list library folders."""


@dataclass
class RootTree:
    """All entries by path, and the files that could not be read."""

    entries: dict[str, Entry] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Add an entry; it replaces one with the same path."""
        self.entries[entry.path] = entry

    def add_file(self, path: str, mode: int, owner: tuple[int, int], read: Callable[[int | None], bytes]) -> None:
        """Add a file; `read` returns its content, or the given number of its first bytes."""
        elf, text = None, ""
        first = read(HEAD)
        head = elf_head(first)
        if head:
            try:
                whole = not is_object(head) and first.startswith(head[:4])
                elf = read_elf(read(None), path) if whole else Elf(machine_of(head), is_object=True)
            except FormatError as error:
                self.damaged.append(error.message)
        elif path.startswith(_TEXTS):
            whole_text = read(_MOST_TEXT + 1)
            if len(whole_text) > _MOST_TEXT:
                self.damaged.append(f"{path}: more than {_MOST_TEXT} bytes, which no list of folders has")
            text = whole_text.decode(errors="replace")
        self.add(Entry(path, "file", mode, *owner, elf=elf, text=text))

    def resolve(self, path: str) -> Entry | None:
        """Return the entry that a path of the running system leads to, through all links; None if there is none."""
        todo = [part for part in reversed(path.split("/")) if part and part != "."]
        place: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                place = place[:-1]
                continue
            entry = self.entries.get("/".join([*place, part]))
            if entry is None:
                # Archives need not have entries for the folders of their files.
                if not todo:
                    return None
                place.append(part)
            elif entry.kind == "link":
                links += 1
                if links > _MOST_LINKS:
                    return None
                place = [] if entry.link.startswith("/") else place
                todo.extend(word for word in reversed(entry.link.split("/")) if word and word != ".")
            else:
                place.append(part)
        return self.entries.get("/".join(place))


def tree_of(image: Path) -> RootTree:
    """Return the tree of an unpacked image: an ISO, a disk whose last partition is ext4, or an ext4 file system."""
    with open_regular(image) as stream:
        if image.suffix == ".iso":
            return iso_tree(stream, image)
        start = partitions(image)[-1].start if _is_disk(stream) else 0
        return ext4_tree(stream, image.name, start)


def _is_disk(stream: BinaryIO) -> bool:
    stream.seek(510)
    return stream.read(2) == b"\x55\xaa"


def ext4_tree(stream: BinaryIO, where: str, start: int = 0) -> RootTree:
    """Return the tree of an ext4 file system."""
    tree = RootTree()
    system = Ext4(stream, where, start)
    for path, inode in system.walk():
        owner = (inode.uid, inode.gid)
        if stat.S_ISREG(inode.mode):
            tree.add_file(path, stat.S_IMODE(inode.mode), owner, lambda most, inode=inode: system.read(inode, most))  # type: ignore[misc]
        elif stat.S_ISLNK(inode.mode):
            tree.add(Entry(path, "link", 0o777, *owner, link=system.read(inode).decode(errors="surrogateescape")))
        else:
            tree.add(Entry(path, "folder" if stat.S_ISDIR(inode.mode) else "other", stat.S_IMODE(inode.mode), *owner))
    return tree


def iso_tree(stream: BinaryIO, where: Path) -> RootTree:
    """Return the tree of the packages and the apkovl of an ISO. Raises FormatError."""
    tree = RootTree()
    files = iso9660.files(stream, where)
    packages = [file for file in files if file.path.startswith("apks/") and file.path.endswith(".apk")]
    if not packages:
        raise FormatError(f"{where}: has no packages in apks/")
    for file in packages:
        add_package(tree, file.read(stream), file.path)
    for file in files:
        if file.path.endswith(".apkovl.tar.gz"):
            plain = DecompressedStream(BytesIO(file.read(stream)), "gz", file.path).read(_MOST_OVERLAY + 1)
            if len(plain) > _MOST_OVERLAY:
                raise FormatError(f"{file.path}: unpacks to more than {_MOST_OVERLAY} bytes")
            add_tar(tree, plain, file.path)
    return tree


def add_package(tree: RootTree, data: bytes, name: str) -> None:
    """Add the files of an .apk; the signature is not checked here."""
    for entry, content in read_package(BytesIO(data), None, name=name).iter_data():
        owner = (entry.uid, entry.gid)
        if entry.kind == "file":
            whole = content.read()
            tree.add_file(entry.name, entry.mode & 0o7777, owner, _reader(whole))
        else:
            _add_other(tree, Entry(entry.name, entry.kind, entry.mode & 0o7777, *owner, link=entry.target))


def add_tar(tree: RootTree, data: bytes, where: str = "archive") -> None:
    """Add the members of a tar archive. Raises FormatError."""
    for entry, content in read_tar(BytesIO(data), where):
        path = posixpath.normpath(entry.name).lstrip("/")
        owner = (entry.uid, entry.gid)
        if entry.kind == "file":
            tree.add_file(path, entry.mode, owner, _reader(content.read()))
        else:
            _add_other(tree, Entry(path, entry.kind, entry.mode, *owner, link=entry.target))


def _reader(data: bytes) -> Callable[[int | None], bytes]:
    return lambda most: data if most is None else data[:most]


def _add_other(tree: RootTree, entry: Entry) -> None:
    """Add an entry that is not a regular file; `entry.kind` is the archive's word for it, `entry.link` its target."""
    if entry.kind == "hardlink":
        twin = tree.entries.get(entry.link.removeprefix("./").lstrip("/"))
        if twin is not None:
            tree.add(replace(twin, path=entry.path))
    elif entry.kind == "symlink":
        tree.add(replace(entry, kind="link"))
    elif entry.kind == "dir":
        tree.entries.setdefault(entry.path, replace(entry, kind="folder"))
    else:
        tree.add(replace(entry, kind="other"))


def paths_below(tree: RootTree, folder: str) -> Iterator[Entry]:
    """Yield the entries anywhere below a folder, sorted by path."""
    start = f"{folder}/"
    return iter(sorted((entry for path, entry in tree.entries.items() if path.startswith(start)), key=lambda entry: entry.path))
