# SPDX-License-Identifier: Apache-2.0
"""Write packages and indexes of format 3 as apk's `mkpkg` and `mkndx` do, and convert packages of format 2."""

from __future__ import annotations

import binascii
import functools
import hashlib

from pipeline.apk.adb import fields
from pipeline.apk.adb.adbfile import INDEX, PACKAGE
from pipeline.apk.adb.encoder import Encoder, Packer, padding
from pipeline.apk.adb.filelist import LINK, REGULAR
from pipeline.apk.adb.packing import DEFAULT_LEVEL
from pipeline.apk.format import version as versions
from pipeline.apk.format.hostile import EntryChecker, Policy
from pipeline.apk.format.opened import CHECKSUMS
from pipeline.apk.format.pkginfo import check_info
from pipeline.apk.format.tarstream import TarEntry, name_bytes
from pipeline.apk.format.writer import open_source
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import BinaryIO, cast

    from pipeline.apk.format.entry import IndexEntry
    from pipeline.apk.format.opened import Package
    from pipeline.apk.format.pkginfo import PkgInfo
    from pipeline.apk.format.signature import Signer
    from pipeline.apk.format.writer import Source
else:

    def cast(_kind: str, value: object) -> object:
        """Stand for that of `typing`, which is slow to import."""
        return value


_CHUNK = 1 << 18
_OWN_CHECKSUM = 20
_DEVICES = {"char": 0o020000, "block": 0o060000, "fifo": 0o010000}
_NOTHING = 0


class _Tree:
    """The entries of a package by folder, both in the order of their names; missing folders are added."""

    def __init__(self, entries: Iterable[tuple[TarEntry, Source]], where: str, policy: Policy) -> None:
        found: dict[str, tuple[TarEntry, Source]] = {}
        for entry, source in entries:
            if found.setdefault(entry.name, (entry, source))[0] is not entry and entry.kind != "dir":
                raise FormatError(f"{where}: {entry.name} occurs twice")
        _move_links(found)
        folders: dict[str, TarEntry] = {"": TarEntry("", "dir", 0o755)}
        self.files: dict[str, list[tuple[TarEntry, Source]]] = {"": []}
        for entry, source in found.values():
            parent = entry.name.rpartition("/")[0]
            self.files.setdefault(entry.name if entry.kind == "dir" else parent, [])
            while parent and parent not in folders:
                folders[parent] = TarEntry(parent, "dir", 0o755)
                self.files.setdefault(parent, [])
                parent = parent.rpartition("/")[0]
            if entry.kind == "dir":
                folders[entry.name] = entry
            else:
                self.files[entry.name.rpartition("/")[0]].append((entry, source))
        self.folders = [folders[name] for name in sorted(folders, key=name_bytes)]
        checker = EntryChecker(where, policy)
        for folder in self.folders:
            if folder.name:
                checker.check(folder)
            self.files[folder.name].sort(key=lambda pair: name_bytes(pair[0].name))
            for entry, _source in self.files[folder.name]:
                checker.check(entry)


def _move_links(found: dict[str, tuple[TarEntry, Source]]) -> None:
    """Let the first of several names for one file have its data: in format 3 a link points to a file before it."""
    groups: dict[str, list[str]] = {}
    for entry, _source in found.values():
        if entry.kind == "hardlink":
            groups.setdefault(entry.target, [entry.target]).append(entry.name)
    for target, names in groups.items():
        if target not in found:
            continue  # the checker says so
        file, source = found[target]
        first, *others = sorted(names, key=_place)
        found[first] = _changed(file, name=first), source
        for name in others:
            found[name] = _changed(file, name=name, kind="hardlink", target=first, size=0, checksum=""), None


def _place(name: str) -> tuple[bytes, bytes]:
    folder, _, file = name.rpartition("/")
    return name_bytes(folder), name_bytes(file)


def _changed(entry: TarEntry, **changes: object) -> TarEntry:
    return TarEntry(**({name: getattr(entry, name) for name in TarEntry.__slots__} | changes))


def _measure(source: Source) -> tuple[int, bytes]:
    size, digest = 0, hashlib.sha256()
    with open_source(source) as stream:
        while data := stream.read(_CHUNK):
            size += len(data)
            digest.update(data)
    return size, digest.digest()


def _acl(encoder: Encoder, entry: TarEntry) -> int:
    slots = {
        fields.ACL_MODE: encoder.number(entry.mode),
        fields.ACL_USER: encoder.text(entry.uname),
        fields.ACL_GROUP: encoder.text(entry.gname),
    }
    xattrs = sorted(name.encode() + b"\0" + value for name, value in entry.xattrs)
    slots[fields.ACL_XATTRS] = encoder.array([encoder.blob(data) for data in xattrs])
    return encoder.object(slots)


