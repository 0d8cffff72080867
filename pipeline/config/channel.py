# SPDX-License-Identifier: Apache-2.0
"""Channels: the sources of packages.

A channel is a TOML file in pipeline/channels/; its `driver` names the code for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Channel:
    """One file of pipeline/channels/: the settings that all kinds of channels have, and those of its driver."""

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
    """Engines for the stages of an architecture: a Docker context or an address; `engine.ARCH=` takes precedence."""
    device_repositories: tuple[str, ...] = ()
    """The lines of /etc/apk/repositories on a device: where `tower install` and apk find further packages."""
    faketime: str = ""
    """The place of libfaketime in the builder, with which `verify:reproducible` sets the stages' clock; "" if it has none."""
