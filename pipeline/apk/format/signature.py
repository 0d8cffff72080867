# SPDX-License-Identifier: Apache-2.0
"""RSA signatures of packages and indexes: keys, signing, verifying.

Readers use a `Verifier`; `KeyRing` is the factory's. Only code that signs, or makes keys, imports `cryptography`.
"""

from __future__ import annotations

import hashlib
import os

from pipeline.base.errors import FormatError, VerifyError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Literal, Protocol

    Algorithm = Literal["RSA", "RSA256", "RSA512"]
else:
    Protocol, Algorithm = object, str  # `typing` is slow to import

# The format defines `.SIGN.RSA.` as SHA-1; it is not our choice.
_HASHES: dict[Algorithm, str] = {"RSA": "sha1", "RSA256": "sha256", "RSA512": "sha512"}
ALGORITHMS: tuple[Algorithm, ...] = tuple(_HASHES)
PREFIX = ".SIGN."
MAX_KEY_FILE = 1 << 16


class Verifier(Protocol):
    """Decides whether a signature is valid; for an unknown key it is not."""

    def verify(self, key_name: str, algorithm: Algorithm, signature: bytes, data: bytes) -> bool:
        """Tell whether the trusted key file `key_name` made `signature` over `data`."""

    def name_of(self, key_id: bytes) -> str:
        """Return the name of the trusted key file with an identifier (see `keyfile.key_id`); "" if there is none."""


@dataclass(frozen=True, slots=True)
class Signature:
    """One `.SIGN.<algorithm>.<key_name>` entry; one with an unknown algorithm is kept, but never valid."""

    key_name: str
    algorithm: str
    value: bytes


def check_key_name(name: str) -> None:
    """Raise FormatError unless `name` is a plain file name (verifiers look it up in a folder)."""
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise FormatError(f"{name!r} is not the file name of a key", hint="for example lab-5f3a.rsa.pub")


def signature_from(member: str, value: bytes) -> Signature:
    """Return the signature in a tar entry called `member`. Raises FormatError."""
    algorithm, dot, key_name = member.removeprefix(PREFIX).partition(".")
    if not dot or not algorithm.isalnum():
        raise FormatError(f"{member!r} does not name a signature's algorithm and key")
    check_key_name(key_name)
    return Signature(key_name, algorithm, value)


def check_signatures(signatures: tuple[Signature, ...], verifier: Verifier, data: bytes, where: str) -> str:
    """Return the name of the key that made the first valid one of `signatures` over `data`. Raises VerifyError without one."""
    if not signatures:
        raise VerifyError(f"{where}: not signed", hint="sign it with: python -m pipeline.apk sign --key KEY FILE")
    for signature in signatures:
        for algorithm in ALGORITHMS:
            if signature.algorithm == algorithm and verifier.verify(signature.key_name, algorithm, signature.value, data):
                return signature.key_name
    named = ", ".join(f"{signature.key_name} ({signature.algorithm})" for signature in signatures)
    raise VerifyError(f"{where}: no valid signature by a trusted key; signed by {named}")


class KeyRing:
    """Trusted public keys by file name; a Verifier."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self._loaded: dict[str, int] = {}
        self._by_id: dict[bytes, str] | None = None
        for name in self._keys:
            check_key_name(name)

    @classmethod
    def load(cls, directory: Path | str) -> KeyRing:
        """Load the `*.pub` files of a folder. Raises VerifyError if there is none, since nothing could be verified."""
        keys: dict[str, bytes] = {}
        with os.scandir(directory) as found:
            for item in sorted(found, key=lambda item: item.name):
                if item.name.endswith(".pub") and item.is_file():
                    with open(item.path, "rb") as stream:  # noqa: PTH123 (pathlib is slow to import)
                        keys[item.name] = stream.read(MAX_KEY_FILE + 1)
                    if len(keys[item.name]) > MAX_KEY_FILE:
                        raise VerifyError(f"{item.path}: more than {MAX_KEY_FILE} bytes, too large for a public key")
        if not keys:
            raise VerifyError(f"{directory}: no public keys (*.pub) in this folder")
        return cls(keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the key files, sorted."""
        return tuple(sorted(self._keys))

    def key(self, name: str) -> bytes:
        """Return the key file called `name`."""
        return self._keys[name]

    def verify(self, key_name: str, algorithm: Algorithm, signature: bytes, data: bytes) -> bool:
        """Tell whether the key called `key_name` is here and made `signature` over `data`."""
        if key_name not in self._keys:
            return False
        from pipeline.apk.format.keyfile import has_signed, read_modulus

        if key_name not in self._loaded:
            self._loaded[key_name] = read_modulus(self._keys[key_name], key_name)
        name = _HASHES[algorithm]
        digest = hashlib.new(name, data, usedforsecurity=False).digest()
        return has_signed(self._loaded[key_name], name, digest, signature)

    def name_of(self, key_id: bytes) -> str:
        """Return the name of the key with an identifier; "" if it is not here. A file that is no key has none."""
        from pipeline.apk.format import keyfile

        if self._by_id is None:
            self._by_id = {}
            for name in reversed(self.names):
                try:
                    self._by_id[keyfile.key_id(keyfile.read_modulus(self._keys[name], name))] = name
                except VerifyError:
                    continue
        return self._by_id.get(key_id, "")


class Signer:
    """Signs with the private key in a PEM file, in the name of `key_name` (its public key's file name)."""

    def __init__(self, private_key_path: Path, key_name: str, algorithm: Algorithm = "RSA") -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        check_key_name(key_name)
        if algorithm not in ALGORITHMS:
            raise FormatError(f"{algorithm!r} is not a signature algorithm", hint=f"one of {' '.join(ALGORITHMS)}")
        try:
            key = load_pem_private_key(private_key_path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise VerifyError(f"{private_key_path}: not a private key in PEM form: {error}") from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise VerifyError(f"{private_key_path}: not an RSA key")
        self.key_name = key_name
        self.algorithm: Algorithm = algorithm
        self._key = key

    @property
    def member_name(self) -> str:
        """The name of the tar entry that holds the signature."""
        return f"{PREFIX}{self.algorithm}.{self.key_name}"

    @property
    def key_id(self) -> bytes:
        """The identifier of the key in signatures of format 3."""
        from pipeline.apk.format.keyfile import key_id

        return key_id(self._key.public_key().public_numbers().n)

    def sign(self, data: bytes, algorithm: Algorithm | None = None) -> bytes:
        """Return the signature over `data` (PKCS #1 v1.5: equal data gives equal bytes), by default with our algorithm."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        kinds = {"RSA": hashes.SHA1(), "RSA256": hashes.SHA256(), "RSA512": hashes.SHA512()}  # noqa: S303
        return self._key.sign(data, padding.PKCS1v15(), kinds[algorithm or self.algorithm])


def generate_key(directory: Path, name: str, bits: int = 4096) -> tuple[Path, Path]:
    """Make `<name>.rsa` (mode 0600) and `<name>.rsa.pub` in `directory`; an existing key is never replaced."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    check_key_name(name)
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    private, public = directory / f"{name}.rsa", directory / f"{name}.rsa.pub"
    directory.mkdir(parents=True, exist_ok=True)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(pem)
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public
