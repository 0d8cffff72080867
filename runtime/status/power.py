# SPDX-License-Identifier: Apache-2.0
"""Switch hosts off or restart them: send the order over ssh, then watch until it has really happened.

A machine is off when its network no longer knows it: any machine with power, a network and an address answers the
question who has the address (ARP), also behind a firewall. A host is back when its system shows another boot ID than
before: one that never went down is not back. The router comes last, since the others reach the Internet through it.
"""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tower.base import proc
from tower.base.errors import LostError, ToolError
from tower.base.names import HostName
from tower.base.networks import Network
from tower.hosts.registry import Host, Tower
from tower.install.connection import connect
from tower.ssh.sessions import SYSTEM_PATH
from tower.status.status import Status, Survey

_SSH: Final = 22
_PAUSE: Final = 1.0
_ASKED: Final = 20.0
"""Seconds for a host to accept the order."""
_UNKNOWN: Final = 4.0
"""Seconds in which the kernel finds out that nobody has an address: it asks three times, a second apart."""
_GONE: Final = frozenset({errno.EHOSTUNREACH, errno.EHOSTDOWN})


class Order(StrEnum):
    """The order for a host; the value is the name of the program."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"


@dataclass(frozen=True, slots=True)
class Told:
    """A host that accepted an order."""

    host: Host
    boot: str
    """The ID of the host's start at that time."""
    since: float


@dataclass(frozen=True, slots=True)
class PowerOutcome:
    """The result for one host."""

    host: Host
    done: bool
    text: str
    seconds: float


def in_order(hosts: Iterable[Host]) -> Iterator[tuple[Host, ...]]:
    """Yield groups of hosts, one after the other; the hosts of a group go together."""
    found = sorted(hosts, key=lambda host: host.name)
    for group in ([host for host in found if not host.env.is_router], [host for host in found if host.env.is_router]):
        if group:
            yield tuple(group)


def tell(tower: Tower, found: Status, order: Order) -> Told:
    """Send a host its order, without waiting for the result. Raises AnswerError, or RemoteError if the host refuses."""
    since = time.monotonic()
    with connect(tower, found.host) as session:
        try:
            session.root([order.value], env=SYSTEM_PATH, timeout=_ASKED, hint=f"see: ssh {found.host.name} doas {order.value}")
        except LostError:
            pass  # it went down before it could answer
    return Told(found.host, found.report.boot if found.report else "", since)


def wait_until_off(told: Iterable[Told], *, limit: float) -> Iterator[PowerOutcome]:
    """Yield each host when it is off, or when `limit` seconds have passed."""
    waiting = list(told)
    while waiting:
        start = time.monotonic()
        off = switched_off([one.host for one in waiting])
        for one in tuple(waiting):
            seconds = time.monotonic() - one.since
            if one.host.name in off or seconds >= limit:
                waiting.remove(one)
                done = one.host.name in off
                yield PowerOutcome(one.host, done, "off" if done else f"still on after {limit:.0f} s", seconds)
        _pause(waiting, start)


def wait_until_back(told: Iterable[Told], asked: Survey, *, limit: float) -> Iterator[PowerOutcome]:
    """Yield each host when it answers after its restart, or when `limit` seconds have passed."""
    waiting = {one.host.name: one for one in told}
    while waiting:
        start = time.monotonic()
        for found in asked.ask([one.host for one in waiting.values()]):
            one = waiting[found.host.name]
            seconds = time.monotonic() - one.since
            back = found.report is not None and found.report.boot != one.boot
            if back or seconds >= limit:
                del waiting[found.host.name]
                why = found.reason or "it has not gone down"
                yield PowerOutcome(one.host, back, "back" if back else f"not back after {limit:.0f} s: {why}", seconds)
        _pause(waiting, start)


def _pause(waiting: Sized, start: float) -> None:
    if waiting:
        time.sleep(max(0.0, start + _PAUSE - time.monotonic()))


def switched_off(hosts: Sequence[Host]) -> set[HostName]:
    """Return the hosts whose address no machine answers for. All are asked at once."""
    off: set[HostName] = set()
    _forget({host.env.network for host in hosts})
    with selectors.DefaultSelector() as selector, ExitStack() as stack:
        for host in hosts:
            probe = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            if probe.connect_ex((str(host.env.address), _SSH)) in (0, errno.EINPROGRESS):
                selector.register(probe, selectors.EVENT_WRITE, host)
        end = time.monotonic() + _UNKNOWN
        while selector.get_map() and time.monotonic() < end:
            for key, _ in selector.select(max(0.0, end - time.monotonic())):
                probe = key.fileobj  # type: ignore[assignment]
                selector.unregister(probe)
                if probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _GONE:
                    off.add(key.data.name)
    return off


def _forget(networks: Iterable[Network]) -> None:
    """Make the kernel forget who has which address: otherwise it remembers for half a minute, even if nobody has it any more.

    If this is not permitted or possible, it only takes longer.
    """
    for network in networks:
        with suppress(ToolError):
            proc.run((*proc.as_root_here(), "ip", "neigh", "flush", "dev", network.interface), timeout=5, check=False)
