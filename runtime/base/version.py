# SPDX-License-Identifier: Apache-2.0
"""The version of `tower`, and the system that it runs on."""

from __future__ import annotations

import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tower.base.regular import read_regular

OS_RELEASE = Path("/etc/os-release")


_MOST: Final = 64 << 10


def tower_version() -> str:
    """Return the version of the installed wheel; "unknown" in a checkout that was not installed."""
    try:
        return version("tower")
    except PackageNotFoundError:
        return "unknown"


def read_os_release(path: Path) -> dict[str, str]:
    """Return the assignments of an os-release file; empty if there is none."""
    try:
        text = read_regular(path, most=_MOST).decode(errors="replace")
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            try:
                found[name] = "".join(shlex.split(value))
            except ValueError:
                continue
    return found
