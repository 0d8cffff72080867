# SPDX-License-Identifier: Apache-2.0
"""Waiting for what programs do in their own time."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 60


def until(seen: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    ends = time.monotonic() + SECONDS
    while not seen():
        assert time.monotonic() < ends, f"never: {what}"
        time.sleep(0.05)
