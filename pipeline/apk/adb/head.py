# SPDX-License-Identifier: Apache-2.0
"""The head of a file of format 3: its metadata and signatures, verified before they are interpreted."""

from __future__ import annotations

from pipeline.apk.adb import signing
from pipeline.apk.adb.container import DATA, SIG, Container
from pipeline.apk.adb.packing import Unpacked
from pipeline.base.errors import FormatError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.adb.container import Block
    from pipeline.apk.format.gzipstream import RawSource
    from pipeline.apk.format.signature import Signature, Verifier


@dataclass(frozen=True, slots=True)
class Head:
    """The metadata block, who signed it, and the first block of data, which has not been read (None: there is no data)."""

    metadata: bytes
    signatures: tuple[Signature, ...]
    signer: str
    container: Container
    first: Block | None


def read_head(source: RawSource, verifier: Verifier | None, schema: bytes, most: int) -> Head:
    """Read the head of a file of a schema, whose metadata may have `most` bytes. With a verifier, an unsigned one is refused."""
    container = Container(Unpacked(source))
    container.expect(schema)
    block = container.next()
    if block is None:
        raise FormatError(f"{source.name}: truncated, it has no metadata")
    metadata = container.whole(most)
    signatures: list[signing.RawSignature] = []
    while (block := container.next()) is not None and block.kind == SIG:
        if len(signatures) >= signing.MOST_SIGNATURES:
            raise FormatError(f"{source.name}: too many signatures, {signing.MOST_SIGNATURES} are allowed")
        found = signing.parse(container.whole(signing.MOST_BYTES), source.name)
        if any(found.head == other.head for other in signatures):
            raise FormatError(f"{source.name}: two signatures by the same key, {found.key_id.hex()}")
        signatures.append(found)
    if block is not None and block.kind != DATA:
        raise FormatError(f"{source.name}: block of type {block.kind} after the metadata")
    signer = signing.check(signatures, verifier, container.schema, metadata, source.name) if verifier else ""
    return Head(metadata, signing.named(signatures, verifier), signer, container, block)
