# SPDX-License-Identifier: Apache-2.0
"""The result of a `tower install`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tower.base.errors import TowerError


@dataclass(slots=True)
class Outcome:
    """The result of a `tower install`, by machine."""

    words: tuple[str, ...]
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: dict[str, TowerError] = field(default_factory=dict)
    downloaded: int | None = None
    """Bytes that this machine downloaded; None if it did not download."""
    sent: int = 0
    """Bytes of bundles that went to hosts."""
