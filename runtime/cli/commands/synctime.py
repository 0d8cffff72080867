# SPDX-License-Identifier: Apache-2.0
"""`tower synctime [HOST...]`: set the clocks of offline hosts to the router's time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tower.base.errors import AnswerError, DownError, HostError, RefusedError, TowerError
from tower.base.names import ROUTER, seconds
from tower.base.view import View
from tower.hosts.registry import Host, Tower, tower_of_user
from tower.install.connection import connect
from tower.status import clock
from tower.status.clock import Reading

EXAMPLES: Final = """\
examples:
  tower synctime               all offline hosts
  tower synctime vault         this one
  tower synctime --dry-run     show by how much their clocks are off

Online hosts get the time from the router by themselves; offline hosts ask nobody. To set their clocks every quarter of an
hour, add this line with `crontab -e`; with --quiet, a host that is off is not a failure:

  */15 * * * * tower synctime --quiet

The exit status is 0 if all these hosts have the router's time, else 15.
"""
_AT_ONCE: Final = 8
_TRIES: Final = 3
"""On a busy machine, `date` starts late."""
_TOLERATED: Final = 0.5
"""Seconds by which a clock may be wrong after the last try."""
_ABSENT: Final = (DownError, RefusedError)
"""The errors of a host that is off, or is just starting."""


@dataclass(frozen=True, slots=True)
class _Result:
    """The result for one host's clock."""

    host: Host
    state: str
    """set, right, off (a dry run leaves it so), or failed"""
    offset: float | None = None
    """Seconds by which it was ahead of the router's."""
    error: float | None = None
    left: float | None = None
    """Seconds by which it is ahead after it was set."""
    reason: str = ""
    absent: bool = False


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="an offline host; default: all of them")
    parser.add_argument(
        "--timeout", type=seconds, default=10, metavar="SECONDS", help="to connect to a host (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only show by how much their clocks are wrong")
    parser.add_argument("--quiet", action="store_true", help="do not mention hosts that are right, set or off; for cron")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Read the router's clock, then compare and set the others; return the exit status."""
    view, tower = View(json=args.json), tower_of_user()
    hosts = _offline(tower, args.hosts)
    if not hosts:
        if not args.quiet:
            view.say("there are no offline hosts")
        return 0
    try:
        wanted, follows = _router(tower, args.timeout)
    except _ABSENT:
        if args.quiet:
            return 0
        raise
    if follows is False:
        view.say("router: its own time is not from the Internet (yet); the others get it nevertheless")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(lambda host: _sync(tower, host, wanted, args), hosts))
    for one in results:
        if not args.quiet or (one.state == "failed" and not one.absent):
            view.say(_text(one))
    if args.json:
        view.show({"router_follows_internet": follows, "hosts": [_row(one) for one in results]})
    bad = [one for one in results if one.state == "failed" and not (args.quiet and one.absent)]
    return AnswerError.exit_status if bad else 0


def _offline(tower: Tower, names: Sequence[str]) -> tuple[Host, ...]:
    hosts = tower.named(names)
    online = [host for host in hosts if host.env.online]
    if names and online:
        raise HostError(f"{online[0].name}: is online, and has its time from the router or the Internet by itself")
    if not any(host.name == ROUTER for host in tower.hosts()):
        raise HostError("there is no router to take the time from", hint="make it: tower provision router --wlan-ssid NAME")
    return tuple(host for host in hosts if not host.env.online)


def _router(tower: Tower, timeout: float) -> tuple[Reading, bool | None]:
    """Read the router's time and check it."""
    with connect(tower, tower.host(ROUTER), timeout=timeout) as session:
        follows = clock.follows_the_internet(session)
        found = clock.read_clock(session)
    clock.check_sane(ROUTER, found.now(), clock.earliest())
    return found, follows


def _sync(tower: Tower, host: Host, wanted: Reading, args: argparse.Namespace) -> _Result:
    """Compare and set one host's clock."""
    try:
        with connect(tower, host, timeout=args.timeout) as session:
            before = clock.read_clock(session)
            offset, error = before.offset - wanted.offset, before.error + wanted.error
            if not clock.is_off(before, wanted):
                return _Result(host, "right", offset, error)
            if args.dry_run:
                return _Result(host, "off", offset, error)
            after = before
            for _ in range(_TRIES):
                clock.set_clock(session, wanted, lead=min(after.error, 0.2))
                after = clock.read_clock(session)
                if not clock.is_off(after, wanted):
                    break
    except TowerError as failure:
        absent = isinstance(failure, _ABSENT)
        return _Result(host, "failed", reason=failure.message.removeprefix(f"{host.name}: "), absent=absent)
    left = after.offset - wanted.offset
    if abs(left) > _TOLERATED:
        return _Result(host, "failed", offset, error, left, f"was set, but is still wrong by {left:+.3f} s")
    return _Result(host, "set", offset, error, left)


def _text(one: _Result) -> str:
    match one.state:
        case "set":
            return f"{one.host.name}: was off by {one.offset:+.3f} s, is set (now {one.left:+.3f} s)"
        case "failed":
            return f"{one.host.name}: {one.reason}"
        case _:
            return f"{one.host.name}: is {one.state}: {one.offset:+.3f} s (give or take {one.error:.3f} s)"


def _row(one: _Result) -> dict[str, object]:
    return {
        "host": one.host.name,
        "state": one.state,
        "offset": one.offset,
        "error": one.error,
        "left": one.left,
        "reason": one.reason,
    }
