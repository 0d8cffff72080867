# SPDX-License-Identifier: Apache-2.0
"""`tower audit`: try what the isolation of a Tower forbids, and report what held."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from typing import Final

from tower.base import streams
from tower.base.errors import AnswerError, ValueRefusedError
from tower.base.names import seconds
from tower.base.networks import parse_address

EXAMPLES: Final = """\
examples:
  tower audit
  tower audit --json | jq '.checks[] | select(.outcome != "held")'
  tower audit --all-ports                    every port of every host, five seconds a host
  tower audit --internet 198.51.100.7:443    another server that online hosts must reach

Every machine tries to reach every other, by TCP, UDP and ICMP, IPv4 and IPv6; offline hosts ask for names; this machine
sends past its own firewall to each host, as itself and as a machine that does not exist. Rules, settings and who may read
your keys are compared with what they should be. Nothing is changed on any machine.

Exit status: 0 all held; 1 something is broken; 15 nothing is, but not all could be tried: a host that is off, a router
that is not connected. Silence counts as held only where something else was answered.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--internet",
        default="9.9.9.9:443",
        metavar="ADDRESS:PORT",
        help="a server that takes TCP connections: online hosts must reach it, nobody else (default: %(default)s)",
    )
    parser.add_argument("--all-ports", action="store_true", help="try every port of the hosts, not only common ones")
    parser.add_argument(
        "--timeout", type=seconds, default=10, metavar="SECONDS", help="to wait for a host's answer (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print all checks as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Audit the Tower; return the exit status."""
    from tower.audit.checks import Verdict
    from tower.audit.flow import audit
    from tower.audit.state import Options
    from tower.base.view import View
    from tower.hosts.registry import tower_of_user

    address, port = _server(args.internet)
    report = audit(tower_of_user(), Options(address, port, args.all_ports, args.timeout), View(json=args.json))
    if args.json:
        streams.show_json(report.as_json())
    else:
        from tower.audit.matrix import show

        show(report)
    return {Verdict.HELD: 0, Verdict.BROKEN: 1, Verdict.NOT_TRIED: AnswerError.exit_status}[report.outcome]


def _server(text: str) -> tuple[IPv4Address, int]:
    address, _, port = text.partition(":")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueRefusedError(f"{text!r} is not ADDRESS:PORT", hint="for example: 198.51.100.7:443")
    return parse_address(address), int(port)
