# SPDX-License-Identifier: Apache-2.0
"""The command line of `tower`: a table of commands, each in a module of its own that is imported when called.

A command's module has `arguments(parser)`, which declares what it takes, and `execute(args) -> int`, which
does it and returns the exit status.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final, Protocol, cast

COMMANDS: Final = {
    "verify-image": "check an image against its makers' signatures",
    "version": "show the versions of tower and of this system",
}
"""Name of a command, which is that of its module in `tower.commands` (with `_` for `-`), and its one line of help."""


class Command(Protocol):
    """What the module of a command offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def execute(self, args: argparse.Namespace) -> int:
        """Do it; the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it succeeded, 2 if the command line is wrong."""
    args_in = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="tower",
        description="Provision and use the hosts of this thin client.",
        epilog="The manual is in the folder docs of the medium, and in ~/docs once installed.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in args_in if not word.startswith("-")), "")
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            _load(name).arguments(sub)
    args = parser.parse_args(args_in)
    try:
        return _load(args.command).execute(args)
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return 130


def _load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"tower.commands.{name.replace('-', '_')}"))
