# SPDX-License-Identifier: Apache-2.0
"""The places of the factory: the checkout, the files generated in it, and the user's cache.

Only this module knows these places; all others are given a `Paths`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import ConfigError

_IN_SETTINGS = re.compile(r'["\x00-\x1f\x7f]')
"""Characters that apt's settings cannot have in a path."""
_IN_PROGRAMS = re.compile(r'[:"${}\x00-\x1f\x7f]')
"""Characters that venv and setuptools would misread in a path."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The places of one checkout."""

    checkout: Path

    @property
    def build(self) -> Path:
        """The folder of all generated files; it may be deleted at any time."""
        return self.checkout / "build"

    @property
    def store(self) -> Path:
        """Artifacts, by key."""
        return self.build / "store"

    @property
    def logs(self) -> Path:
        """Output of stages, one file for each key."""
        return self.build / "log"

    @property
    def last(self) -> Path:
        """For each stage, the key document that it was last built from, for `doit explain`."""
        return self.build / "last"

    @property
    def stages(self) -> Path:
        """One folder for each stage."""
        return self.checkout / "stages"

    @property
    def recipes(self) -> Path:
        """One TOML file for each image."""
        return self.checkout / "pipeline" / "recipes"

    @property
    def channels(self) -> Path:
        """One TOML file for each channel."""
        return self.checkout / "pipeline" / "channels"

    @property
    def cache(self) -> Path:
        """Downloads, kept per user so that a fresh checkout does not fetch them again."""
        return cache_home() / "tower"

    def channel(self, name: str) -> Path:
        """The files that a channel generates for this checkout: its lock, its keys."""
        return self.build / name


def cache_home() -> Path:
    """Return the user's cache folder (XDG_CACHE_HOME, or ~/.cache). Raises ConfigError if no program could use it."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        found = Path(named) if named.startswith("/") else Path.home() / ".cache"
    except RuntimeError:
        raise ConfigError("this user has no home folder for downloads", hint="set HOME or XDG_CACHE_HOME to a folder") from None
    if not found.is_absolute() or _misread(found, _IN_SETTINGS):
        raise ConfigError(
            f"{str(found)!r}: downloads cannot be kept there",
            hint="set HOME or XDG_CACHE_HOME to a folder whose path begins with / and has no double quote or line feed",
        )
    return found


def check_checkout(checkout: Path) -> None:
    """Raise ConfigError if the programs cannot cope with the checkout's path; ci/doit has the same list."""
    if _misread(checkout, _IN_PROGRAMS):
        raise ConfigError(
            f"{str(checkout)!r}: a checkout cannot be used there; its path may have no colon, double quote, dollar sign, brace, "
            "line feed or other control character, and must be UTF-8",
            hint="move it to another folder",
        )


def _misread(path: Path, characters: re.Pattern[str]) -> bool:
    text = str(path)
    return characters.search(text) is not None or any("\ud800" <= char <= "\udfff" for char in text)
