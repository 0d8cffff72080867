# SPDX-License-Identifier: Apache-2.0
"""The parts of the user's Docker configuration (~/.docker/config.json) that count here: HTTP headers and registry logins.

People and tools leave odd things there, and the docker package reads all of it for every connection, and passes its
proxies to every container. So we read only these parts: what is not understood is ignored, and nothing of it reaches a
sandbox.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BEARER = "<token>"
"""The user name of a token; a password login never has it."""


def folder() -> Path | None:
    """Return the folder of Docker's configuration: DOCKER_CONFIG, or ~/.docker. None for a user without a home."""
    named = os.environ.get("DOCKER_CONFIG", "")
    try:
        return Path(named) if named else Path.home() / ".docker"
    except RuntimeError:
        return None


def headers() -> dict[str, str]:
    """Return the HTTP headers that the user wants in every request to the engine (`HttpHeaders`)."""
    given = _words(_read().get("HttpHeaders"))
    return {name: text for name, text in given.items() if _HEADER.fullmatch(name) and text.isascii() and text.isprintable()}


def login(registry: str) -> tuple[str, str] | None:
    """Return user name and password for a registry (`host`, `host:port`), from `docker login` or its helpers; or None."""
    given, logins = _read(), dict[str, dict[str, str]]()
    for key, entry in _objects(given.get("auths")).items():
        decoded = _decoded(entry)
        if decoded is not None:
            logins[key] = {"username": decoded[0], "password": decoded[1]}
    helped = {"auths": logins, "credHelpers": _words(given.get("credHelpers"))}
    if isinstance(given.get("credsStore"), str):
        helped["credsStore"] = given["credsStore"]
    # If a helper does not know it, or is missing, it may still be in the file.
    return _resolved(helped, registry) or _resolved({"auths": logins}, registry)


def _resolved(known: dict[str, Any], registry: str) -> tuple[str, str] | None:
    from docker import auth, errors

    try:
        found = auth.AuthConfig(known).resolve_authconfig(registry) or {}
    except (errors.DockerException, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    # The answers of helpers use other names than the file.
    name, password = (found.get(key) or found.get(key.title()) for key in ("username", "password"))
    return (str(name), str(password or "")) if name and name != _BEARER else None


def client(**settings: Any) -> Any:
    """Return the docker package's client, with only the headers of the configuration. Raises what the package raises."""
    import docker
    from docker.utils import config

    class EngineClient(docker.APIClient):
        def _retrieve_server_version(self) -> Any:  # the client asks for it first
            self.headers.update(headers())
            return super()._retrieve_server_version()  # type: ignore[misc]

    config.find_config_file = lambda *_: None
    return EngineClient(**settings, version="auto")


def _read() -> Mapping[str, Any]:
    place = folder()
    try:
        found = parse_json(read_regular(place / "config.json")) if place is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _objects(value: Any) -> dict[str, dict[str, Any]]:
    return {key: row for key, row in value.items() if isinstance(row, dict)} if isinstance(value, dict) else {}


def _words(value: Any) -> dict[str, str]:
    return {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}


def _decoded(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    try:
        name, colon, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return None
    return (name, password.rstrip("\0")) if colon else None
