# SPDX-License-Identifier: Apache-2.0
"""The keys that variables of the command line name: public keys to trust, and a secret key to sign with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.errors import ConfigError

if TYPE_CHECKING:
    from tower.image.minisign import PublicKey

    from pipeline.supply.minisign import SecretKey


def public_keys(variable: str, text: str, folder: Path) -> tuple[PublicKey, ...]:
    """Return the keys that a variable names (files, folders or keys, separated by commas), or those in `folder`.

    Raises ConfigError.
    """
    from tower.base.errors import TowerError
    from tower.image.verify import key_of, trusted_keys

    try:
        if not text:
            return trusted_keys((folder,))
        words = [word for word in text.split(",") if word]
        return tuple(
            dict.fromkeys(
                key for word in words for key in (trusted_keys((Path(word),)) if Path(word).is_dir() else (key_of(word),))
            )
        )
    except TowerError as error:
        raise ConfigError(
            f"{variable}=: {error.message}", hint="a public key of minisign, its file, or a folder of *.pub"
        ) from error


def secret_key(given: Mapping[str, str]) -> SecretKey:
    """Read the key of the file that `key=` names; ask for its passphrase. Raises ConfigError or ReleaseError."""
    from pipeline.supply.minisign import ask_passphrase, load_secret_key

    path = Path(given["key"])
    return load_secret_key(path, partial(ask_passphrase, str(path), given.get("passphrase", "")))
