# SPDX-License-Identifier: Apache-2.0
"""`tower poweroff HOST...`: switch hosts off. `tower reboot` uses the same code with another order."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tower.base.errors import AnswerError, TowerError, ValueRefusedError
from tower.base.names import seconds
from tower.base.view import View
from tower.hosts.registry import Tower, tower_of_user
from tower.status import power
from tower.status.power import Order, PowerOutcome, Told
from tower.status.status import State, Status, Survey, survey

EXAMPLES: Final = """\
examples:
  tower poweroff web
  tower poweroff --all                all hosts, the router last
  tower poweroff web vault --yes      without asking, for scripts
  tower poweroff web --no-wait        do not wait until it is off

A host is off when no machine on its network has its address any more.
The exit status is 0 if all hosts are off, else 15.
"""
_AT_ONCE: Final = 8
_WORDS: Final = {Order.POWEROFF: "switched off", Order.REBOOT: "started anew"}
_DONE: Final = {Order.POWEROFF: "off", Order.REBOOT: "back"}
_LIMITS: Final = {Order.POWEROFF: 120, Order.REBOOT: 300}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    declare(parser, Order.POWEROFF)


def execute(args: argparse.Namespace) -> int:
    """Switch hosts off; return the exit status."""
    return obey(args, Order.POWEROFF)


def declare(parser: argparse.ArgumentParser, order: Order) -> None:
    """Declare the arguments of both commands."""
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="a host")
    parser.add_argument("--all", action="store_true", help="all hosts")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--no-wait", action="store_false", dest="wait", help="send the order, do not wait for the result")
    parser.add_argument(
        "--timeout", type=seconds, default=_LIMITS[order], metavar="SECONDS", help="to wait for a host (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def obey(args: argparse.Namespace, order: Order) -> int:
    """Confirm, send the order, wait; the exit status tells whether all hosts obeyed. Raises ValueRefusedError."""
    if bool(args.hosts) == args.all:
        raise ValueRefusedError("name the hosts, or give --all", hint=f"tower {order.value} --all")
    view, tower = View(json=args.json), tower_of_user()
    hosts = tower.named(args.hosts)
    if not hosts:
        view.say("there are no hosts")
        return 0
    with survey(tower, limit=10) as asked:
        found = {status.host.name: status for status in asked.ask(hosts)}
        up = [host for host in hosts if found[host.name].state is State.UP]
        outcomes = list(_told_already(order, [found[host.name] for host in hosts if host not in up], view))
        if up:
            view.confirm(f"{', '.join(host.name for host in up)} will be {_WORDS[order]}. Go on?", yes=args.yes)
        for group in power.in_order(up):
            for outcome in _group(tower, [found[host.name] for host in group], order, asked, args):
                _say(outcome, view)
                outcomes.append(outcome)
    if args.json:
        view.show(_rows(order, outcomes))
    return 0 if all(one.done for one in outcomes) else AnswerError.exit_status


def _told_already(order: Order, found: Sequence[Status], view: View) -> Iterator[PowerOutcome]:
    """Yield the results of hosts that cannot be reached: those that are off have obeyed already, if that is the order."""
    off = power.switched_off([status.host for status in found]) if order is Order.POWEROFF else set()
    for status in found:
        done = status.host.name in off
        outcome = PowerOutcome(status.host, done, "is off already" if done else f"cannot be reached: {status.reason}", 0.0)
        _say(outcome, view)
        yield outcome


def _group(
    tower: Tower, found: Sequence[Status], order: Order, asked: Survey, args: argparse.Namespace
) -> Iterator[PowerOutcome]:
    """Send the order to some hosts at once, and wait for all of them."""
    told: list[Told] = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for status, telling in [(status, pool.submit(power.tell, tower, status, order)) for status in found]:
            try:
                told.append(telling.result())
            except TowerError as error:
                yield PowerOutcome(
                    status.host, False, f"cannot be reached: {error.message.removeprefix(f'{status.host.name}: ')}", 0.0
                )
    for one in told if args.wait else ():
        View().say(f"{one.host.name}: waiting until it is {_DONE[order]}")
    if not args.wait:
        yield from (PowerOutcome(one.host, True, "told", 0.0) for one in told)
    elif order is Order.POWEROFF:
        yield from power.wait_until_off(told, limit=args.timeout)
    else:
        yield from power.wait_until_back(told, asked, limit=args.timeout)


def _say(outcome: PowerOutcome, view: View) -> None:
    view.say(f"{outcome.host.name}: {outcome.text}" + (f", {outcome.seconds:.0f} s" if outcome.seconds >= 1 else ""))


def _rows(order: Order, outcomes: Sequence[PowerOutcome]) -> dict[str, object]:
    rows = [{"host": one.host.name, "done": one.done, "text": one.text, "seconds": round(one.seconds, 1)} for one in outcomes]
    return {"order": order.value, "hosts": rows, "all_done": all(one.done for one in outcomes)}
