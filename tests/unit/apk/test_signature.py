# SPDX-License-Identifier: Apache-2.0
"""Keys and signatures; OpenSSL's command agrees with us where it is installed."""

from __future__ import annotations

import binascii
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pipeline.apk.format.keyfile import has_signed, read_modulus
from pipeline.apk.format.signature import (
    Algorithm,
    KeyRing,
    Signer,
    check_key_name,
    check_signatures,
    generate_key,
    signature_from,
)
from pipeline.base.errors import FormatError, VerifyError


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def test_key_files(key_folder: Path) -> None:
    private, public = key_folder / "test-1.rsa", key_folder / "test-1.rsa.pub"
    assert private.stat().st_mode & 0o777 == 0o600
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    with pytest.raises(FileExistsError):
        generate_key(key_folder, "test-1", bits=2048)
    with pytest.raises(FormatError):
        generate_key(key_folder, "../test-2")


@pytest.mark.parametrize("algorithm", ["RSA", "RSA256"])
def test_both_algorithms(key_folder: Path, ring: KeyRing, algorithm: Algorithm) -> None:
    signer = Signer(key_folder / "test-1.rsa", "test-1.rsa.pub", algorithm)
    value = signer.sign(b"data")
    assert signer.member_name == f".SIGN.{algorithm}.test-1.rsa.pub"
    assert signature_from(signer.member_name, value).key_name == "test-1.rsa.pub"
    assert ring.verify("test-1.rsa.pub", algorithm, value, b"data")
    assert not ring.verify("test-1.rsa.pub", algorithm, value, b"Data")
    assert not ring.verify("test-1.rsa.pub", "RSA256" if algorithm == "RSA" else "RSA", value, b"data")
    assert not ring.verify("test-1.rsa.pub", algorithm, value[:-1], b"data")
    assert not ring.verify("test-1.rsa.pub", algorithm, b"", b"data")
    assert not ring.verify("other.rsa.pub", algorithm, value, b"data")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("algorithm, digest", [("RSA", "-sha1"), ("RSA256", "-sha256")])
def test_openssl_agrees(key_folder: Path, tmp_path: Path, algorithm: Algorithm, digest: str) -> None:
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "signature").write_bytes(Signer(key_folder / "test-1.rsa", "test-1.rsa.pub", algorithm).sign(b"data"))
    command = ["openssl", "dgst", digest, "-verify", str(key_folder / "test-1.rsa.pub"), "-signature", "signature", "data"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Verified OK" in run.stdout


def test_unknown_algorithms_never_hold(ring: KeyRing, signer: Signer) -> None:
    bad = signature_from(".SIGN.DSA.test-1.rsa.pub", signer.sign(b"data"))
    good = signature_from(signer.member_name, signer.sign(b"data"))
    with pytest.raises(VerifyError, match=r"foo: no valid signature by a trusted key; signed by test-1\.rsa\.pub .DSA."):
        check_signatures((bad,), ring, b"data", "foo")
    check_signatures((bad, good), ring, b"data", "foo")
    with pytest.raises(VerifyError, match="foo: not signed"):
        check_signatures((), ring, b"data", "foo")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\nb", "a\0b", "\x1b[2J"])
def test_key_names(name: str) -> None:
    with pytest.raises(FormatError):
        check_key_name(name)
    with pytest.raises(FormatError):
        KeyRing({name: b""})


def test_bad_keys(tmp_path: Path, key_folder: Path) -> None:
    with pytest.raises(VerifyError, match="no public keys"):
        KeyRing.load(tmp_path)
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    for pem, reason in [
        (b"", "not a public key in PEM form"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
        (public_pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key of 2048 bits"),
        (public_pem(weak), "not an RSA key of 2048 bits"),
        (public_pem(rsa.generate_private_key(public_exponent=3, key_size=2048)), "with the exponent 65537"),
    ]:
        with pytest.raises(VerifyError, match=reason):
            KeyRing({"k.pub": pem}).verify("k.pub", "RSA", b"x", b"y")
    with pytest.raises(VerifyError, match="not a private key in PEM form"):
        Signer(key_folder / "test-1.rsa.pub", "k.pub")
    with pytest.raises(FormatError, match="not a signature algorithm"):
        Signer(key_folder / "test-1.rsa", "k.pub", "MD5")  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [2048, 2056, 3072, 4096])
def test_a_key_file_has_one_form(bits: int) -> None:
    """What the library writes is read; every other form of the same key, and every flipped bit, is refused."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert read_modulus(pem, "k") == key.public_numbers().n
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, tail = b"-----BEGIN PUBLIC KEY-----\n", b"\n-----END PUBLIC KEY-----\n"
    modulus_at = range(32, 33 + bits // 8)
    forms = [der + b"\0", der[:-1], b"\0" + der, der[:4] + der[5:], der.replace(b"\x05\x00\x03", b"\x03", 1)]
    forms += [
        der[:at] + bytes((der[at] ^ 1 << bit,)) + der[at + 1 :]
        for at in range(len(der))
        if at not in modulus_at
        for bit in range(8)
    ]
    for form in forms:
        with pytest.raises(VerifyError):
            read_modulus(head + binascii.b2a_base64(form, newline=False) + tail, "k")
    for text in (b"", pem[5:], pem[:-5], pem.replace(b"PUBLIC", b"RSA PUBLIC"), pem.replace(b"M", b"!", 1), pem + pem):
        with pytest.raises(VerifyError):
            read_modulus(text, "k")


def numbers_of(folder: Path) -> rsa.RSAPrivateNumbers:
    key = serialization.load_pem_private_key((folder / "test-1.rsa").read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key.private_numbers()


def test_one_form_of_a_signature_holds(key_folder: Path) -> None:
    """Whoever has the key could sign these; a reader that looks for the digest inside would take some made without it."""
    numbers = numbers_of(key_folder)
    modulus, private, size = numbers.public_numbers.n, numbers.d, 256
    digest = hashlib.sha256(b"data").digest()
    info = bytes.fromhex("3031300d060960864801650304020105000420")

    def signed(block: bytes) -> bytes:
        return pow(int.from_bytes(block, "big"), private, modulus).to_bytes(size, "big")

    right = b"\0\1" + b"\xff" * (size - 3 - 51) + b"\0" + info + digest
    good = signed(right)
    assert has_signed(modulus, "sha256", digest, good)
    blocks = {
        "short padding": b"\0\1" + b"\xff" * 8 + b"\0" + info + digest + bytes(size - 11 - 51),
        "digest at the end of garbage": b"\0\1" + b"\xff" * 8 + b"\0" + bytes(size - 11 - 51) + info + digest,
        "padding with other bytes": right.replace(b"\xff", b"\xfe", 1),
        "type 2": b"\0\2" + right[2:],
        "another hash's name": right.replace(info, bytes.fromhex("3031300d060960864801650304020305000420")),
        "hash's name without parameters": b"\0\1" + b"\xff" * (size - 3 - 49) + b"\0"
        + bytes.fromhex("302f300b06096086480165030402010420") + digest,
        "another digest": right[:-1] + bytes([right[-1] ^ 1]),
    }  # fmt: skip
    for what, block in blocks.items():
        assert not has_signed(modulus, "sha256", digest, signed(block)), what
    for bad in (b"", good[:-1], good + b"\0", b"\0" + good, (int.from_bytes(good, "big") + modulus).to_bytes(size + 1, "big")):
        assert not has_signed(modulus, "sha256", digest, bad)
    assert not has_signed(modulus, "sha256", digest, modulus.to_bytes(size, "big"))
    assert not has_signed(modulus, "sha1", hashlib.sha1(b"data").digest(), good)
