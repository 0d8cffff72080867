# SPDX-License-Identifier: Apache-2.0
"""`tower run HOST COMMAND...`: run a command of a host on this terminal, or a graphical application in a window here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

from tower.base.errors import HostError, RemoteError, StoppedError, TowerError, ValueRefusedError
from tower.base.names import parse_host_name, seconds
from tower.base.refused import OURS, ours
from tower.hosts.registry import Host, Tower, tower_of_user
from tower.install.connection import connect

if TYPE_CHECKING:
    from tower.windows.session import Look, Showing

EXAMPLES: Final = """\
examples:
  tower run web uname -a
  tower run web vi /etc/motd                   with a terminal, if this is one
  tower run web sh -c 'ls *.jpg | wc -l'       a pipe, and patterns, on the host
  tower run web cat notes.txt > notes.txt      its output, here
  tar c photos | tower run vault tar x
  tower run web galculator                     in a window of the desktop
  tower run --list                             the applications with windows
  tower run --attach web                       the window of one that lost it
  tower run --stop web 3f1c09aa

Each word arrives at the command as it is: the host's shell replaces nothing in it. The exit status is the command's own,
128+N if signal N ended it there, or one of tower's if it could not be run. Signals are passed on to the command.
Put tower's options before the host; everything after it belongs to the command.

In a desktop, a program that has a menu entry on the host gets a window, with the host's colour in its title bar. If the
connection breaks, or the window is killed, the program keeps running for an hour.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    tty = parser.add_mutually_exclusive_group()
    tty.add_argument("--tty", action="store_true", default=None, help="give the command a terminal (default: if this is one)")
    tty.add_argument("--no-tty", action="store_false", dest="tty", help="do not give it a terminal")
    window = parser.add_mutually_exclusive_group()
    window.add_argument(
        "--window", action="store_true", default=None, help="open a window for it (default: if it has a menu entry)"
    )
    window.add_argument("--no-window", action="store_false", dest="window", help="do not open a window for it")
    window.add_argument("--list", action="store_true", help="list the applications that have a window, or have lost it")
    window.add_argument("--attach", action="store_true", help="show the one of this ID again, or the only one")
    window.add_argument("--stop", action="store_true", help="end the one of this ID")
    parser.add_argument("--uncolored", action="store_true", help="leave the title bar without the host's colour")
    parser.add_argument(
        "--no-clipboard", action="store_true", help="do not share the clipboard between the window and this machine"
    )
    parser.add_argument("--no-sound", action="store_true", help="do not play its sound on this machine")
    parser.add_argument("--tell", action="store_true", help="show an error in a window, too: for what is started from a menu")
    parser.add_argument("--timeout", type=seconds, default=10, metavar="SECONDS", help="to connect (default: %(default)s)")
    parser.add_argument("host", metavar="HOST", nargs="?", help="the host")
    parser.add_argument(
        "command_line",
        metavar="COMMAND",
        nargs=argparse.REMAINDER,
        help="the command and its arguments; with --attach, --stop: ID",
    )


