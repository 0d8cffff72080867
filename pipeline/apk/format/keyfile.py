# SPDX-License-Identifier: Apache-2.0
"""Public RSA keys in PEM form, as `openssl rsa -pubout` writes them, and the verification of their signatures.

A key file has one form for each modulus, and a signed digest one for each algorithm and length of key; anything else is
refused, not interpreted. The library would do as well, but importing it takes longer than verifying fifty packages.
"""

from __future__ import annotations

import binascii
import hashlib

from pipeline.base.errors import VerifyError

MIN_BITS, MAX_BITS = 2048, 16384
EXPONENT = 65537
KEY_ID = 16
"""The bytes of a key's identifier."""
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
_RSA = bytes.fromhex("300d06092a864886f70d0101010500")  # SEQUENCE { rsaEncryption, NULL }
_MODULUS = slice(32, -5)  # its size gives all lengths around it two bytes
# The identifiers of the hash before a digest in PKCS #1 v1.5.
_DIGEST_INFO = {
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def read_modulus(pem: bytes, where: str) -> int:
    """Return the modulus of a key in PEM. Raises VerifyError unless it is RSA with 2048 bits or more and exponent 65537."""
    text = pem.strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise VerifyError(f"{where}: not a public key in PEM form")
    try:
        der = binascii.a2b_base64(b"".join(text[len(_BEGIN) : -len(_END)].split()), strict_mode=True)
    except ValueError as error:
        raise VerifyError(f"{where}: not a public key in PEM form: {error}") from None
    if der[:1] != b"\x30":
        raise VerifyError(f"{where}: not a public key in PEM form: its content is not DER")
    modulus = int.from_bytes(der[_MODULUS], "big")
    if not MIN_BITS <= modulus.bit_length() <= MAX_BITS or modulus % 2 == 0 or der != _encoded(modulus):
        raise VerifyError(f"{where}: not an RSA key of {MIN_BITS} bits or more with the exponent {EXPONENT}")
    return modulus


def _encoded(modulus: int) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key."""
    return _field(0x30, _RSA + _field(3, b"\0" + _numbers(modulus)))


def _numbers(modulus: int) -> bytes:
    """Return the DER RSAPublicKey of a key."""
    numbers = b"".join(_field(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (modulus, EXPONENT))
    return _field(0x30, numbers)


def key_id(modulus: int) -> bytes:
    """Return the identifier of a key in signatures of format 3: the start of the SHA-512 of its two numbers."""
    return hashlib.sha512(_numbers(modulus)).digest()[:KEY_ID]


def _field(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((size,)) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


def has_signed(modulus: int, algorithm: str, digest: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is a key's over a `digest` of the hash `algorithm` (sha1, sha256, sha512; PKCS #1 v1.5)."""
    size = (modulus.bit_length() + 7) // 8
    value = int.from_bytes(signature, "big")
    if len(signature) != size or value >= modulus:
        return False
    named = _DIGEST_INFO[algorithm] + digest
    signed = b"\0\1" + b"\xff" * (size - 3 - len(named)) + b"\0" + named
    return pow(value, EXPONENT, modulus).to_bytes(size, "big") == signed
