# SPDX-License-Identifier: Apache-2.0
"""Signatures checked by the `openssl` command, against the keys of etc/apk/keys."""

from __future__ import annotations

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
        import tempfile

        from pipeline.proc import run

        key = self.keys / key_name
        if "/" in key_name or key_name.startswith(".") or not key.is_file():
            return False
        with tempfile.NamedTemporaryFile(prefix="apk-") as file:
            file.write(signature)
            file.flush()
            argv = ("openssl", "dgst", _DIGESTS[algorithm], "-verify", key, "-signature", file.name)
            return run(argv, timeout=60, stdin=data, check=False).status == 0
