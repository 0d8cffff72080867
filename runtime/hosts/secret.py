# SPDX-License-Identifier: Apache-2.0
"""The secrets of a new host: key pairs, the key file of its disk, a hashed password, a derived Wi-Fi key.

A secret is never an argument of a program, part of a message, or shown by `repr`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from tower.base import proc
from tower.base.errors import ValueRefusedError
from tower.base.names import parse_password_hash, ssid_octets

KEY_FILE_BYTES: Final = 512
_PSK: Final = re.compile(r"[0-9A-Fa-f]{64}")
_PSK_ROUNDS: Final = 4096
"""Fixed by WPA2, which uses the name of the network as the salt."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: bytes = field(repr=False)
    public: str
    """One line, without newline."""


def new_key_pair(comment: str) -> KeyPair:
    """Generate a key pair for a host or its user."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return KeyPair(private, f"{public} {comment}")


def new_key_file() -> bytes:
    """Generate the key of a host's encrypted disk, which stays on its boot device."""
    return secrets.token_bytes(KEY_FILE_BYTES)


def hash_password(password: str) -> str:
    """Hash a password for /etc/shadow with openssl's sha512crypt, which reads the password from its stdin.

    Raises ValueRefusedError.
    """
    if not password or not password.isprintable():
        raise ValueRefusedError("a password must not be empty or have control characters")
    if len(password.encode()) > 256:
        raise ValueRefusedError("the password is too long", hint="at most 256 bytes are allowed")
    done = proc.run(("openssl", "passwd", "-6", "-stdin"), stdin=password.encode() + b"\n", timeout=30)
    return parse_password_hash(done.stdout.decode().strip())


def no_password() -> str:
    """Return the hash of a password that nobody knows: only its key opens the host."""
    return hash_password(secrets.token_urlsafe(32))


def wlan_key(ssid: str, password: str) -> str:
    """Return the key that WPA2 derives from a network's name and password (PBKDF2), in hexadecimal.

    64 hexadecimal digits in place of the password are the key itself. Raises ValueRefusedError.
    """
    if _PSK.fullmatch(password):
        return password.lower()
    if not 8 <= len(password) <= 63 or not (password.isascii() and password.isprintable()):
        raise ValueRefusedError(
            "the password of the Wi-Fi is not valid",
            hint="WPA2 takes 8 to 63 printable ASCII characters, or the key itself: 64 hexadecimal digits",
        )
    return hashlib.pbkdf2_hmac("sha1", password.encode(), ssid_octets(ssid), _PSK_ROUNDS, 32).hex()