def execute(args: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises TowerError, and the errors of the system."""
    try:
        return _execute(args)
    except StoppedError:
        raise
    except (TowerError, *OURS) as caught:
        if args.tell:
            from tower.windows.message import tell

            tell(f"tower run: {args.host}", str(ours(caught)))
        raise


def _execute(args: argparse.Namespace) -> int:
    """Raises ValueRefusedError."""
    tower = tower_of_user()
    if args.list:
        return _list(tower, args)
    if args.host is None:
        raise ValueRefusedError("on which host shall it run?", hint="tower run HOST COMMAND; hosts: tower status")
    host = tower.host(parse_host_name(args.host))
    argv = args.command_line[1:] if args.command_line[:1] == ["--"] else args.command_line
    if args.attach or args.stop:
        return _again(tower, host, args, argv)
    if not argv:
        raise ValueRefusedError(f"{host.name}: the command is missing", hint=f"for a session with its shell: ssh {host.name}")
    tty = sys.stdin.isatty() and sys.stdout.isatty() if args.tty is None else args.tty
    try:
        return _run(tower, host, argv, args, tty=tty)
    except RemoteError as error:
        from tower.windows.actions import DISPLAY_PACKAGES, NoDisplayError

        if not isinstance(error, NoDisplayError) or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        _offer(tower, host, DISPLAY_PACKAGES, error)
    return _run(tower, host, argv, args, tty=tty)


def _run(tower: Tower, host: Host, argv: list[str], args: argparse.Namespace, *, tty: bool) -> int:
    """Raises NoDisplayError."""
    with ExitStack() as stack:
        viewer = stack.enter_context(ExitStack())
        window: Showing | None = None

        def load() -> None:
            nonlocal window
            if args.window is not False:
                from tower.windows import session as windows

                if windows.has_screen() and (args.window or _is_in_menu(host, argv[0])):
                    window = viewer.enter_context(windows.Showing(host, _look(argv[0], host, args)))

        # The window loads while ssh connects, and is left last.
        session = stack.enter_context(connect(tower, host, timeout=args.timeout, meanwhile=load))
        if args.window is not False:
            from tower.windows import session as windows

            if args.window or (windows.has_screen() and windows.is_graphical(session, argv[0])):
                return windows.run(session, argv, _look(argv[0], host, args), window)
        viewer.close()
        from tower.ssh import foreground

        return foreground.run(session, argv, tty=tty)


def _is_in_menu(host: Host, program: str) -> bool:
    """Return whether the desktop's menu has a program of the host; the host itself may have changed since."""
    from tower.menu.desktop_files import menu_of_user

    with suppress(TowerError, *OURS):  # nothing that is wrong with the menu is in the way of a command
        return any(one.program == program for one in menu_of_user().shown(host.name))
    return False


def _offer(tower: Tower, host: Host, packages: Sequence[str], error: TowerError) -> None:
    """Install what windows need, after a question. Raises the trouble with that, and the error of a refusal."""
    from tower.base.view import View
    from tower.install.install import install_by_choice

    view = View(json=False)
    view.say(f"{error.message}; they are in the packages {' and '.join(packages)}")
    report = install_by_choice(tower, (str(host.name),), packages, view)
    for problem in report.problems.values():
        raise problem


def _look(name: str, host: Host, args: argparse.Namespace) -> Look:
    from tower.windows.session import Look

    return Look(name, None if args.uncolored else host.env.color, clipboard=not args.no_clipboard, sound=not args.no_sound)


def _again(tower: Tower, host: Host, args: argparse.Namespace, words: list[str]) -> int:
    """Attach an application, or stop it; return the exit status."""
    from tower.windows import session as windows

    with connect(tower, host, timeout=args.timeout) as session:
        found = {one.number: one for one in windows.listed(session)}
        if len(words) > 1 or (words and words[0] not in found):
            raise HostError(
                f"{host.name}: no application runs there as {' '.join(words)}", hint="see those that do: tower run --list"
            )
        if not words and len(found) != 1:
            raise HostError(f"{host.name}: {len(found)} applications have windows", hint="say which: tower run --list")
        one = found[words[0]] if words else next(iter(found.values()))
        if args.stop:
            windows.stop(session, one.number)
            return 0
        return windows.attach(session, one.number, _look(one.program, host, args))


def _list(tower: Tower, args: argparse.Namespace) -> int:
    """Print a line for each application. Hosts that do not answer are passed over, unless one was named."""
    from tower.base.view import View
    from tower.windows import session as windows

    rows: dict[str, object] = {}
    hosts = [tower.host(parse_host_name(args.host))] if args.host else tower.hosts()
    for host in hosts:
        try:
            with connect(tower, host, timeout=args.timeout) as session:
                for one in windows.listed(session):
                    rows[f"{one.host} {one.number}"] = f"{one.program}, {one.seconds // 60} min"
        except TowerError:
            if args.host:
                raise
    View(json=False).show(rows)
    return 0
