# SPDX-License-Identifier: Apache-2.0
"""Where a container engine is: what `engine.ARCH=` and a channel's `engines` may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import SandboxError

_SCHEMES = ("unix", "tcp", "http", "https")
_LOOK = "docker context ls shows them; an address is good too: unix:///PATH or tcp://HOST:2376"


@dataclass(frozen=True, slots=True)
class Place:
    """An engine's address, and what the docker package needs to speak to it."""

    shown: str
    """For messages."""
    address: str
    tls: Any = None
    """The TLSConfig of a Docker context; None where the environment decides, as for DOCKER_HOST."""


def find_place(named: str, variable: str) -> Place:
    """The place of the engine that `variable` (`engine.aarch64`) names: an address, or a Docker context.

    Raises SandboxError if there is no such context, or nothing could speak to such an address.
    """
    place = Place(named, named) if "://" in named else _context(named, variable)
    scheme = place.address.partition("://")[0]
    if scheme not in _SCHEMES:
        raise SandboxError(
            f"{variable}={named}: the factory does not speak {scheme}:// to an engine ({', '.join(_SCHEMES)})",
            hint="bring the engine's socket here: ssh -N -L /tmp/far.sock:/var/run/docker.sock HOST, "
            f"then {variable}=unix:///tmp/far.sock",
        )
    return place


def _context(name: str, variable: str) -> Place:
    from docker.context import ContextAPI

    try:
        found = ContextAPI.get_context(name)
    except Exception as error:  # the package raises a plain Exception for a damaged file
        raise SandboxError(f"{variable}={name}: this Docker context cannot be read: {error}", hint=_LOOK) from error
    if found is None or not found.Host:
        raise SandboxError(f"{variable}={name}: there is no Docker context of this name", hint=_LOOK)
    return Place(f"{name} ({found.Host})", str(found.Host), found.TLSConfig)
