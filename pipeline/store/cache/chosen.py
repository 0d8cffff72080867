# SPDX-License-Identifier: Apache-2.0
"""The shared cache that the command line's variables choose, and the keys whose artifacts it accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pipeline.base.errors import ConfigError
from pipeline.store.cache.oci import Registry, RegistryPlace
from pipeline.store.cache.shared import SharedCache
from pipeline.supply.keyfiles import public_keys

TRUSTED: Final = Path("keys/cache")
"""The folder of a checkout with the public keys whose artifacts it accepts."""


def open_cache(
    given: Mapping[str, str], checkout: Path, *, check: Callable[[], None], report: Callable[[str], None]
) -> SharedCache | None:
    """Return the cache of `cache=`, or None, with the keys of `cache-key=` or of keys/cache. Raises ConfigError."""
    if "cache" not in given:
        if "cache-key" in given:
            raise ConfigError("cache-key=: cache= is missing", hint="cache=registry.example/towercache")
        return None
    place = RegistryPlace.parse(given["cache"])
    trusted = public_keys("cache-key", given.get("cache-key", ""), checkout / TRUSTED)
    if not trusted:
        hint = f"cache-key=KEY, a public key of minisign, or put public keys into {TRUSTED}/"
        raise ConfigError(f"cache={place}: there is no trusted key", hint=hint)
    return SharedCache(Registry(place, check=check), trusted, report)
