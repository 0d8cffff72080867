# SPDX-License-Identifier: Apache-2.0
"""The flow of an audit: all hosts at once, in bounded time, and nothing is left behind on any machine.

1. checks on this machine; 2. each host is asked for facts; 3. all hosts try to reach all others, while arrivals here are
counted; 4. this machine tries each host past its own firewall.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, TypeVar

from tower.audit import doors, local, probe, tries, verdict, ways
from tower.audit.attack import Victim
from tower.audit.checks import INTERNET, THINCLIENT, AuditReport, Check, judged, not_tried
from tower.audit.packets import wires
from tower.audit.probe import Answered, Facts
from tower.audit.state import Audit, Options
from tower.base import proc
from tower.base.errors import TowerError
from tower.base.networks import ONLINE
from tower.base.view import View
from tower.hosts.registry import Host, Tower
from tower.install.connection import connect
from tower.ssh.sessions import Session

_MOST_AT_ONCE: Final = 32
_SETTLE: Final = 1.5
"""Seconds to wait for a host's answer."""
_METHODS: Final = re.compile(r"Permission denied \(([a-z0-9,-]+)\)")
_Given = TypeVar("_Given")


def audit(tower: Tower, options: Options, view: View) -> AuditReport:
    """Try everything; a try that was not possible is in the report, and is no error."""
    one = Audit(tower, tower.hosts(), options)
    with view.step("looking at this machine"):
        one.checks += local.check_here(tower, one.hosts)
    # At the end, close the connections first: that ends the waiting of the threads.
    with ThreadPoolExecutor(max(1, min(len(one.hosts), _MOST_AT_ONCE))) as pool, ExitStack() as stack:
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        with view.step(f"asking {len(one.hosts)} hosts about themselves"):
            opened = _ask(one, pool, stack)
        try:
            one.attack_from(stack.enter_context(wires([network.interface for network in one.networks])))
        except TowerError as error:
            one.why_no_wires = error.message
        with view.step("hosts try to reach each other, this machine and the Internet"):
            _try(one, pool, opened)
        with view.step("this machine tries its hosts"):
            _attack(one)
    return AuditReport((THINCLIENT, *(host.name for host in one.hosts), INTERNET), tuple(one.checks))


def _each(one: Audit, pool: ThreadPoolExecutor, what: Callable[[Host], _Given]) -> dict[str, _Given]:
    """Do something for all hosts at once; a host that fails is noted in `why`, and left out from then on."""
    begun = {host.name: pool.submit(what, host) for host in one.hosts if host.name not in one.why}
    done: dict[str, _Given] = {}
    for name, future in begun.items():
        try:
            done[name] = future.result()
        except TowerError as error:
            one.why[name] = error.message
    return done


def _ask(one: Audit, pool: ThreadPoolExecutor, stack: ExitStack) -> dict[str, Session]:
    def ask(host: Host) -> tuple[Session, Facts, Check]:
        session = stack.enter_context(connect(one.tower, host, timeout=one.options.timeout))
        return session, probe.ask(session), login(one.tower, host)

    opened = {}
    for name, (session, facts, logged) in _each(one, pool, ask).items():
        opened[name], one.facts[name] = session, facts
        one.checks.append(logged)
    for host in one.hosts:
        if host.name in one.facts:
            one.checks.append(judged("answers", host.name, [], well="ssh works, by the key made for it"))
            one.checks += verdict.about_host(host, one.facts[host.name])
        else:
            one.checks.append(not_tried("answers", host.name, one.why[host.name]))
    return opened


def login(tower: Tower, host: Host) -> Check:
    """Check who can log in to its ssh server: nobody without a key, and not root."""
    base = ("ssh", "-F", tower.config, "-n", "-T", "-o", "BatchMode=yes", "-o", "ControlPath=none", "-o", "ConnectTimeout=10")
    faults = []
    for who, words in (("anybody", ("-o", "PubkeyAuthentication=no")), ("root", ("-l", "root"))):
        done = proc.run((*base, *words, "--", host.name, "true"), timeout=30, check=False)
        found = _METHODS.search(done.stderr.decode(errors="replace"))
        if done.status != 255:
            faults.append(f"lets {who} in")
        elif found is None:
            return not_tried("login", host.name, "its ssh server did not say how to log in")
        elif found[1] != "publickey":
            faults.append(f"offers to log in with {found[1]}")
    return judged("login", host.name, faults, well="by key alone, and not as root")


def _try(one: Audit, pool: ThreadPoolExecutor, opened: dict[str, Session]) -> None:
    # A name that does not exist.
    label = f"{secrets.token_hex(8)}.example.com"
    with doors.opened() as open_doors:
        options = one.options
        plan = tries.TryPlan(
            one.hosts,
            one.facts,
            tries.addresses_here(),
            open_doors.tcp_port,
            open_doors.udp_port,
            options.internet,
            options.internet_port,
        )

        def attempt(host: Host) -> tuple[Answered, ...]:
            return probe.attempt(opened[host.name], [*plan.ways(host), *plan.names(host, label)])

        one.answers = _each(one, pool, attempt)
        time.sleep(0.2)
        arrived = ways.arrivals(one, open_doors)
    for host in one.hosts:
        one.checks += ways.from_host(one, host, arrived)


def _attack(one: Audit) -> None:
    starts = {name: len(attacker.wire.seen) for name, attacker in one.attackers.items()}
    router = next((host for host in one.hosts if host.env.is_router), None)
    victims: list[tuple[Host, Victim]] = []
    for host in one.hosts:
        attacker = one.attacker(host)
        victim = one.victim(host) if host.name in one.facts else None
        if attacker is None or victim is None:
            continue
        try:
            attacker.send(victim)
            if host == router:
                attacker.send_through(victim, one.options.internet, one.options.internet_port)
        except TowerError as error:
            one.why_no_wires, one.attackers = error.message, {}
            break
        victims.append((host, victim))
    if victims and one.attackers:
        time.sleep(_SETTLE)
        for host, victim in victims:
            one.attackers[host.env.network.name].forget(victim)
    one.checks.append(ways.to_internet(one, router, starts.get(ONLINE.name, 0)))
    for host in one.hosts:
        one.checks.append(ways.to_host(one, host, starts.get(host.env.network.name, 0)))
