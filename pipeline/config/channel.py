# SPDX-License-Identifier: Apache-2.0
"""Channels: where packages come from.

A channel is a TOML file in pipeline/channels/; its `driver` names the code that speaks to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Channel:
    """One file of pipeline/channels/: what is the same for every kind of channel, and its driver's own settings."""

    name: str
    driver: str
    summary: str
    branch: str
    epoch: int
    architectures: tuple[str, ...]
    builder_arch: str
    releasable: bool
    settings: Mapping[str, Any]
    """The table `[settings]`, parsed by the driver with pipeline.config.toml."""
    path: Path
    native_builders: tuple[str, ...] = ()
    """Further architectures for which a builder can be made, on an engine of that architecture."""
    engines: Mapping[str, str] = field(default_factory=dict)
    """Engines for the stages of an architecture: a Docker context or an address; `engine.ARCH=` goes before it."""
    faketime: str = ""
    """Where the builder has libfaketime, by which `verify:reproducible` gives stages another clock; empty: nowhere."""
