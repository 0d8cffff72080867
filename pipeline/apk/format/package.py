# SPDX-License-Identifier: Apache-2.0
"""Read a package, of format 2 here, of format 3 in `pipeline.apk.adb`; both give an `opened.Package`.

In format 2, signature, control and data are three gzip members of one file, in this order.

The signature is over the raw control member; the control's `datahash` is over the raw data member. So control is
verified before a byte of it is interpreted, and data while it is read: files that `iter_data` has yielded may be
trusted only when it has ended without an error (write to temporary names, or call `verify_data` first).
"""

from __future__ import annotations

import hashlib
import io

from pipeline.apk.format import pkginfo
from pipeline.apk.format.gzipstream import GzipMember, RawSource
from pipeline.apk.format.head import DEFAULT_LIMITS, SignedHead, read_head
from pipeline.apk.format.hostile import DEFAULT_POLICY, EntryChecker, Policy
from pipeline.apk.format.opened import MAGIC, Package, checksum_of
from pipeline.apk.format.pkginfo import SCRIPTS
from pipeline.apk.format.signature import PREFIX
from pipeline.apk.format.tarstream import Content, TarEntry, read_tar
from pipeline.apk.format.writer import Source, signature_member, tree_entries, write_package
from pipeline.base.errors import FormatError, VerifyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    from pipeline.apk.format.pkginfo import PkgInfo
    from pipeline.apk.format.signature import Signer, Verifier

__all__ = [
    "SCRIPTS", "Content", "Package", "Policy", "Source", "TarEntry", "checksum_of",
    "read_package", "sign_package", "tree_entries", "write_package",
]  # fmt: skip

_CHUNK = 1 << 18
_ENTRY_OVERHEAD = 4096  # headers and padding


class Package2(Package):
    """A package of format 2, whose control has been read."""

    def __init__(self, stream: BinaryIO, source: RawSource, head: SignedHead) -> None:
        self.format = 2
        self.file_name = source.name
        self.signatures = head.signatures
        self.signer = head.signer
        self.checksum = checksum_of(hashlib.sha1(head.raw, usedforsecurity=False).digest())
        self.identities = frozenset((self.checksum, checksum_of(hashlib.sha256(head.raw).digest())))
        self.data_offset = source.position
        self.size: int | None = None
        self.info, self.scripts = _control(head.plain, f"{source.name}: control")
        self._stream = stream
        self._source: RawSource | None = source

    def iter_data(self, policy: Policy = DEFAULT_POLICY) -> Iterator[tuple[TarEntry, Content]]:
        """Yield the entries; at the end raise VerifyError if the data does not match the control.

        As in apk, hidden names at the top (`.dummy`) are skipped.
        """
        return self._entries(policy, trusted=False)

    def _entries(self, policy: Policy, *, trusted: bool) -> Iterator[tuple[TarEntry, Content]]:
        """Do the work of `iter_data`; `trusted` says that the data has been hashed already and matches the control."""
        source, self._source = self._source, None
        if source is None:
            raise FormatError(f"{self.file_name}: the data has been read already")
        if source.at_end():
            raise FormatError(f"{self.file_name}: ends after control, data is missing")
        digest = hashlib.sha256()
        bound = policy.max_total + _ENTRY_OVERHEAD * policy.max_entries
        hashes = () if trusted else (digest,)
        member = GzipMember(source, "data", max_raw=bound, max_plain=bound, hashes=hashes, trusted=trusted)
        checker = EntryChecker(member.where, policy)
        for entry, content in read_tar(member, member.where):
            checker.check(entry)
            if entry.name[0] == ".":
                if entry.name in (".PKGINFO", *SCRIPTS) or entry.name.startswith(PREFIX):
                    raise FormatError(f"{member.where}: {entry.name} belongs in the control member")
            else:
                yield entry, content
        if not source.at_end():
            raise FormatError(f"{self.file_name}: bytes after the data member (trailing garbage, or too many members)")
        if not trusted and digest.hexdigest() != self.info.datahash:
            raise VerifyError(
                f"{self.file_name}: data: sha256 is {digest.hexdigest()}, the signed control says {self.info.datahash}"
            )
        self.size = source.position

    def verify_data(self, policy: Policy = DEFAULT_POLICY) -> int:
        """Read all data; that of a seekable stream is hashed before it is unpacked; if it differs, reading it shows how."""
        seekable = self._stream.seekable()
        trusted = self._source is not None and seekable and self._data_holds(self._source)
        for _entry, content in self._entries(policy, trusted=trusted):
            content.skip()
        if seekable:
            self._rewind(self.size or 0)
        return self.size or 0

    def _data_holds(self, source: RawSource) -> bool:
        """Tell whether the rest of `source` (seekable) matches the control; it has to be read again afterwards."""
        digest = hashlib.sha256()
        while data := source.take():
            digest.update(data)
        self._rewind(source.position)
        return digest.hexdigest() == self.info.datahash

    def _rewind(self, position: int) -> None:
        """Go back to the start of the data from `position`, both counted from the start of the package."""
        self._stream.seek(self.data_offset - position, io.SEEK_CUR)
        self._source = RawSource(self._stream, self.file_name)
        self._source.position = self.data_offset


