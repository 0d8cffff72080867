# SPDX-License-Identifier: Apache-2.0
"""Signatures of format 3: over the schema, the signature's own head and a digest of the metadata block.

They name their key by a part of its digest. A trusted key's signature that does not hold is damage, even beside a good one.
"""

from __future__ import annotations

import hashlib

from pipeline.apk.format.keyfile import KEY_ID
from pipeline.apk.format.signature import Signature
from pipeline.base.errors import FormatError, VerifyError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.apk.format.signature import Signer, Verifier

MOST_SIGNATURES = 16
MOST_BYTES = 1 << 12
"""The most bytes of one signature; apk writes at most 2048."""
SHA512 = 4
_DIGESTS = {3: ("sha256", 32), SHA512: ("sha512", 64), 5: ("sha256", 20)}
"""The digests of the metadata that a signature may be over, by apk's numbers; apk itself writes the second."""
_VERSION = 0
_HEAD = 2 + KEY_ID


@dataclass(frozen=True, slots=True)
class RawSignature:
    """A signature block: `head` is its version, its digest's number and the key's identifier."""

    head: bytes
    value: bytes

    @property
    def key_id(self) -> bytes:
        """The identifier of the key that made it."""
        return self.head[2:]

    def signed(self, schema: bytes, metadata: bytes) -> bytes | None:
        """Return what the signature is over; None if its version or digest is unknown."""
        if self.head[0] != _VERSION or self.head[1] not in _DIGESTS:
            return None
        name, size = _DIGESTS[self.head[1]]
        return schema + self.head + hashlib.new(name, metadata).digest()[:size]


def parse(block: bytes, where: str) -> RawSignature:
    """Return the signature in a block. Raises FormatError."""
    if len(block) <= _HEAD:
        raise FormatError(f"{where}: signature of {len(block)} bytes, its head alone has {_HEAD}")
    return RawSignature(block[:_HEAD], block[_HEAD:])


def named(signatures: Sequence[RawSignature], verifier: Verifier | None) -> tuple[Signature, ...]:
    """Return signatures as readers show them: with the name of a trusted key, or the identifier of another one."""
    return tuple(
        Signature((verifier.name_of(item.key_id) if verifier else "") or item.key_id.hex(), "RSA512", item.value)
        for item in signatures
    )


def check(signatures: Sequence[RawSignature], verifier: Verifier, schema: bytes, metadata: bytes, where: str) -> str:
    """Return the name of the first key whose signature over the metadata holds. Raises VerifyError if there is none."""
    if not signatures:
        raise VerifyError(f"{where}: not signed", hint="sign it with: apk adbsign --sign-key KEY FILE")
    signer = ""
    for item in signatures:
        name, data = verifier.name_of(item.key_id), item.signed(schema, metadata)
        if not name or data is None:
            continue
        if not verifier.verify(name, "RSA512", item.value, data):
            raise VerifyError(f"{where}: the signature by {name} does not hold: the file was changed, or its signature was")
        signer = signer or name
    if not signer:
        listed = ", ".join(item.key_id.hex() for item in signatures)
        raise VerifyError(f"{where}: no valid signature by a trusted key; signed by {listed}")
    return signer


def make(signer: Signer, schema: bytes, metadata: bytes) -> bytes:
    """Return the content of a signature block."""
    head = bytes((_VERSION, SHA512)) + signer.key_id
    return head + signer.sign(schema + head + hashlib.sha512(metadata).digest(), "RSA512")
