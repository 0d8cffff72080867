# SPDX-License-Identifier: Apache-2.0
"""`tower install HOSTS PACKAGE...`: packages, also for machines without the Internet."""

from __future__ import annotations

import argparse
from typing import Final

from tower.base.view import View
from tower.hosts.registry import tower_of_user
from tower.install.install import install_by_choice, parse_names
from tower.install.menu_refresh import refresh_after
from tower.install.outcome import Outcome
from tower.install.servers import parse_server

EXAMPLES: Final = """\
examples:
  tower install web firefox                  ask, then install
  tower install web,vault nano tmux          on both
  tower install vault nano --dry-run         show what would be installed
  tower install vault 'nano>=8' --yes        do not ask
  tower install thinclient mpv               on the thin client itself
  tower install a,b,c firefox --bundle       one download for all three

For an offline host, this machine chooses, downloads and verifies the packages, and sends them in a bundle: the host stays
offline, and an interrupted installation continues where it stopped. Online hosts download for themselves. See
docs/packages.md.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("hosts", metavar="HOSTS", help="a host, several as web,vault, or thinclient")
    parser.add_argument("packages", metavar="PACKAGE", nargs="+", help="as for apk: nano, 'nano>=8', nano=8.2-r0")
    parser.add_argument(
        "--server",
        metavar="NAME[:PORT]",
        action="append",
        default=[],
        help="a package server that machines without the Internet may be connected to, besides those of this machine's "
        "repositories; remembered",
    )
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--bundle",
        action="store_true",
        help="also for online hosts: choose, download and verify on this machine, once for all; send a signed bundle, which "
        "they install without a network",
    )
    ways.add_argument("--tunnel", action="store_true", help="let offline hosts, too, download for themselves, through a tunnel")
    parser.add_argument("--dry-run", action="store_true", help="show what would be installed, change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Install; return the exit status of the first machine with a problem."""
    view, tower = View(json=args.json), tower_of_user()
    servers = [parse_server(text) for text in args.server]
    names = parse_names(args.hosts)
    how = {"bundle": args.bundle, "tunnel": args.tunnel, "yes": args.yes, "dry_run": args.dry_run}
    report = install_by_choice(tower, names, args.packages, view, **how, servers=servers)
    view.show(_rows(report, dry_run=args.dry_run, json=args.json))
    if not args.dry_run:
        refresh_after(tower, [name for name, steps in report.steps.items() if steps], view)
    problems = list(dict.fromkeys(report.problems.values()))
    view.raise_first(problems)
    return 0


def _rows(report: Outcome, *, dry_run: bool, json: bool) -> dict[str, object]:
    """Return the result: all of it for programs, a line for each machine for people."""
    if json:
        done: dict[str, object] = {name: {"done": not dry_run, "steps": list(steps)} for name, steps in report.steps.items()}
        failed = {name: {"done": False, "error": error.message} for name, error in report.problems.items()}
        moved = {} if report.downloaded is None else {"downloaded_bytes": report.downloaded, "sent_bytes": report.sent}
        return {"packages": list(report.words), "hosts": done | failed, **moved}
    words = " ".join(report.words)
    state = "would be installed" if dry_run else "installed"
    good: dict[str, object] = {
        name: f"{words}: {state}, {len(steps)} steps" if steps else f"{words}: already installed"
        for name, steps in report.steps.items()
    }
    return good | dict.fromkeys(report.problems, "not installed")
