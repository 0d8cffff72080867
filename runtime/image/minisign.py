# SPDX-License-Identifier: Apache-2.0
"""Public keys and signatures in minisign's format: reading and verifying them.

A signature file has four lines: an untrusted comment, the signature, a trusted comment, and a second signature over
the first one and the trusted comment. The signature is Ed25519 over the file (`Ed`) or over its BLAKE2b digest (`ED`).
No key covers the untrusted comment; so signatures of releases always have `COMMENT` there, and verifying them
requires that.

Uses only the standard library and `cryptography`; the image factory makes the signatures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from tower.base.errors import ImageProblemError
from tower.base.refused import refused
from tower.base.regular import open_regular

COMMENT: Final = "signature from minisign secret key"
SUFFIX: Final = ".minisig"
ALGORITHM: Final = b"Ed"
PREHASHED: Final = b"ED"
_UNTRUSTED: Final = "untrusted comment: "
_TRUSTED: Final = "trusted comment: "
_MOST: Final = 16 << 10
"""The most bytes of a key or signature file; a trusted comment may have 8 KiB."""
_LEGACY_MOST: Final = 1 << 30
_CHUNK: Final = 1 << 20


class SignatureError(ImageProblemError):
    """A key or signature is malformed, or does not verify: what, on which file, expected and got."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures."""

    key_id: bytes
    key: bytes

    @property
    def name(self) -> str:
        """Return the key's number as minisign shows it."""
        return f"{int.from_bytes(self.key_id, 'little'):X}"  # without leading zeros, as minisign prints it

    @property
    def text(self) -> str:
        """Return the line that `minisign -P` takes."""
        return base64.b64encode(ALGORITHM + self.key_id + self.key).decode()

    def dump(self) -> bytes:
        """Return the key file."""
        return f"{_UNTRUSTED}minisign public key {self.name}\n{self.text}\n".encode()


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature file."""

    algorithm: bytes
    key_id: bytes
    signature: bytes
    trusted_comment: str
    comment_signature: bytes
    untrusted_comment: str = COMMENT

    @property
    def signer(self) -> str:
        """Return the number of the key that the signature claims."""
        return f"{int.from_bytes(self.key_id, 'little'):X}"  # without leading zeros, as minisign prints it

    def dump(self) -> bytes:
        """Return the signature file."""
        first = base64.b64encode(self.algorithm + self.key_id + self.signature).decode()
        last = base64.b64encode(self.comment_signature).decode()
        return f"{_UNTRUSTED}{self.untrusted_comment}\n{first}\n{_TRUSTED}{self.trusted_comment}\n{last}\n".encode()


# --- reading --------------------------------------------------------------------------------------------------


def parse_public_key(data: bytes, where: str) -> PublicKey:
    """Parse a key file, or the line of its key alone. Raises SignatureError naming `where`.

    As in minisign, the key is the second line, up to a carriage return; the comment before it, and all that follows,
    may be anything.
    """
    lines = data.split(b"\n")
    text = lines[1] if len(lines) > 1 and lines[1].strip() else lines[0]
    text = re.split(b"[\r\0]", text, maxsplit=1)[0]
    raw = _decode(text.decode("ascii", errors="replace"), 42, where, "the public key")
    if raw[:2] != ALGORITHM:
        raise SignatureError(f"{where}: key algorithm {raw[:2]!r}, expected {ALGORITHM!r}")
    return PublicKey(raw[2:10], raw[10:])


def parse_signature(data: bytes, where: str) -> Signature:
    """Parse a signature file, which must be exactly as minisign writes it. Raises SignatureError naming `where`."""
    lines = _lines(data, where, "a minisign signature")
    if len(lines) != 4 or not data.endswith(b"\n"):
        raise SignatureError(f"{where}: {len(lines)} lines, but a minisign signature has four, each with a newline")
    for number, start in ((0, _UNTRUSTED), (2, _TRUSTED)):
        if not lines[number].startswith(start):
            raise SignatureError(f"{where}: line {number + 1} does not begin with {start.strip()!r}")
    raw = _decode(lines[1], 74, where, "the signature")
    if raw[:2] not in (ALGORITHM, PREHASHED):
        raise SignatureError(f"{where}: signature algorithm {raw[:2]!r}, expected {ALGORITHM!r} or {PREHASHED!r}")
    return Signature(
        algorithm=raw[:2],
        key_id=raw[2:10],
        signature=raw[10:],
        trusted_comment=lines[2].removeprefix(_TRUSTED),
        comment_signature=_decode(lines[3], 64, where, "the signature of the trusted comment"),
        untrusted_comment=lines[0].removeprefix(_UNTRUSTED),
    )


def read_public_key(path: Path) -> PublicKey:
    """Read the key of a file. Raises SignatureError naming the file."""
    # As in minisign, which reads two lines and ignores the rest.
    return parse_public_key(_head(path), str(path))


def read_small(path: Path) -> bytes:
    """Read a key or signature file. Raises SignatureError if it cannot be read, or is far too large."""
    data = _head(path)
    if len(data) > _MOST:
        raise SignatureError(f"{path}: more than {_MOST} bytes, too many for a key or signature")
    return data


def _head(path: Path) -> bytes:
    """Read the first bytes of a regular file, one more than it may have. Raises SignatureError."""
    try:
        with open_regular(path) as stream:
            return stream.read(_MOST + 1)
    except OSError as error:
        raise refused(error, path, kind=SignatureError) from error


def _lines(data: bytes, where: str, what: str) -> list[str]:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise SignatureError(f"{where}: is not {what}: not UTF-8") from error
    lines = text.removesuffix("\n").split("\n")
    if any((ord(char) < 32 and char != "\t") or ord(char) == 127 for line in lines for char in line):
        raise SignatureError(f"{where}: is not {what}: it has control characters")
    return lines


def _decode(text: str, size: int, where: str, what: str) -> bytes:
    """Decode base64 in its canonical form: other spellings of the same bytes are refused."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError(f"{where}: {what} is not base64: {error}") from error
    if base64.b64encode(raw).decode() != text:
        raise SignatureError(f"{where}: {what} is not base64 in its usual form")
    if len(raw) != size:
        raise SignatureError(f"{where}: {what} has {len(raw)} bytes, expected {size}")
    return raw


