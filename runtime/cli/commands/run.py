# SPDX-License-Identifier: Apache-2.0
"""`tower run HOST COMMAND...`: run a command of a host on this terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from tower.base.errors import ValueRefusedError
from tower.base.names import parse_host_name, seconds
from tower.hosts.registry import tower_of_user
from tower.install.connection import connect
from tower.ssh import foreground

EXAMPLES: Final = """\
examples:
  tower run web uname -a
  tower run web vi /etc/motd                   with a terminal, if this is one
  tower run web sh -c 'ls *.jpg | wc -l'       a pipe, and patterns, on the host
  tower run web cat notes.txt > notes.txt      its output, here
  tar c photos | tower run vault tar x

Each word arrives at the command as it is: the host's shell replaces nothing in it. The exit status is the command's own,
128+N if signal N ended it there, or one of tower's if it could not be run. Signals are passed on to it.
Options of tower stand before the host; what follows it belongs to the command.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    tty = parser.add_mutually_exclusive_group()
    tty.add_argument("--tty", action="store_true", default=None, help="give the command a terminal (default: if this is one)")
    tty.add_argument("--no-tty", action="store_false", dest="tty", help="do not give it a terminal")
    parser.add_argument("--timeout", type=seconds, default=10, metavar="SECONDS", help="to connect (default: %(default)s)")
    parser.add_argument("host", metavar="HOST", help="the host")
    parser.add_argument("command_line", metavar="COMMAND", nargs=argparse.REMAINDER, help="the command and its arguments")


def execute(args: argparse.Namespace) -> int:
    """Run the command; return its exit status."""
    tower = tower_of_user()
    host = tower.host(parse_host_name(args.host))
    argv = args.command_line[1:] if args.command_line[:1] == ["--"] else args.command_line
    if not argv:
        raise ValueRefusedError(f"{host.name}: the command is missing", hint=f"for a session with its shell: ssh {host.name}")
    tty = sys.stdin.isatty() and sys.stdout.isatty() if args.tty is None else args.tty
    with connect(tower, host, timeout=args.timeout) as session:
        return foreground.run(session, argv, tty=tty)
