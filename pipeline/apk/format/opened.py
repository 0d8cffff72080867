# SPDX-License-Identifier: Apache-2.0
"""A package whose metadata has been read: what callers see of it, whatever the format of its file."""

from __future__ import annotations

import binascii

from pipeline.apk.format.hostile import DEFAULT_POLICY
from pipeline.base.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline.apk.format.hostile import Policy
    from pipeline.apk.format.pkginfo import PkgInfo
    from pipeline.apk.format.signature import Signature
    from pipeline.formats.tarstream import Content, TarEntry

CHECKSUMS = {20: "Q1", 32: "Q2"}
"""How texts of checksums begin, by the length of the digest in bytes."""
MAGIC = b"ADB"
"""How files of format 3 begin."""


def checksum_of(digest: bytes) -> str:
    """Return the text of a digest in indexes and the installed database: `Q1` and base64 of a SHA-1, `Q2` of a SHA-256."""
    return CHECKSUMS[len(digest)] + binascii.b2a_base64(digest, newline=False).decode()


def is_checksum(text: str) -> bool:
    """Tell whether a text is a checksum as `checksum_of` writes it."""
    try:
        digest = binascii.a2b_base64(text[2:], strict_mode=True)
    except ValueError:
        return False
    return CHECKSUMS.get(len(digest)) == text[:2] and checksum_of(digest) == text


def installed_form(checksum: str) -> str:
    """Return a checksum as the database of installed packages has it, where a SHA-256 is cut to the length of a SHA-1."""
    return checksum_of(binascii.a2b_base64(checksum[2:])[:20]) if checksum.startswith("Q2") else checksum


class Package:
    """A package whose metadata has been read (and verified, if a verifier was given).

    `format` is 2 or 3. `checksum` is its identity in indexes, `size` the file's size once the data has been read to its
    end, else None. `signer` is the name of the key whose signature was valid, "" without a verifier. The data can be
    read once; `verify_data` rewinds a seekable stream.
    """

    format: int
    file_name: str
    signatures: tuple[Signature, ...]
    signer: str
    checksum: str
    identities: frozenset[str]
    """All checksums by which an index may name it."""
    data_offset: int
    """Where its data begins: in the file (format 2), in the unpacked file (format 3)."""
    size: int | None
    info: PkgInfo
    scripts: Mapping[str, bytes]

    def iter_data(self, policy: Policy = DEFAULT_POLICY) -> Iterator[tuple[TarEntry, Content]]:
        """Yield the entries to be installed, with their content, each checked against `policy`.

        Raises FormatError for damaged or hostile entries, and VerifyError if data does not match what is signed.
        """
        raise NotImplementedError

    def verify_data(self, policy: Policy = DEFAULT_POLICY) -> int:
        """Read all data without keeping it and return the file's size; a seekable stream can then be read again.

        Raises what `iter_data` raises.
        """
        raise NotImplementedError

    def check_identity(self, checksum: str, hint: str) -> None:
        """Raise FormatError unless an index's checksum is this package's."""
        if checksum not in self.identities:
            raise FormatError(f"{self.file_name}: checksum is {self.checksum}, the index says {checksum}", hint=hint)
