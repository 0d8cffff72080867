# SPDX-License-Identifier: Apache-2.0
"""Signatures checked by the `openssl` command, against the keys of etc/apk/keys."""

from __future__ import annotations

import os
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.signature import Algorithm

_DIGESTS: dict[str, str] = {"RSA": "-sha1", "RSA256": "-sha256"}


class OpensslVerifier:
    """Trusts the public keys of one folder; an unknown key is a plain no."""

    def __init__(self, keys: Path) -> None:
        self.keys = keys

    def verify(self, key_name: str, algorithm: Algorithm, signature: bytes, data: bytes) -> bool:
        """Whether the key file `key_name` of the folder made `signature` over `data`."""
        from pipeline.proc import run

        key = self.keys / key_name
        if "/" in key_name or key_name.startswith(".") or not key.is_file():
            return False
        # The module tempfile would cost more than all the rest of this, where a machine is emulated.
        folder = os.environ.get("TMPDIR", "/tmp")  # noqa: S108  # with an unguessable name, and O_EXCL
        path = f"{folder}/apk-{os.urandom(12).hex()}"
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(signature)
            argv = ("openssl", "dgst", _DIGESTS[algorithm], "-verify", key, "-signature", path)
            return run(argv, timeout=60, stdin=data, check=False).status == 0
        finally:
            Path(path).unlink(missing_ok=True)
