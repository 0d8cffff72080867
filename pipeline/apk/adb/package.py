# SPDX-License-Identifier: Apache-2.0
"""Read a package of format 3: metadata with the list of files and their digests, signatures, then one block of data a file.

The signature is over the metadata, and the digests in it are over the files. So the metadata is verified before it is
interpreted, and each file while it is read.
"""

from __future__ import annotations

import hashlib
import io

from pipeline.apk.adb import fields
from pipeline.apk.adb.adbfile import DATA, PACKAGE, AdbFile
from pipeline.apk.adb.filelist import Files
from pipeline.apk.adb.head import read_head
from pipeline.apk.adb.values import Values
from pipeline.apk.format.gzipstream import RawSource
from pipeline.apk.format.head import DEFAULT_LIMITS
from pipeline.apk.format.hostile import DEFAULT_POLICY, EntryChecker, Policy
from pipeline.apk.format.opened import Package, checksum_of
from pipeline.apk.format.pkginfo import PkgInfo, check_info
from pipeline.apk.format.tarstream import Content, TarEntry, shown
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from pipeline.apk.adb.adbfile import Block
    from pipeline.apk.format.signature import Verifier

_DATA_HEAD = 8
_SHORT = 20


def open_package(stream: BinaryIO, source: RawSource, verifier: Verifier | None) -> Package3:
    """Read and verify the head of the package in `source`, which reads `stream` from its present place."""
    return Package3(stream, source, verifier)


class Package3(Package):
    """A package of format 3, whose metadata has been read."""

    def __init__(self, stream: BinaryIO, source: RawSource, verifier: Verifier | None) -> None:
        head = read_head(source, verifier, PACKAGE, DEFAULT_LIMITS.control)
        self.format = 3
        self.file_name = source.name
        self.signatures = head.signatures
        self.signer = head.signer
        self.size: int | None = None
        self.data_offset = head.container.position
        values = Values(head.metadata, f"{source.name}: metadata")
        self._root = values.root()
        digest = hashlib.sha256(head.metadata).digest()
        self.checksum = checksum_of(digest)
        self.info, own = _info(values, self._root)
        self.identities = frozenset((self.checksum, checksum_of(digest[:_SHORT]), own)) - {""}
        self.scripts = _scripts(values, self._root[fields.PKG_SCRIPTS])
        self._values = values
        self._metadata = head.metadata
        self._stream = stream
        self._source = source
        self._next: tuple[AdbFile, Block | None] | None = (head.container, head.first)
        self._start = -1

    def iter_data(self, policy: Policy = DEFAULT_POLICY) -> Iterator[tuple[TarEntry, Content]]:
        """Yield the entries: each folder, then the files in it. A file's digest is compared while it is read.

        Raises FormatError.
        """
        if self._next is None and self._start >= 0:
            self._rewind()
        if self._next is None:
            raise FormatError(f"{self.file_name}: the data has been read already")
        (container, block), self._next = self._next, None
        where = f"{self.file_name}: data"
        checker = EntryChecker(where, policy)
        for path, file, entry in Files(self._values, self._root[fields.PKG_PATHS]):
            checker.check(entry)
            if entry.kind == "file" and entry.size:
                _check_place(block, container, (path, file), entry, where)
                content = Content(container, entry, where)
                yield entry, content
                content.skip()
                block = container.next()
            else:
                yield entry, Content(io.BytesIO(), entry, where)
        if block is not None:
            raise FormatError(f"{where}: a block of data for no file")
        self.size = self._source.position

    def verify_data(self, policy: Policy = DEFAULT_POLICY) -> int:
        """Read all data without keeping it and return the file's size; a seekable stream can then be read again."""
        for _entry, content in self.iter_data(policy):
            content.skip()
        if self._stream.seekable():
            self._start = self._stream.tell() - (self.size or 0)
        return self.size or 0

    def _rewind(self) -> None:
        """Go back to the start of the data; packed bytes can only be read from the start of the file on. Raises FormatError."""
        self._stream.seek(self._start)
        self._start = -1
        self._source = RawSource(self._stream, self.file_name)
        head = read_head(self._source, None, PACKAGE, DEFAULT_LIMITS.control)
        if head.metadata != self._metadata:
            raise FormatError(f"{self.file_name}: changed while it was read")
        self._next = (head.container, head.first)


def _check_place(block: Block | None, container: AdbFile, place: tuple[int, int], entry: TarEntry, where: str) -> None:
    """Check that a block of data is that of a file: it names the numbers of its folder and of itself."""
    if block is None or block.kind != DATA:
        raise FormatError(f"{where}: {shown(entry.name)}: truncated, its data is missing")
    head = container.take(_DATA_HEAD)
    found = (int.from_bytes(head[:4], "little"), int.from_bytes(head[4:], "little"))
    if found != place or block.size != entry.size + _DATA_HEAD:
        raise FormatError(
            f"{where}: {shown(entry.name)}: data of file {found[1]} in folder {found[0]} with {block.size - _DATA_HEAD} bytes "
            f"in the place of file {place[1]} in folder {place[0]} with {entry.size}"
        )


def _info(values: Values, root: tuple[int, ...]) -> tuple[PkgInfo, str]:
    """Return the package's metadata, and the checksum that it states for itself."""
    found = fields.InfoReader(values).read(root[fields.PKG_INFO], "info")
    own = found.pop("checksum", "")
    if "converted" in found:
        raise FormatError(f"{values.where}: info: holds a value that apk could not convert")
    found["size"] = found.pop("installed_size", 0)
    found.setdefault("arch", "")
    triggers = values.array(root[fields.PKG_TRIGGERS], "triggers")
    found["triggers"] = tuple(values.text(word, "triggers") for word in triggers)
    found["replaces_priority"] = values.number(root[fields.PKG_PRIORITY], "replaces-priority")
    info = PkgInfo(**found)  # type: ignore[arg-type]  # the table of fields gives each its type
    check_info(info, f"{values.where}: info", foreign=True)
    return info, str(own)


def _scripts(values: Values, word: int) -> Mapping[str, bytes]:
    if not word:
        return {}
    slots = values.object(word, "scripts")
    return {name: values.blob(slots[slot], f"scripts: {name}") for name, slot in fields.SCRIPTS.items() if slots[slot]}
