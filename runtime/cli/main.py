# SPDX-License-Identifier: Apache-2.0
"""The command line of `tower`: a table of commands, each in a module of its own that is imported when it is called.

A command's module has `arguments(parser)`, which declares its arguments, and `execute(args) -> int`, which runs it and
returns the exit status; `EXAMPLES`, if it has that, ends its help. Errors are shown here, and nowhere else.

Exit statuses: 0 done, 1 not done, 2 a wrong command line, 10 and up by kind (`tower.base.errors`), 128+N ended by signal N.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, cast

from tower.base import streams
from tower.base.errors import StoppedError, TowerError, printable
from tower.base.refused import OURS, ours, refused

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed import SupportsWrite

COMMANDS: Final = {
    "audit": "try what the isolation of this Tower forbids",
    "clipboard": "show and set what crosses by the clipboard",
    "completion": "print a shell's completion script for tower",
    "deprovision": "forget a host and its keys",
    "doctor": "measure what makes the windows of hosts slow",
    "install": "install packages on hosts, or on this machine",
    "mdhelp": "print the manual of all commands as Markdown, or write man pages",
    "menu": "show or refresh the hosts' applications in the menu of the desktop",
    "poweroff": "switch hosts off",
    "provision": "make a host: its keys, its disk, and its first answer",
    "reboot": "restart hosts",
    "run": "run a command on a host, as if it were here",
    "setup": "install TowerOS onto this machine, from the live system",
    "status": "show which hosts are up, and how they are",
    "synctime": "give offline hosts the router's time",
    "upgrade": "upgrade a host or the thin client to another version",
    "verify-image": "check an image against its makers' signatures",
    "version": "show the versions of tower and of this system",
    "volume": "show and set how loud a host's applications are here",
    "wlan-connect": "let the router join another Wi-Fi network",
}
"""The name of a command, which is that of its module in `tower.cli.commands` (with `_` for `-`), and its line of help."""
_EPILOG: Final = """\
examples:
  tower provision router --wlan-ssid Home
  tower provision web --dry-run
  tower COMMAND --help

The manual is on the medium, in toweros/docs.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that notices when its help cannot be written; argparse ignores that."""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        if file is sys.stdout and message:
            streams.show(message)
        else:
            super()._print_message(message, file)


class Command(Protocol):
    """The interface of a command's module."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def execute(self, args: argparse.Namespace) -> int:
        """Run the command; return the exit status."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    end: SystemExit | None = None
    streams.prepare()
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as left:  # raised by argparse: help, or a wrong command line
        end, status = left, left.code if isinstance(left.code, int) else 1
    problem = streams.finish()
    if problem is not None and status == 0:
        return _unwritten(problem)
    if end is not None:
        raise end
    return status


def _run(words: Sequence[str]) -> int:
    """Run a command, and show its error: only this function does. Raises SystemExit for help and for a wrong command line."""
    shown = "tower"
    try:
        chosen = next((word for word in words if not word.startswith("-")), "")
        args = make_parser((chosen,)).parse_args(words)
        shown = f"tower {args.command}"
        _stop_at_signals()
        return _load(args.command).execute(args)
    except TowerError as error:
        return _show(shown, error)
    except BrokenPipeError as error:
        return _unwritten(error)
    except OURS as error:
        problem = streams.finish()
        return _show(shown, ours(error)) if problem is None else _unwritten(problem)
    except KeyboardInterrupt:
        return _show(shown, StoppedError(signal.SIGINT))


def make_parser(wanted: Collection[str] | None) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the commands in `wanted` only (None: of all): others are not imported."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="tower", description="Provision and use the hosts of this thin client.", epilog=_EPILOG, formatter_class=raw
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=raw)
        if wanted is None or name in wanted:
            module = _load(name)
            sub.epilog = getattr(module, "EXAMPLES", None)
            module.arguments(sub)
    return parser


def _load(name: str) -> Command:
    return cast("Command", importlib.import_module(f"tower.cli.commands.{name.replace('-', '_')}"))


def _stop_at_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that it closes what it opened."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    with suppress(ValueError):  # another program uses us in a thread: its signals are its own
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup set it
                signal.signal(number, stop)


def _show(command: str, error: TowerError) -> int:
    with suppress(OSError):
        streams.note(f"{command}: {printable(str(error))}\n")
    return error.exit_status


def _unwritten(problem: OSError) -> int:
    """Show that the output could not be written, unless the reader went away; return the exit status."""
    if isinstance(problem, BrokenPipeError):
        return 128 + signal.SIGPIPE
    return _show("tower", refused(problem, streams.OUTPUT))