def _target(entry: TarEntry) -> bytes:
    if entry.kind in ("symlink", "hardlink"):
        kind = LINK if entry.kind == "symlink" else REGULAR
        return kind.to_bytes(2, "little") + name_bytes(entry.target)
    major, minor = entry.device
    number = (major & 0xFFF) << 8 | (major & ~0xFFF) << 32 | (minor & 0xFF) | (minor & ~0xFF) << 12
    return _DEVICES[entry.kind].to_bytes(2, "little") + number.to_bytes(8, "little")


def _file(encoder: Encoder, entry: TarEntry, digest: bytes, linked: Mapping[str, int], epoch: int | None) -> int:
    """Return the word for a file; `linked` are the sizes of files that have other names as well."""
    if entry.name in linked:
        encoder.blob(REGULAR.to_bytes(2, "little") + name_bytes(entry.name))
    size = linked[entry.target] if entry.kind == "hardlink" else entry.size
    size = len(name_bytes(entry.target)) if entry.kind == "symlink" else size
    slots = {
        fields.FILE_NAME: encoder.text(entry.name.rpartition("/")[2]),
        fields.FILE_HASH: encoder.blob(digest),
        fields.FILE_TARGET: _NOTHING if entry.kind == "file" else encoder.blob(_target(entry)),
        fields.FILE_MTIME: encoder.number(entry.mtime if epoch is None else epoch),
        fields.FILE_SIZE: encoder.number(size),
    }
    slots[fields.FILE_ACL] = _acl(encoder, entry)
    return encoder.object(slots)


def _info_slots(encoder: Encoder, info: PkgInfo | IndexEntry) -> dict[int, int]:
    """Return the words of a package's metadata that packages and indexes share."""
    slots: dict[int, int] = {}
    for field, slot in fields.INFO.items():
        value = getattr(info, field, None)
        if field in fields.LISTS:
            slots[slot] = encoder.conditions(value or ())
        elif field == "commit":
            slots[slot] = encoder.blob(bytes.fromhex(str(value))) if len(str(value)) == 40 else _NOTHING
        elif field in fields.TEXTS or field in fields.FOR_PEOPLE:
            slots[slot] = encoder.text(str(value or ""))
        elif field == "provider_priority" or (field == "builddate" and value):
            slots[slot] = _NOTHING if value is None else encoder.number(value)
    return slots


def write_package(
    out: BinaryIO,
    info: PkgInfo,
    scripts: Mapping[str, bytes],
    entries: Iterable[tuple[TarEntry, Source]],
    *,
    epoch: int | None,
    signer: Signer | None = None,
    level: int = DEFAULT_LEVEL,
    policy: Policy | None = None,
) -> None:
    """Write a package; times become `epoch`, unless it is None.

    Entries that our own reader would refuse under `policy` are refused here. Raises FormatError.
    """
    where = f"{info.name}-{info.version}.apk"
    check_info(info, where, foreign=True)
    unknown = sorted(set(scripts) - set(fields.SCRIPTS))
    if unknown:
        raise FormatError(f"{where}: no script is called {', '.join(unknown)}", hint="one of " + " ".join(fields.SCRIPTS))
    tree = _Tree(entries, where, policy or Policy())
    metadata, data = _metadata(info, scripts, tree, epoch)
    packer = Packer(out, level)
    packer.start(PACKAGE, metadata, signer)
    for path, file, entry, source in data:
        _copy(packer, path, file, entry, source)
    packer.close()


def _metadata(
    info: PkgInfo, scripts: Mapping[str, bytes], tree: _Tree, epoch: int | None
) -> tuple[bytes, list[tuple[int, int, TarEntry, Source]]]:
    """Return the metadata block of a package, and the files whose data follows, with their places and digests."""
    encoder = Encoder(info.name)
    slots = _info_slots(encoder, info)
    priority = _NOTHING if info.replaces_priority is None else encoder.number(info.replaces_priority)
    paths, data, total = _paths(encoder, tree, epoch)
    slots[fields.INFO["installed_size"]] = encoder.number(info.size or total or (1 if tree.files or scripts else 0))
    own = encoder.blob(bytes(_OWN_CHECKSUM), shared=False)
    slots[fields.INFO["hashes"]] = own
    root = {fields.PKG_INFO: encoder.object(slots), fields.PKG_PATHS: encoder.array(paths)}
    root[fields.PKG_SCRIPTS] = encoder.object(
        {slot: encoder.blob(scripts.get(name, b"")) for name, slot in fields.SCRIPTS.items()}
    )
    root[fields.PKG_TRIGGERS] = encoder.array([encoder.text(text) for text in info.triggers])
    root[fields.PKG_PRIORITY] = priority
    block = encoder.finish(encoder.object(root))
    # The package's own checksum is over the block with zeros in its place.
    start = (own & 0x0FFFFFFF) + 1
    return block[:start] + hashlib.sha256(block).digest()[:_OWN_CHECKSUM] + block[start + _OWN_CHECKSUM :], data


