# SPDX-License-Identifier: Apache-2.0
"""`tower version`: which tower this is, and which system it runs on."""

from __future__ import annotations

import argparse
import shlex
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from tower.base import streams
from tower.base.regular import read_regular

EXAMPLES: Final = """\
examples:
  tower version
  tower version --json | jq -r .version
"""
OS_RELEASE = Path("/etc/os-release")
_MOST: Final = 64 << 10


def arguments(parser: argparse.ArgumentParser) -> None:
    """`--json` for programs."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Print the versions."""
    tower = tower_version()
    system = read_os_release(OS_RELEASE)
    if args.json:
        found = {
            "tower": tower,
            "system": system.get("PRETTY_NAME", ""),
            "version": system.get("VERSION_ID", ""),
            "variant": system.get("VARIANT_ID", ""),
            "channel": system.get("TOWER_CHANNEL", ""),
        }
        streams.show_json(found)
    else:
        streams.show(f"tower {tower}\n")
        if system.get("PRETTY_NAME"):
            streams.show(f"{system['PRETTY_NAME']}\n")
    return 0


def tower_version() -> str:
    """The version of the installed wheel; "unknown" in a checkout that was not installed."""
    try:
        return version("tower")
    except PackageNotFoundError:
        return "unknown"


def read_os_release(path: Path) -> dict[str, str]:
    """The assignments of an os-release file; empty if there is none."""
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
