# SPDX-License-Identifier: Apache-2.0
"""The index of a repository in format 3: `Packages.adb`."""

from __future__ import annotations

from pipeline.apk.adb.adbfile import INDEX
from pipeline.apk.adb.fields import NDX_DESCRIPTION, NDX_PACKAGES, NDX_SPEC, InfoReader
from pipeline.apk.adb.head import read_head
from pipeline.apk.adb.values import Values
from pipeline.apk.format.entry import Index, IndexEntry, check_names
from pipeline.apk.format.head import DEFAULT_LIMITS
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.format.gzipstream import RawSource
    from pipeline.apk.format.signature import Verifier

_USUAL_NAMES = ("", "${name}-${version}.apk", "${arch}/${name}-${version}.apk")
"""How a repository may name its files: as apk does if nothing is said."""


def read_packages(source: RawSource, verifier: Verifier | None) -> Index:
    """Read and verify an index.

    The format does not say when an index was made; the latest build of its packages stands for it. Raises FormatError.
    """
    head = read_head(source, verifier, INDEX, DEFAULT_LIMITS.index)
    if head.first is not None:
        raise FormatError(f"{source.name}: an index with a data block")
    values = Values(head.metadata, source.name)
    root = values.root()
    spec = values.text(root[NDX_SPEC], "pkgname-spec")
    if spec not in _USUAL_NAMES:
        raise FormatError(
            f"{source.name}: its packages' files are named {spec!r}; only name-version.apk is read here",
            hint="make the index without --pkgname-spec",
        )
    reader = InfoReader(values)
    entries: dict[tuple[str, str], IndexEntry] = {}
    for number, word in enumerate(values.array(root[NDX_PACKAGES], "packages"), 1):
        entry = _entry(reader, word, f"packages[{number}]")
        if entries.setdefault((entry.name, entry.version), entry).checksum != entry.checksum:
            raise FormatError(f"{source.name}: {entry.name}-{entry.version} occurs twice, as two packages")
    made = max([entry.builddate for entry in entries.values()], default=0)
    description = values.text(root[NDX_DESCRIPTION], "description", foreign=True)
    return Index(description, tuple(entries.values()), head.signatures, head.signer, made)


def _entry(reader: InfoReader, word: int, what: str) -> IndexEntry:
    found = reader.read(word, what)
    where = reader.values.where
    if "checksum" not in found:
        raise FormatError(f"{where}: {what}: {found['name']} lacks its hashes")
    converted = found.pop("converted", True)
    entry = IndexEntry(**found)  # type: ignore[arg-type]  # the table of fields gives each its type
    # To apk, a package whose version could not be converted has an empty one. It can be chosen, but its file is not found.
    checked = entry if entry.version or converted else IndexEntry(entry.checksum, entry.name, "0", entry.arch)
    check_names(checked, f"{where}: {what}", ("name", "version", "arch"))
    return entry