# --- checking -------------------------------------------------------------------------------------------------


def verify(stream: BinaryIO, signature: Signature, keys: Iterable[PublicKey], where: str, *, plain: bool = False) -> PublicKey:
    """Return the key, one of `keys`, that signed the content of the stream.

    With `plain` the untrusted comment must be `COMMENT`, so that not one bit of the signature file can change.
    Raises SignatureError naming `where`.
    """
    known = tuple(keys)
    # The maker of a key chooses its number, so several keys may have the same one.
    named = [key for key in known if key.key_id == signature.key_id]
    if not named:
        trusted = ", ".join(sorted(key.name for key in known)) or "none"
        raise SignatureError(f"{where}: signed by key {signature.signer}, which is not trusted (trusted: {trusted})")
    if plain and signature.untrusted_comment != COMMENT:
        raise SignatureError(f"{where}: untrusted comment {signature.untrusted_comment!r}, expected {COMMENT!r}")
    signed = prehash(stream) if signature.algorithm == PREHASHED else _whole(stream, where)
    key = next((key for key in named if _holds(key, signature.signature, signed)), None)
    if key is None:
        raise SignatureError(f"{where}: is not what key {signature.signer} signed")
    if not _holds(key, signature.comment_signature, signature.signature + signature.trusted_comment.encode()):
        raise SignatureError(f"{where}: the trusted comment is not what key {key.name} signed")
    return key


def verify_file(path: Path, keys: Iterable[PublicKey], *, signature: Path | None = None, plain: bool = True) -> Signature:
    """Verify a file against the signature beside it, or `signature`; return the signature. Raises SignatureError."""
    return signer_of(path, keys, signature=signature, plain=plain)[1]


def signer_of(
    path: Path, keys: Iterable[PublicKey], *, signature: Path | None = None, plain: bool = True
) -> tuple[PublicKey, Signature]:
    """Verify a file as `verify_file` does; return the key and the signature. Raises SignatureError."""
    beside = signature or path.with_name(path.name + SUFFIX)
    found = parse_signature(read_small(beside), str(beside))
    try:
        with open_regular(path) as stream:
            return verify(stream, found, keys, str(path), plain=plain), found
    except OSError as error:
        raise refused(error, path, kind=SignatureError) from error


def prehash(stream: BinaryIO) -> bytes:
    """Return the digest that a prehashed signature signs."""
    digest = hashlib.blake2b()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _whole(stream: BinaryIO, where: str) -> bytes:
    data = stream.read(_LEGACY_MOST + 1)
    if len(data) > _LEGACY_MOST:
        raise SignatureError(f"{where}: too large for a signature that is not prehashed")
    return data


def _holds(key: PublicKey, signature: bytes, data: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
