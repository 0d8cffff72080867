# SPDX-License-Identifier: Apache-2.0
"""The signed part of an artifact in the shared cache: its record, byte for byte that of the store.

The record names the key, the document whose digest the key is, and every file with size and SHA-256, so one
signature covers all of it. The trusted comment says what the signature is for: a signature of a release, or of the
record of another key, is refused here. The registry's manifest only says where record and signature are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tower.base.jsontext import parse_json

from pipeline.base.canonical import Digest, JsonValue, canonical_json, digest_bytes
from pipeline.base.errors import VerifyError
from pipeline.store.artifact import DamagedError, FileRecord, is_key, parse_record

if TYPE_CHECKING:
    from tower.image.minisign import PublicKey

    from pipeline.store.cache.oci import Registry
    from pipeline.supply.minisign import SecretKey

RECORD_TYPE: Final = "application/vnd.tower.record.v1+json"
SIGNATURE_TYPE: Final = "application/vnd.tower.signature.v1"
FILE_TYPE: Final = "application/octet-stream"
MOST_RECORD: Final = 32 << 20
MOST_SIGNATURE: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Vouched:
    """The content of a signed record: the expected files, and how long they took to build."""

    outputs: Mapping[str, FileRecord]
    seconds: float
    signer: str


def tag_of(key: Digest, signer: str) -> str:
    """Return the tag of the artifact of `key` as `signer` built it; artifacts of other signers have other tags."""
    return f"{key}-{signer.lower()}"


def comment_of(key: Digest) -> str:
    """Return the trusted comment of a record's signature."""
    return f"tower shared cache\tkey:{key}"


def sign(record: bytes, key: Digest, secret: SecretKey) -> bytes:
    """Sign a record."""
    return secret.sign_bytes(record, comment_of(key))


def manifest_of(record: bytes, signature: bytes, outputs: Mapping[str, FileRecord]) -> bytes:
    """Return the manifest: record, signature, and every content once. Empty files need no blob."""
    blobs = {row.sha256: row.size for row in outputs.values() if row.size}
    layers = [_descriptor(SIGNATURE_TYPE, digest_bytes(signature), len(signature))]
    layers += [_descriptor(FILE_TYPE, digest, size) for digest, size in sorted(blobs.items())]
    return canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor(RECORD_TYPE, digest_bytes(record), len(record)),
            "layers": list[JsonValue](layers),
        }
    )


def _descriptor(kind: str, digest: Digest, size: int) -> dict[str, JsonValue]:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}


def bring(registry: Registry, key: Digest, document: JsonValue, signer: PublicKey) -> Vouched:
    """Fetch the signed record of `key` from the registry. Raises VerifyError unless `signer` signed it."""
    where = tag_of(key, signer.name)
    record_at, signature_at = _places(registry.manifest(where), where)
    signature = registry.small(signature_at, MOST_SIGNATURE)
    record = registry.small(record_at, MOST_RECORD)
    return check(record, signature, key, document, [signer])


def check(record: bytes, signature: bytes, key: Digest, document: JsonValue, trusted: Sequence[PublicKey]) -> Vouched:
    """Return the content of a record, if one of `trusted` signed it for `key`. Raises VerifyError."""
    from tower.image.minisign import SignatureError, parse_signature, verify

    where = f"record of {key[:12]}"
    try:
        read = parse_signature(signature, where)
        signer = verify(io.BytesIO(record), read, trusted, where, plain=True)
    except SignatureError as error:
        raise VerifyError(str(error)) from error
    if read.trusted_comment != comment_of(key):
        raise VerifyError(f"{where}: its signature is for something else: {read.trusted_comment!r}")
    try:
        outputs, seconds, found = parse_record(record, key)
    except DamagedError as error:
        raise VerifyError(f"{where}: {error.message}") from error
    if canonical_json(found) != canonical_json(document):
        raise VerifyError(f"{where}: was made from another document")
    return Vouched(outputs, seconds, signer.name)


def _places(manifest: bytes, where: str) -> tuple[Digest, Digest]:
    """Return the digests of record and signature. Raises VerifyError if the manifest is not one of ours."""
    try:
        data = parse_json(manifest)
        rows = (data["config"], RECORD_TYPE), (data["layers"][0], SIGNATURE_TYPE)
        digests = [str(row["digest"]).removeprefix("sha256:") for row, kind in rows if row["mediaType"] == kind]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise VerifyError(f"{where[:12]}: its manifest is not that of an artifact ({type(error).__name__})") from error
    if len(digests) != len(rows) or not all(is_key(digest) for digest in digests):
        raise VerifyError(f"{where[:12]}: its manifest names no signed record")
    return Digest(digests[0]), Digest(digests[1])
