# SPDX-License-Identifier: Apache-2.0
"""The index of a repository, of format 2 here, of format 3 (`Packages.adb`) in `pipeline.apk.adb`.

In format 2 it is `APKINDEX.tar.gz`, a signature member and a member with DESCRIPTION and APKINDEX. APKINDEX has a block of
`letter:value` lines for every package; empty lines separate the blocks.
"""

from __future__ import annotations

import io

from pipeline.apk.format.entry import Index, IndexEntry, check_names
from pipeline.apk.format.gzipstream import RawSource
from pipeline.apk.format.head import DEFAULT_LIMITS, read_head
from pipeline.apk.format.hostile import DEFAULT_POLICY
from pipeline.apk.format.opened import MAGIC
from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import NOARCH
from pipeline.apk.format.tarstream import read_tar
from pipeline.apk.format.writer import memory_member, signature_member
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import BinaryIO

    from pipeline.apk.format.hostile import Policy
    from pipeline.apk.format.package import Package
    from pipeline.apk.format.signature import Signer, Verifier

__all__ = [
    "LETTERS", "Index", "IndexEntry", "dump_entry", "dump_index_text", "entry_from", "entry_of", "package_entry",
    "parse_index_text", "read_index", "write_index",
]  # fmt: skip


# The order in which apk writes them.
LETTERS = {
    "C": "checksum", "P": "name", "V": "version", "A": "arch", "S": "size", "I": "installed_size", "T": "description",
    "U": "url", "L": "license", "o": "origin", "m": "maintainer", "t": "builddate", "c": "commit",
    "k": "provider_priority", "D": "depends", "p": "provides", "i": "install_if", "r": "replaces", "q": "replaces_priority",
}  # fmt: skip
_LISTS = frozenset("Dpir")
_NUMBERS = frozenset("SItkq")
_OF_DATABASE = frozenset("FMRZ")
_FOR_PEOPLE = (b"T", b"U", b"L", b"m")
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def entry_from(fields: dict[str, str], where: str) -> IndexEntry:
    """Return the entry for one block's letters. Raises FormatError."""
    values: dict[str, object] = {}
    for letter, value in fields.items():
        name = LETTERS.get(letter)
        if name is None:
            if letter.isupper() and letter not in _OF_DATABASE:
                values["installable"] = False
        elif letter in _LISTS:
            values[name] = tuple(value.split())
        elif letter in _NUMBERS:
            digits = value[1:] if letter in "kq" and value[:1] == "-" else value
            if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
                raise FormatError(f"{where}: {letter}: is not a number: {value!r}")
            values[name] = int(value)
        else:
            values[name] = value
    for letter in "CPV":
        if not fields.get(letter):
            raise FormatError(f"{where}: lacks {letter}: ({LETTERS[letter]})")
    checksum = fields["C"]
    if checksum[:2] != "Q1" or len(checksum) != 30 or not _BASE64.issuperset(checksum):
        raise FormatError(f"{where}: C: is not a checksum Q1...: {checksum!r}")
    return IndexEntry(**values)  # type: ignore[arg-type]  # the table of letters gives each field its type


def dump_entry(entry: IndexEntry, *, installed: bool = False) -> list[str]:
    """Return the lines of one entry, without the empty line after it; `r:` and `q:` are for the installed database only.

    Raises FormatError.
    """
    lines = []
    for letter, name in LETTERS.items():
        value = getattr(entry, name)
        if letter in "rq" and not installed:
            continue
        if isinstance(value, tuple):
            value = " ".join(value)
        if value or letter in "SITUL":
            if letter == "C" and not str(value).startswith("Q1"):
                raise FormatError(
                    f"{entry.file_name}: is of format 3, which this index cannot list", hint="name the index Packages.adb"
                )
            if "\n" in str(value):
                raise FormatError(f"{entry.name}: {name} holds a line break")
            lines.append(f"{letter}:{value}")
    return lines


def parse_index_text(text: str, where: str = "APKINDEX") -> tuple[IndexEntry, ...]:
    """Parse an APKINDEX. Raises FormatError naming line and reason."""
    entries: list[IndexEntry] = []
    fields: dict[str, str] = {}
    seen: dict[tuple[str, str], str] = {}
    lines = text.split("\n")
    if lines.pop():
        raise FormatError(f"{where}: truncated in its last line")
    for number, line in enumerate(lines, 1):
        if line:
            if line[1:2] != ":":
                raise FormatError(f"{where}:{number}: not 'letter:value': {line[:80]!r}")
            if line[0] in fields:
                raise FormatError(f"{where}:{number}: field {line[0]}: occurs twice")
            fields[line[0]] = line[2:]
        elif fields:
            start = f"{where}:{number - len(fields)}"
            entry = entry_from(fields, start)
            check_names(entry, start, ("P", "V", "A"))
            known = seen.setdefault((entry.name, entry.version), entry.checksum)
            if known != entry.checksum:
                raise FormatError(f"{where}:{number}: {entry.name}-{entry.version} occurs twice, as two packages")
            if len(seen) > len(entries):
                entries.append(entry)
            fields = {}
    if fields:
        raise FormatError(f"{where}: truncated, the last block does not end with an empty line")
    return tuple(entries)


