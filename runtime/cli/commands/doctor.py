# SPDX-License-Identifier: Apache-2.0
"""`tower doctor gui`: what makes the windows of hosts slow."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from tower.base.errors import StoppedError, TowerError
from tower.base.names import seconds
from tower.base.view import View
from tower.hosts.registry import tower_of_user
from tower.install.connection import connect

if TYPE_CHECKING:
    from tower.windows.delays import Figures

EXAMPLES: Final = """\
examples:
  tower doctor gui                 all hosts
  tower doctor gui web             one
  tower doctor gui web --json      figures for programs

It starts a display on the host, as for an application, paints on it, and measures the round trip, the link, the host's
servers, how it packs pictures, and how this desktop paints them. Then it says what is slow, and what to change.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("subject", metavar="gui", choices=["gui"], help="windows of hosts")
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="hosts (default: all)")
    parser.add_argument("--timeout", type=seconds, default=10, metavar="SECONDS", help="to connect (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Measure each host, and show it; return 0. Raises TowerError of the first host that could not be measured."""
    from tower.windows.delays import advice, examine

    view, tower = View(json=args.json), tower_of_user()
    hosts = tower.named(args.hosts)
    if not hosts:
        view.say("there are no hosts yet; make the first one: tower provision router --wlan-ssid NAME")
    rows: dict[str, object] = {}
    problems: list[TowerError] = []
    for host in hosts:
        try:
            with connect(tower, host, timeout=args.timeout) as session:
                found = examine(session)
        except StoppedError:
            raise
        except TowerError as error:
            problems.append(error)
            continue
        slow = advice(host.name, found)
        if args.json:
            rows[host.name] = {**asdict(found), "slow": slow}
            continue
        rows[host.name] = _told(found)
        for line in slow or [f"{host.name}: nothing is slow"]:
            view.say(line)
    view.show(rows)
    view.raise_first(problems)
    return 0


def _told(found: Figures) -> str:
    painting = "not measured" if found.painting is None else f"{found.painting} ms"
    return (
        f"round trip {found.round_trip} ms, link {found.megabytes_a_second} MB/s, {found.servers} starts in {found.start:.0f} ms,"
        f" small change {found.small} ms, full picture {found.full} ms ({found.full_kilobytes:.0f} kB), painting {painting}"
    )
