# SPDX-License-Identifier: Apache-2.0
"""The places of container engines: what `engine.ARCH=` and a channel's `engines` may name.

Docker's contexts are read here: the docker package finds them only beside a config.json, which may be missing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base import docker_config
from pipeline.base.errors import SandboxError

_SCHEMES = ("unix", "tcp", "http", "https")
_LOOK = "docker context ls shows them; or use an address: unix:///PATH or tcp://HOST:2376"


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """An engine's address, and the settings with which the docker package can speak to it."""

    shown: str
    """For messages."""
    address: str
    tls: Any = None
    """The TLSConfig of a Docker context; None if the environment decides, as for DOCKER_HOST."""


def find_place(named: str, variable: str) -> EnginePlace:
    """Return the place of the engine that `variable` (`engine.aarch64`) names: an address, or a Docker context.

    Raises SandboxError if there is no such context, or if the address has an unknown form.
    """
    place = EnginePlace(named, named) if "://" in named else _context(named, f"{variable}={named}")
    if place.address.partition("://")[0] not in _SCHEMES:
        raise _unspoken(place.address, variable, named)
    return place


def _unspoken(address: str, variable: str, named: str) -> SandboxError:
    scheme = address.partition("://")[0]
    return SandboxError(
        f"{variable}={named}: the factory does not speak {scheme}:// to an engine ({', '.join(_SCHEMES)})",
        hint="forward the engine's socket to this machine: ssh -N -L /tmp/far.sock:/var/run/docker.sock HOST, "
        f"then {variable}=unix:///tmp/far.sock",
    )


def _context(name: str, what: str) -> EnginePlace:
    folder = (docker_config.folder() or Path("/nonexistent")) / "contexts"
    number = hashlib.sha256(name.encode()).hexdigest()
    try:
        endpoint = parse_json(read_regular(folder / "meta" / number / "meta.json"))["Endpoints"]["docker"]
        host, unverified = str(endpoint["Host"]), bool(endpoint.get("SkipTLSVerify"))
    except FileNotFoundError as error:
        raise SandboxError(f"{what}: there is no Docker context of this name", hint=_LOOK) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SandboxError(f"{what}: this Docker context cannot be read: {error!r}", hint=_LOOK) from error
    return EnginePlace(f"{name} ({host})", host, _tls(folder / "tls" / number / "docker", unverified=unverified))


def _tls(folder: Path, *, unverified: bool) -> Any:
    """Return the certificates of a context; None if it has none."""
    ca, cert, key = (folder / f"{name}.pem" for name in ("ca", "cert", "key"))
    if not (ca.is_file() or cert.is_file()):
        return None
    from docker.tls import TLSConfig

    client = (str(cert), str(key)) if cert.is_file() else None
    return TLSConfig(client_cert=client, ca_cert=str(ca) if ca.is_file() else None, verify=not unverified)


def client_settings(place: EnginePlace | None) -> dict[str, Any]:
    """Return the settings of the docker package's client for a place, or else for the engine that the environment names.

    Raises SandboxError for a DOCKER_HOST of ssh://, for which the docker package would need more packages.
    """
    from docker.utils import kwargs_from_env

    given = dict(kwargs_from_env())
    if place is None:
        named = str(given.get("base_url", ""))
        if named.strip().lower().startswith("ssh://"):
            raise _unspoken(named, "DOCKER_HOST", named)
        return given
    # A context has its own TLS settings; for an address, the environment decides, as for DOCKER_HOST.
    by_address = place.shown == place.address and not place.address.startswith("unix:")
    tls = place.tls or (given.get("tls") if by_address else None)
    return {"base_url": place.address, **({"tls": tls} if tls else {})}
