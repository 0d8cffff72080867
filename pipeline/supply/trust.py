# SPDX-License-Identifier: Apache-2.0
"""Trusted keys: folders of `keys/`, each with a table that describes every key and the architectures it may sign for.

A person has checked the table (docs/keys.md); the factory refuses a file that differs from it, or that it does not
name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.apk.format.signature import KeyRing
from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import VerifyError
from pipeline.config.toml import Problems, Table, read_toml

TABLE = "keys.toml"
_PRIVATE = b"PRIVATE" + b" KEY"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """One row of the table, with the file's content."""

    file: str
    file_sha256: str
    spki_sha256: str
    bits: int
    architectures: tuple[str, ...]
    origin: str
    second_source: str
    pem: bytes


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys of one folder."""

    keys: tuple[TrustedKey, ...]

    def ring(self, arch: str) -> KeyRing:
        """Return the keys that may sign repositories of `arch`. Raises VerifyError if there is none."""
        found = {key.file: key.pem for key in self.keys if arch in key.architectures}
        if not found:
            raise VerifyError(f"{TABLE}: no key may sign for {arch}", hint="docs/keys.md says how a key is added")
        return KeyRing(found)

    def files(self, architectures: Iterable[str]) -> Mapping[str, bytes]:
        """Return the key files for these architectures, by name."""
        wanted = set(architectures)
        return {key.file: key.pem for key in self.keys if wanted & set(key.architectures)}


def load_trust(folder: Path) -> Trust:
    """Read a folder of keys and check it against its table.

    Raises ConfigError for a wrong table, VerifyError for files that differ from it.
    """
    problems = Problems()
    table = read_toml(folder / TABLE, problems, shown=f"{folder.parent.name}/{folder.name}/{TABLE}")
    rows = [_row(row) for row in table.tables("key")]
    table.close()
    problems.check("trusted keys")
    named = [str(row["file"]) for row in rows]
    there = sorted(path.name for path in folder.iterdir() if path.name != TABLE)
    for name in there:
        if name not in named:
            raise VerifyError(
                f"{folder / name}: not in {TABLE}", hint="docs/keys.md says how a key is added; remove it if unsure"
            )
    if len(set(named)) != len(named):
        raise VerifyError(f"{folder / TABLE}: a file is named twice")
    return Trust(tuple(_checked(folder, row) for row in rows))


def own_trust(name: str, pem: bytes, architectures: Iterable[str]) -> Trust:
    """Return a key that this checkout made for itself, as the only one that may sign for `architectures`."""
    spki, bits = fingerprint(pem, name)
    key = TrustedKey(
        file=name,
        file_sha256=digest_bytes(pem),
        spki_sha256=spki,
        bits=bits,
        architectures=tuple(architectures),
        origin="made by this checkout",
        second_source="",
        pem=pem,
    )
    return Trust((key,))


def _row(row: Table) -> dict[str, object]:
    texts = ("file", "file_sha256", "spki_sha256", "origin", "second_source")
    return {
        **{name: row.text(name) for name in texts},
        "bits": row.integer("bits"),
        "architectures": row.strings("architectures"),
    }


def _checked(folder: Path, row: dict[str, object]) -> TrustedKey:
    path = folder / Path(str(row["file"])).name
    try:
        pem = read_regular(path)
    except OSError as error:
        raise VerifyError(f"{path}: cannot be read: {error.strerror}", hint=f"{TABLE} names it") from error
    key = TrustedKey(pem=pem, **row)  # type: ignore[arg-type]  # the rows were read by type
    spki, bits = fingerprint(pem, str(path))
    for what, found, stated in (
        ("sha256 of the file", digest_bytes(pem), key.file_sha256),
        ("sha256 of the key", spki, key.spki_sha256),
        ("bits", bits, key.bits),
    ):
        if found != stated:
            raise VerifyError(f"{path}: {what} is {found}, {TABLE} says {stated}", hint="docs/keys.md says how to check a key")
    return key


def fingerprint(pem: bytes, where: str) -> tuple[str, int]:
    """Return the SHA-256 of a public RSA key's DER SubjectPublicKeyInfo, and its size in bits. Raises VerifyError."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    if _PRIVATE in pem:
        raise VerifyError(f"{where}: a private key", hint="public keys only belong here; consider it known to others now")
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise VerifyError(f"{where}: not a public key in PEM form: {error}") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise VerifyError(f"{where}: not an RSA key")
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest(), key.key_size