def _paths(encoder: Encoder, tree: _Tree, epoch: int | None) -> tuple[list[int], list[tuple[int, int, TarEntry, Source]], int]:
    paths, data, total = [], [], 0
    linked: dict[str, int] = {}
    targets = {entry.target for files in tree.files.values() for entry, _source in files if entry.kind == "hardlink"}
    digests: dict[str, bytes] = {}
    for path, folder in enumerate(tree.folders, 1):
        words = []
        for file, (entry, source) in enumerate(tree.files[folder.name], 1):
            digest, measured = digests.get(entry.target, b""), entry
            if entry.kind == "file":
                size, digest = _measure(source)
                measured = _changed(entry, size=size, checksum=digest.hex())
                total += size
                if entry.name in targets:
                    linked[entry.name], digests[entry.name] = size, digest
                if size:
                    data.append((path, file, measured, source))
            elif entry.kind != "hardlink":
                digest = b""
            words.append(_file(encoder, measured, digest, linked, epoch))
        slots = {fields.DIR_NAME: encoder.text(folder.name), fields.DIR_ACL: _acl(encoder, folder)}
        slots[fields.DIR_FILES] = encoder.array(words)
        paths.append(encoder.object(slots))
    return paths, data, total


def _copy(packer: Packer, path: int, file: int, entry: TarEntry, source: Source) -> None:
    """Write a file's data. Raises FormatError if it has changed since it was measured."""
    packer.data_head(path, file, entry.size)
    left, digest = entry.size, hashlib.sha256()
    with open_source(source) as stream:
        while piece := stream.read(_CHUNK):
            left -= len(piece)
            digest.update(piece)
            packer.write(piece)
    if left or digest.hexdigest() != entry.checksum:
        raise FormatError(f"{entry.name}: changed while it was being packed")
    packer.write(bytes(padding(entry.size + 8)))


def write_index(out: BinaryIO, description: str, entries: Iterable[IndexEntry], signer: Signer | None) -> None:
    """Write a `Packages.adb`; equal entries give equal bytes, in any order."""
    encoder = Encoder("Packages.adb")
    ordered: Sequence[IndexEntry] = sorted(entries, key=functools.cmp_to_key(_order))
    packages = []
    for entry in ordered:
        slots = _info_slots(encoder, entry)
        slots[fields.INFO["hashes"]] = encoder.blob(_digest(entry))
        slots[fields.INFO["installed_size"]] = encoder.number(entry.installed_size)
        slots[fields.INFO["size"]] = encoder.number(entry.size)
        packages.append(encoder.object(slots))
    root = {fields.NDX_DESCRIPTION: encoder.text(description), fields.NDX_PACKAGES: encoder.array(packages)}
    packer = Packer(out)
    packer.start(INDEX, encoder.finish(encoder.object(root)), signer)
    packer.close()


def _order(a: IndexEntry, b: IndexEntry) -> int:
    """Return -1, 0 or 1 for apk's order of packages: by name and version."""
    if a.name == b.name and versions.is_valid(a.version) and versions.is_valid(b.version):
        order = versions.compare(a.version, b.version)
        if order:
            return order
    one, two = (a.name, a.version, a.checksum), (b.name, b.version, b.checksum)
    return (one > two) - (one < two)


def _digest(entry: IndexEntry) -> bytes:
    digest = binascii.a2b_base64(entry.checksum[2:])
    if CHECKSUMS.get(len(digest)) != entry.checksum[:2]:
        raise FormatError(f"{entry.file_name}: {entry.checksum!r} is not a checksum")
    return digest


class _Part:
    """A part of a scratch file, opened for reading."""

    def __init__(self, contents: BinaryIO, start: int, size: int) -> None:
        self._contents = contents
        self._place = start
        self._left = size

    def read(self, size: int = -1) -> bytes:
        self._contents.seek(self._place)
        data = self._contents.read(self._left if size < 0 else min(size, self._left))
        self._place += len(data)
        self._left -= len(data)
        return data

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def convert_package(
    package: Package, out: BinaryIO, signer: Signer | None, contents: BinaryIO, *, level: int = DEFAULT_LEVEL
) -> None:
    """Write a package of either format as one of format 3, with the same times; `contents` is a scratch file for its data."""
    places: list[tuple[TarEntry, Source]] = []
    for entry, content in package.iter_data():
        start = contents.tell()
        while piece := content.read(_CHUNK):
            contents.write(piece)
        opened = functools.partial(_Part, contents, start, entry.size)
        places.append((entry, cast("Source", opened) if entry.kind == "file" else None))
    write_package(out, package.info, package.scripts, places, epoch=None, signer=signer, level=level)
