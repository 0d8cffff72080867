# SPDX-License-Identifier: Apache-2.0
"""The head of a signed file, package or index: the signatures, and the member that they sign.

Bytes are verified before they are interpreted: before that, only the end of the gzip members is found.
"""

from __future__ import annotations

import io
import operator
import zlib

from pipeline.apk.format.gzipstream import GzipMember
from pipeline.apk.format.signature import PREFIX, Signature, check_signatures, signature_from
from pipeline.apk.format.tarstream import read_tar
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.format.gzipstream import RawSource
    from pipeline.apk.format.signature import Verifier

_MAX_SIGNATURES = 16
_GZIP_LEVELS = (0, 2, 4)
_GZIP_SYSTEMS = (3, 255)
_STORED = 10 + 5 + 8  # header, one piece's head, trailer
_STORED_LEVEL = 4


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds in bytes for the parts of a package or an index that are held in memory."""

    signature: int = 1 << 18
    control_raw: int = 4 << 20
    control: int = 16 << 20
    index_raw: int = 64 << 20
    index: int = 256 << 20


DEFAULT_LIMITS = ReadLimits()


@dataclass(frozen=True, slots=True)
class SignedHead:
    """The first members of a signed file: its signatures, and the raw and unpacked bytes of the signed member.

    `signer` is the key whose signature was valid; "" if none was asked for.
    """

    signatures: tuple[Signature, ...]
    signer: str
    raw: bytes
    plain: bytes


def read_head(source: RawSource, verifier: Verifier | None, what: str, max_raw: int, max_plain: int) -> SignedHead:
    """Read an optional signature member and the member after it, and verify the second with the first.

    `what` is the second member's name in messages. With a verifier, an unsigned file is refused. Raises FormatError.
    """
    member = GzipMember(source, what, max_raw=max_raw, max_plain=max_plain, keep=True)
    plain = member.read_all()
    signatures: tuple[Signature, ...] = ()
    if plain.startswith(PREFIX.encode()):
        if len(plain) > DEFAULT_LIMITS.signature:
            raise FormatError(f"{source.name}: signature of {len(plain)} bytes, {DEFAULT_LIMITS.signature} are allowed")
        _check_gzip(bytes(member.raw), plain, f"{source.name}: signature")
        signatures = _signatures(plain, f"{source.name}: signature")
        if source.at_end():
            raise FormatError(f"{source.name}: ends after the signature, {what} is missing")
        member = GzipMember(source, what, max_raw=max_raw, max_plain=max_plain, keep=True)
        plain = member.read_all()
    raw = bytes(member.raw)
    signer = "" if verifier is None else check_signatures(signatures, verifier, raw, source.name)
    if plain.startswith(PREFIX.encode()):
        raise FormatError(f"{source.name}: more than one signature member")
    return SignedHead(signatures, signer, raw, plain)


def _check_gzip(raw: bytes, plain: bytes, where: str) -> None:
    """Check the signature member, which nothing signs: it must be what gzip -n writes."""
    if raw[3:8] != bytes(5) or raw[8] not in _GZIP_LEVELS or raw[9] not in _GZIP_SYSTEMS:
        raise FormatError(f"{where}: gzip header with a name, a time or unknown flags: {raw[:10].hex()}")
    if not raw[10] & 6:
        # Stored blocks have meaningless bits at their beginning.
        damaged = raw[10] != 1 or raw[8] != _STORED_LEVEL or len(raw) != len(plain) + _STORED
    else:
        # So do packed ones at their end, and equivalent forms exist; there is no single canonical form.
        # But gzip and zlib pack alike, and no program writes other bytes than they do.
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        usual = packer.compress(plain) + packer.flush()
        usual = usual[:9] + raw[9:10] + usual[10:]
        damaged = len(raw) == len(usual) and sum(map(operator.ne, raw, usual)) == 1
    if damaged:
        raise FormatError(f"{where}: damaged gzip member: not as gzip writes it")


def _signatures(plain: bytes, where: str) -> tuple[Signature, ...]:
    found: dict[str, Signature] = {}
    for entry, content in read_tar(io.BytesIO(plain), where):
        if entry.kind != "file" or not entry.name.startswith(PREFIX):
            raise FormatError(f"{where}: {entry.name!r} does not belong in the signature member")
        if entry.name in found:
            raise FormatError(f"{where}: {entry.name} occurs twice")
        if len(found) >= _MAX_SIGNATURES:
            raise FormatError(f"{where}: too many signatures, {_MAX_SIGNATURES} are allowed")
        found[entry.name] = signature_from(entry.name, content.read())
    return tuple(found.values())
