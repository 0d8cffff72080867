# SPDX-License-Identifier: Apache-2.0
"""Secret keys in minisign's format, and signing with them.

A key file holds number, secret and checksum, encrypted with scrypt of the passphrase. The passphrase comes from a
terminal or a file descriptor, never from an argument or the environment. `tower.image.minisign` verifies signatures.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import io
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from tower.image.minisign import ALGORITHM, PREHASHED, PublicKey, Signature, SignatureError, prehash, read_small

from pipeline.base.errors import ConfigError, ReleaseError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_SCRYPT: Final = b"Sc"
_NO_SCRYPT: Final = b"\0\0"
_CHECKSUM: Final = b"B2"
_COMMENT: Final = "minisign encrypted secret key"
_PLAIN_SIZE: Final = 104
_MOST_MEMORY: Final = 1 << 30
"""The most that minisign itself uses; a file that asks for more is not one of its keys."""
_PASSPHRASE_MOST: Final = 1024
_RATIO: Final = 32
"""Bytes of memory that minisign allows for each operation of scrypt."""

Passphrase = Callable[[], str]


@dataclass(frozen=True, slots=True)
class SecretKey:
    """A signing key. Its secret is never shown, not even by `repr`."""

    key_id: bytes
    seed: bytes = field(repr=False)
    public: bytes

    @classmethod
    def generate(cls) -> SecretKey:
        """Generate a new key."""
        return cls.of(secrets.token_bytes(8), secrets.token_bytes(32))

    @classmethod
    def of(cls, key_id: bytes, seed: bytes) -> SecretKey:
        """Return the key of an identifier (8 bytes) and an Ed25519 seed (32 bytes)."""
        return cls(key_id, seed, _private(seed).public_key().public_bytes_raw())

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return PublicKey(self.key_id, self.public)

    def sign(self, stream: BinaryIO, trusted_comment: str, *, prehashed: bool = True) -> Signature:
        """Sign the content of a stream; the signature holds no time, so that signing twice gives the same bytes.

        Raises ReleaseError.
        """
        if not trusted_comment.isprintable() and not trusted_comment.replace("\t", "").isprintable():
            raise ReleaseError(f"trusted comment {trusted_comment!r}: has control characters")
        key = _private(self.seed)
        made = key.sign(prehash(stream) if prehashed else stream.read())
        return Signature(
            algorithm=PREHASHED if prehashed else ALGORITHM,
            key_id=self.key_id,
            signature=made,
            trusted_comment=trusted_comment,
            comment_signature=key.sign(made + trusted_comment.encode()),
        )

    def sign_bytes(self, data: bytes, trusted_comment: str) -> bytes:
        """Return the signature file for `data`."""
        return self.sign(io.BytesIO(data), trusted_comment).dump()

    def dump(self, passphrase: str = "", *, memory: int = _MOST_MEMORY) -> bytes:
        """Return the key file; without a passphrase it is not encrypted. `memory` is the bytes that each guess costs."""
        secret = self.key_id + self.seed + self.public
        if passphrase:
            operations, salt, kind = memory // _RATIO, secrets.token_bytes(32), _SCRYPT
            plain = secret + _checksum(self.key_id, self.seed + self.public)
            hidden = _xor(plain, _stretch(passphrase, salt, operations, memory))
        else:
            operations, memory, salt, kind, hidden = 0, 0, bytes(32), _NO_SCRYPT, secret + bytes(32)
        sizes = operations.to_bytes(8, "little") + memory.to_bytes(8, "little")
        text = base64.b64encode(ALGORITHM + kind + _CHECKSUM + salt + sizes + hidden).decode()
        return f"untrusted comment: {_COMMENT}\n{text}\n".encode()


def load_secret_key(path: Path, passphrase: Passphrase) -> SecretKey:
    """Read a key file, asking for its passphrase if it has one.

    Raises ConfigError if it is no key file or others may read it, ReleaseError if the passphrase is wrong.
    """
    try:
        mode = path.stat().st_mode
        data = read_small(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="key= is the secret key file; minisign -G makes one") from error
    except SignatureError as error:
        raise ConfigError(str(error), hint="key= is the secret key file; minisign -G makes one") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: mode {mode & 0o777:04o}, others may read this secret key", hint=f"chmod 600 {path}")
    return parse_secret_key(data, str(path), passphrase)


def parse_secret_key(data: bytes, where: str, passphrase: Passphrase) -> SecretKey:
    """Do as `load_secret_key`, with the file's bytes. Raises ConfigError, ReleaseError."""
    lines = data.decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    try:
        raw = base64.b64decode(lines[1], validate=True) if len(lines) == 2 else b""
    except ValueError:
        raw = b""
    if len(raw) != 54 + _PLAIN_SIZE or raw[:2] != ALGORITHM or raw[4:6] != _CHECKSUM:
        raise ConfigError(f"{where}: not a secret key of minisign", hint="minisign -G makes one")
    kind, salt, hidden = raw[2:4], raw[6:38], raw[54:]
    operations, memory = int.from_bytes(raw[38:46], "little"), int.from_bytes(raw[46:54], "little")
    if kind == _SCRYPT:
        if memory > _MOST_MEMORY or operations > _MOST_MEMORY:
            raise ConfigError(
                f"{where}: needs {memory >> 20} MiB of memory to try a passphrase", hint="minisign -G makes keys that do not"
            )
        hidden = _xor(hidden, _stretch(passphrase(), salt, operations, memory))
    elif kind != _NO_SCRYPT:
        raise ConfigError(f"{where}: encrypted with {kind!r}, expected {_SCRYPT!r}")
    key_id, secret, checksum = hidden[:8], hidden[8:72], hidden[72:]
    key = SecretKey.of(key_id, secret[:32])
    # minisign leaves the checksum of a key without passphrase empty.
    right = _checksum(key_id, secret) if kind == _SCRYPT or any(checksum) else bytes(32)
    if not hmac.compare_digest(checksum, right) or key.public != secret[32:]:
        reason = "wrong passphrase, or the file is damaged" if kind == _SCRYPT else "the file is damaged"
        raise ReleaseError(f"{where}: {reason}", hint="nothing was signed")
    return key


