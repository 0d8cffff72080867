# SPDX-License-Identifier: Apache-2.0
"""The head of a file of format 3: its metadata and signatures, verified before they are interpreted."""

from __future__ import annotations

from pipeline.apk.adb import block_signature
from pipeline.apk.adb.adbfile import DATA, SIG, AdbFile
from pipeline.apk.adb.packing import AdbStream
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.adb.adbfile import Block
    from pipeline.apk.format.gzipstream import RawSource
    from pipeline.apk.format.signature import Signature, Verifier


@dataclass(frozen=True, slots=True)
class AdbHead:
    """The metadata block, who signed it, and the first block of data, which has not been read (None: there is no data)."""

    metadata: bytes
    signatures: tuple[Signature, ...]
    signer: str
    container: AdbFile
    first: Block | None


def read_head(source: RawSource, verifier: Verifier | None, schema: bytes, most: int) -> AdbHead:
    """Read the head of a file of a schema, whose metadata may have `most` bytes. With a verifier, an unsigned one is refused.

    Raises FormatError.
    """
    container = AdbFile(AdbStream(source))
    container.expect(schema)
    block = container.next()
    if block is None:
        raise FormatError(f"{source.name}: truncated, it has no metadata")
    metadata = container.whole(most)
    signatures: list[block_signature.RawSignature] = []
    while (block := container.next()) is not None and block.kind == SIG:
        if len(signatures) >= block_signature.MOST_SIGNATURES:
            raise FormatError(f"{source.name}: too many signatures, {block_signature.MOST_SIGNATURES} are allowed")
        found = block_signature.parse(container.whole(block_signature.MOST_BYTES), source.name)
        if any(found.head == other.head for other in signatures):
            raise FormatError(f"{source.name}: two signatures by the same key, {found.key_id.hex()}")
        signatures.append(found)
    if block is not None and block.kind != DATA:
        raise FormatError(f"{source.name}: block of type {block.kind} after the metadata")
    signer = block_signature.check(signatures, verifier, container.schema, metadata, source.name) if verifier else ""
    return AdbHead(metadata, block_signature.named(signatures, verifier), signer, container, block)
