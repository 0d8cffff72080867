# SPDX-License-Identifier: Apache-2.0
"""`tower status [HOST...]`: which hosts are up, and how they are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

from tower.base import streams
from tower.base.errors import AnswerError, ValueRefusedError
from tower.base.names import HostName, seconds
from tower.hosts.registry import Host, tower_of_user
from tower.status.status import State, Status, Survey, survey

EXAMPLES: Final = """\
examples:
  tower status                 all hosts
  tower status web vault       these two
  tower status --watch         repeat until Ctrl-C
  tower status --json

up: the host answers. down: no machine answers. strange: a machine answers, but not as the host should; the reason is shown.
The exit status is 0 if all hosts that were asked are up, else 15.
"""
_LONGEST: Final = 300.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="a host; default: all")
    parser.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument(
        "--interval", type=seconds, default=2, metavar="SECONDS", help="between two rounds of --watch (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=seconds, default=10, metavar="SECONDS", help="time limit for a host's answer (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; with --watch, one per line")


def execute(args: argparse.Namespace) -> int:
    """Ask the hosts and show their states; return 0 if all are up, else 15. Raises ValueRefusedError."""
    for name in ("interval", "timeout"):
        if not 0.1 <= getattr(args, name) <= _LONGEST:
            raise ValueRefusedError(f"--{name} is {getattr(args, name):g}, expected 0.1 to {_LONGEST:g} seconds")
    tower = tower_of_user()
    hosts = tower.named(args.hosts)
    if not hosts and not args.json:
        streams.note("there are no hosts yet; make the first one: tower provision router --wlan-ssid NAME\n")
        return 0
    with survey(tower, limit=args.timeout, keep=args.watch) as asked:
        show = _show_json if args.json else _show_table
        try:
            all_up = show(asked, hosts, args.interval if args.watch else None)
        except KeyboardInterrupt:
            if not args.watch:
                raise
            return 0  # Ctrl-C is the normal end of a watch
    return 0 if all_up else AnswerError.exit_status


def _rounds(interval: float | None) -> Iterator[None]:
    """Yield once, or without end, at each interval in seconds."""
    while True:
        start = time.monotonic()
        yield
        if interval is None:
            return
        time.sleep(max(0.0, start + interval - time.monotonic()))


def _show_table(asked: Survey, hosts: tuple[Host, ...], interval: float | None) -> bool:
    from tower.cli import board

    console = board.console()
    if not console.is_terminal:
        return _show_plain(asked, hosts, interval)
    found: dict[HostName, Status] = {}
    with board.live(console) as show:
        show(board.table(hosts, found, width=console.width))
        for _ in _rounds(interval):
            for status in asked.ask(hosts):
                found[status.host.name] = status
                show(board.table(hosts, found, width=console.width))
    return _all_up(found)


def _show_plain(asked: Survey, hosts: tuple[Host, ...], interval: float | None) -> bool:
    """Print whole tables, whose lines are not wrapped: for a pipe or a file."""
    from tower.cli import board

    console = board.console(width=200)
    for _ in _rounds(interval):
        found = {status.host.name: status for status in asked.ask(hosts)}
        console.print(board.table(hosts, found, width=console.width))
    return _all_up(found)


def _show_json(asked: Survey, hosts: tuple[Host, ...], interval: float | None) -> bool:
    for _ in _rounds(interval):
        found = {status.host.name: status for status in asked.ask(hosts)}
        rows = [_row(found[host.name]) for host in hosts]
        streams.show_json({"hosts": rows, "all_up": _all_up(found)})
        sys.stdout.flush()
    return _all_up(found)


def _all_up(found: dict[HostName, Status]) -> bool:
    return all(status.state is State.UP for status in found.values())


def _row(status: Status) -> dict[str, object]:
    host = status.host
    return {
        "host": host.name,
        "address": str(host.env.address),
        "network": host.env.network.name,
        "router": host.env.is_router,
        "color": host.env.color,
        "state": status.state.value,
        "reason": status.reason,
        "seconds": round(status.seconds, 3),
        **(asdict(status.report) if status.report else {}),
    }