def _control(plain: bytes, where: str) -> tuple[PkgInfo, Mapping[str, bytes]]:
    info: PkgInfo | None = None
    seen: set[str] = set()
    scripts: dict[str, bytes] = {}
    for entry, content in read_tar(io.BytesIO(plain), where):
        name = entry.name
        if entry.kind != "file" or not name.startswith(".") or "/" in name or name.startswith(PREFIX):
            raise FormatError(f"{where}: {name!r} ({entry.kind}) does not belong in the control member")
        if name in seen:
            raise FormatError(f"{where}: {name} occurs twice")
        seen.add(name)
        if name == ".PKGINFO":
            info = pkginfo.parse(content.read(), f"{where}: .PKGINFO")
        elif name in SCRIPTS:
            scripts[name] = content.read()
    if info is None:
        raise FormatError(f"{where}: no .PKGINFO in it")
    if not info.datahash:
        raise FormatError(f"{where}: .PKGINFO has no datahash, so the data could not be verified")
    return info, scripts


def read_package(stream: BinaryIO, verifier: Verifier | None, *, name: str = "") -> Package:
    """Read and verify the head of a package; its data stays in `stream` for `iter_data` or `verify_data`.

    Without a verifier, signatures are listed but not verified. `name` is for messages (default: the stream's own).
    """
    source = RawSource(stream, name or str(getattr(stream, "name", "package")))
    if source.begins_with(MAGIC):
        from pipeline.apk.adb.package import open_package

        return open_package(stream, source, verifier)
    head = read_head(source, verifier, "control", DEFAULT_LIMITS.control_raw, DEFAULT_LIMITS.control)
    return Package2(stream, source, head)


def sign_package(stream: BinaryIO, out: BinaryIO, signer: Signer, *, name: str = "", policy: Policy = DEFAULT_POLICY) -> None:
    """Copy the package in `stream` (seekable) to `out` with a new signature; an old one is dropped.

    The data is verified before anything is written. Raises FormatError.
    """
    source = RawSource(stream, name or str(getattr(stream, "name", "package")))
    if source.begins_with(MAGIC):
        raise FormatError(f"{source.name}: is of format 3; only packages of format 2 are signed here", hint="use: apk adbsign")
    head = read_head(source, None, "control", DEFAULT_LIMITS.control_raw, DEFAULT_LIMITS.control)
    package = Package2(stream, source, head)
    if not stream.seekable():
        raise FormatError(f"{source.name}: only a file that can be read twice can be signed")
    package.verify_data(policy)
    out.write(signature_member(head.raw, signer, package.info.builddate))
    out.write(head.raw)
    while data := stream.read(_CHUNK):
        out.write(data)