def _decoded(data: bytes, where: str) -> str:
    """Decode an index; fields that are only for people may have another encoding. Raises FormatError."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        lines = data.split(b"\n")
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.decode())
        except UnicodeDecodeError:
            if line[:1] not in _FOR_PEOPLE:
                raise FormatError(f"{where}:{number}: not UTF-8: {line[:80]!r}") from None
            texts.append(line.decode("cp1252", "replace"))
    return "\n".join(texts)


def read_index(stream: BinaryIO, verifier: Verifier | None, *, name: str = "") -> Index:
    """Read, verify and parse an index of either format; without a verifier, signatures are listed but not verified.

    Raises FormatError.
    """
    source = RawSource(stream, name or str(getattr(stream, "name", "index")))
    if source.begins_with(MAGIC):
        from pipeline.apk.adb.index import read_packages

        return read_packages(source, verifier)
    head = read_head(source, verifier, "index", DEFAULT_LIMITS.index_raw, DEFAULT_LIMITS.index)
    if not source.at_end():
        raise FormatError(f"{source.name}: bytes after the index (trailing garbage, or too many members)")
    files: dict[str, str] = {}
    made = 0
    for entry, content in read_tar(io.BytesIO(head.plain), source.name):
        if entry.name in files or entry.kind != "file":
            raise FormatError(f"{source.name}: {entry.name!r} ({entry.kind}) occurs twice, or is not a file")
        made = max(made, entry.mtime)
        files[entry.name] = _decoded(content.read(), f"{source.name}: {entry.name}")
    if "APKINDEX" not in files:
        raise FormatError(f"{source.name}: no APKINDEX in it")
    entries = parse_index_text(files["APKINDEX"], f"{source.name}: APKINDEX")
    # Both times are signed; a replay cannot undo the later one.
    made = max([made, *(entry.builddate for entry in entries)])
    return Index(files.get("DESCRIPTION", "").strip("\n"), entries, head.signatures, head.signer, made)


def dump_index_text(entries: Iterable[IndexEntry]) -> str:
    """Return the APKINDEX of `entries`, sorted by name and the text of the version."""
    ordered = sorted(entries, key=lambda entry: (entry.name, entry.version, entry.checksum))
    return "".join("\n".join(dump_entry(entry)) + "\n\n" for entry in ordered)


def write_index(out: BinaryIO, description: str, entries: Iterable[IndexEntry], signer: Signer | None, epoch: int) -> None:
    """Write an `APKINDEX.tar.gz`; equal entries give equal bytes, in any order."""
    files = {"DESCRIPTION": f"{description}\n".encode(), "APKINDEX": dump_index_text(entries).encode()}
    member = memory_member(files, epoch, end=True)
    if signer is not None:
        out.write(signature_member(member, signer, epoch))
    out.write(member)


def package_entry(package: Package, size: int, *, arch: str = "") -> IndexEntry:
    """Return the index entry of a package whose file has `size` bytes.

    `arch` is the repository's: apk looks for a package in the folder of the architecture in the index,
    so a package for every architecture (`noarch`) must be listed with it to be found. Raises FormatError.
    """
    info = package.info
    if arch and info.arch not in (arch, NOARCH):
        raise FormatError(f"{package.file_name}: is for {info.arch}, the repository for {arch}")
    values = {name: getattr(info, name) for name in type(info).__slots__ if name in IndexEntry.__slots__}
    values |= {"checksum": package.checksum, "size": size, "installed_size": info.size, "arch": arch or info.arch}
    return IndexEntry(**values)


def entry_of(path: Path, verifier: Verifier | None = None, *, arch: str = "", policy: Policy = DEFAULT_POLICY) -> IndexEntry:
    """Return the index entry of a package file, after reading and verifying all of it; for `arch` see `package_entry`."""
    with path.open("rb") as stream:
        package = read_package(stream, verifier, name=path.name)
        return package_entry(package, package.verify_data(policy), arch=arch)