def ask_passphrase(where: str, descriptor: str) -> str:
    """Return the passphrase: one line from file descriptor `descriptor` if it is a number, else from the terminal.

    Raises ConfigError.
    """
    if not descriptor:
        try:
            # getpass by itself would fall back to a stdin that echoes the input.
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
            return getpass.getpass(f"passphrase of {where}: ")
        except (EOFError, OSError) as error:
            raise ConfigError(
                f"{where}: there is no terminal to ask for the passphrase on", hint="passphrase=N reads it from file descriptor N"
            ) from error
    if not descriptor.isdecimal():
        raise ConfigError("passphrase=: expected a file descriptor's number, never the passphrase", hint="passphrase=0")
    try:
        line = os.read(int(descriptor), _PASSPHRASE_MOST)
        while line and b"\n" not in line and (more := os.read(int(descriptor), _PASSPHRASE_MOST)):
            line += more
    except OSError as error:
        raise ConfigError(f"passphrase={descriptor}: cannot be read: {error.strerror}", hint="passphrase=0 <FILE") from error
    try:
        return line.split(b"\n")[0].decode()
    except UnicodeDecodeError:
        raise ConfigError(f"passphrase={descriptor}: its content is not UTF-8") from None


def _private(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _checksum(key_id: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(ALGORITHM + key_id + secret, digest_size=32).digest()


def _xor(first: bytes, second: bytes) -> bytes:
    return bytes(one ^ other for one, other in zip(first, second, strict=True))


def _stretch(passphrase: str, salt: bytes, operations: int, memory: int) -> bytes:
    """Run scrypt with the parameters that libsodium's pwhash_scryptsalsa208sha256 derives from the two limits."""
    operations = max(operations, 32768)
    block = 8
    if operations < memory // 32:
        parallel, most = 1, operations // (block * 4)
        cost = _power_below(most)
    else:
        cost = _power_below(memory // (block * 128))
        parallel = min(operations // 4 // cost, 0x3FFFFFFF) // block
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=cost, r=block, p=max(parallel, 1), maxmem=2**31 - 1, dklen=_PLAIN_SIZE
    )


def _power_below(most: int) -> int:
    """Return the first power of two, from 2 on, that is more than half of `most`."""
    power = 2
    while power <= most // 2:
        power *= 2
    return power
