# SPDX-License-Identifier: Apache-2.0
"""The shared cache that the command line's variables choose, and the keys whose artifacts are taken from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from pipeline.base.errors import ConfigError
from pipeline.store.cache.registry import Registry, RegistryPlace
from pipeline.store.cache.shared import Cache
from pipeline.supply.keyfiles import public_keys

TRUSTED: Final = Path("keys/cache")
"""Where a checkout pins the public keys whose artifacts it takes."""


def open_cache(
    given: Mapping[str, str], checkout: Path, *, check: Callable[[], None], report: Callable[[str], None]
) -> Cache | None:
    """The cache that `cache=` names, if it does, with the keys of `cache-key=` or of keys/cache. Raises ConfigError."""
    if "cache" not in given:
        if "cache-key" in given:
            raise ConfigError("cache-key=: of which cache?", hint="cache=registry.example/towercache")
        return None
    place = RegistryPlace.parse(given["cache"])
    trusted = public_keys("cache-key", given.get("cache-key", ""), checkout / TRUSTED)
    if not trusted:
        hint = f"cache-key=KEY, a public key of minisign, or lay public keys into {TRUSTED}/"
        raise ConfigError(f"cache={place}: no key to trust", hint=hint)
    return Cache(Registry(place, check=check), trusted, report)
