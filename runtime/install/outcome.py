# SPDX-License-Identifier: Apache-2.0
"""What became of a `tower install`."""

from __future__ import annotations

from dataclasses import dataclass, field

from tower.base.errors import TowerError


@dataclass(slots=True)
class Outcome:
    """What became of a `tower install`, by machine."""

    words: tuple[str, ...]
    steps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: dict[str, TowerError] = field(default_factory=dict)
    downloaded: int | None = None
    """Bytes that came over the network to this machine; None if that was not our business."""
    sent: int = 0
    """Bytes of bundles that went to hosts."""
