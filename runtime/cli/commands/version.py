# SPDX-License-Identifier: Apache-2.0
"""`tower version`: print the version of tower and of the system."""

from __future__ import annotations

import argparse
from typing import Final

from tower.base import streams
from tower.base.version import OS_RELEASE, read_os_release, tower_version

EXAMPLES: Final = """\
examples:
  tower version
  tower version --json | jq -r .version
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Print the versions; return the exit status."""
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
