# SPDX-License-Identifier: Apache-2.0
"""A checkout's signing key: made once, kept in build/ and never committed; devices of its channel trust it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tower.base.regular import read_regular

from pipeline.apk.format.signature import Signer, generate_key
from pipeline.base.errors import StoreError
from pipeline.base.filelock import locked
from pipeline.base.scratch import temporary_folder

_BITS = 2048


@dataclass(frozen=True, slots=True)
class CheckoutKey:
    """A key pair: `name` is the public key's file name, as in signatures."""

    name: str
    private: Path
    public: Path

    def signer(self) -> Signer:
        """Return the signer for packages and indexes."""
        return Signer(self.private, self.name)

    def public_pem(self) -> bytes:
        """Return the public key."""
        return read_regular(self.public)


def checkout_key(folder: Path, prefix: str) -> CheckoutKey:
    """Return the key in `folder`, made at first use; its name has the first 8 hex digits of the public key's SHA-256."""
    found = _find(folder, prefix)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder.parent / "keys.guard"):
        return _find(folder, prefix) or _make(folder, prefix)


def _find(folder: Path, prefix: str) -> CheckoutKey | None:
    for private in sorted(folder.glob(f"{prefix}-*.rsa")):
        public = private.with_name(f"{private.name}.pub")
        if not public.is_file():
            raise StoreError(f"{private}: its public key {public.name} is missing", hint=f"rm -r {folder}")
        if private.stat().st_mode & 0o077:
            private.chmod(0o600)
        return CheckoutKey(public.name, private, public)
    return None


def _make(folder: Path, prefix: str) -> CheckoutKey:
    with temporary_folder("key", folder) as scratch:
        private, public = generate_key(scratch, prefix, _BITS)
        name = f"{prefix}-{hashlib.sha256(public.read_bytes()).hexdigest()[:8]}.rsa"
        # Write the private key last: `_find` looks for it.
        public.replace(folder / f"{name}.pub")
        private.replace(folder / name)
    return CheckoutKey(f"{name}.pub", folder / name, folder / f"{name}.pub")
