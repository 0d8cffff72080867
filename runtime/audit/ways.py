# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom: the checks of every pair of machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from tower.audit import attack, verdict
from tower.audit.checks import INTERNET, THINCLIENT, Check, Verdict, judged, not_tried
from tower.audit.doors import Doors
from tower.audit.probe import Answered, Result
from tower.audit.state import Audit
from tower.hosts.registry import Host

_MOST: Final = 5
_THROUGH: Final = (Result.REACHED, Result.LEFT)
Arrivals = Mapping[tuple[str, str], list[str]]
"""By host, and by the machine that it should not have reached: the proof."""


def arrivals(one: Audit, doors: Doors) -> Arrivals:
    """Return what arrived here while the hosts tried."""
    found: dict[tuple[str, str], list[str]] = {}
    addresses: dict[str, str] = {str(host.env.address): host.name for host in one.hosts}
    for facts_of, facts in one.facts.items():
        addresses |= {str(address): facts_of for _, address in facts.addresses}
    for sender, what in doors.came_in():
        name = addresses.get(sender)
        for suspect in [name] if name else [host.name for host in one.hosts]:
            found.setdefault((suspect, THINCLIENT), []).append(what if name else f"{what}, and came from {sender}")
    for host in one.hosts:
        attacker = one.attacker(host)
        if attacker is not None:
            faults, ways = attack.faults_of(one.seen_from(host), attacker, one.near(host))
            if faults:
                found.setdefault((host.name, THINCLIENT), []).extend(f"{fault}: it arrived here" for fault in faults[:_MOST])
            for other, fault in ways.items():
                found.setdefault((host.name, other), []).append(fault)
    return found


def from_host(one: Audit, host: Host, arrived: Arrivals) -> Iterator[Check]:
    """Yield the checks of a host's ways to all others, and of its queries for names."""
    answers = one.answers.get(host.name, ())
    for target in (THINCLIENT, *(other.name for other in one.hosts if other.name != host.name), INTERNET):
        mine = [answer for answer in answers if answer.tried.target == target]
        more = arrived.get((host.name, target), [])
        if host.name not in one.answers and not more:
            yield not_tried("way", host.name, one.why[host.name], target=target)
        elif target == INTERNET and host.env.online:
            yield _online(one, host, mine)
        else:
            yield _forbidden(one, host, target, mine, more)
    if not host.env.online:
        asked = [answer for answer in answers if answer.tried.protocol in ("name", "resolve")]
        yield verdict.names(host, asked) if asked else not_tried("names", host.name, one.why.get(host.name, "nothing was asked"))


def _forbidden(one: Audit, host: Host, target: str, answers: list[Answered], more: list[str]) -> Check:
    alive = one.internet_answers if target == INTERNET else target == THINCLIENT or target in one.facts
    controls = one.facts[host.name].controls if host.name in one.facts else {}
    found = verdict.way(host.name, target, answers, controls, alive=alive, more=more)
    if found.outcome is Verdict.HELD and target == THINCLIENT:
        # To the host, a packet that its firewall dropped looks like one that ours dropped: only the wire tells them apart.
        attacker = one.attacker(host)
        if attacker is None:
            return not_tried("way", host.name, one.why_no_wires, target=target)
        if attacker.wire.lost:
            return not_tried(
                "way", host.name, f"{attacker.wire.interface}: {attacker.wire.lost} frames came too fast", target=target
            )
    return found


def _online(one: Audit, host: Host, answers: list[Answered]) -> Check:
    """Check that an online host reaches the Internet by IPv4, and not otherwise."""
    four = [answer for answer in answers if ":" not in answer.tried.address]
    six = [answer for answer in answers if ":" in answer.tried.address]
    found = verdict.way(host.name, INTERNET, six, one.facts[host.name].controls, alive=one.internet_answers)
    if found.outcome is not Verdict.HELD:
        return found
    if not any(answer.result is Result.REACHED for answer in four):
        return not_tried("way", host.name, f"{four[0].tried} does not answer: is the router connected?", target=INTERNET)
    return judged("way", host.name, [], target=INTERNET, well="IPv4 through the router, no IPv6")


def to_host(one: Audit, host: Host, start: int) -> Check:
    """Check a host's answers to this machine, and to one that does not exist; `start` is the first frame of this check."""
    attacker = one.attacker(host)
    if host.name not in one.facts:
        return not_tried("way", THINCLIENT, one.why[host.name], target=host.name)
    if attacker is None:
        return not_tried("way", THINCLIENT, one.why_no_wires, target=host.name)
    # Packets that the router forwards belong to the check of its way to the Internet.
    seen = [seen for seen in one.seen_from(host, start) if seen.source != one.options.internet]
    faults, _ = attack.faults_of(seen, attacker, {})
    if faults:
        more = len(faults) - _MOST
        return judged("way", THINCLIENT, faults[:_MOST] + [f"and {more} more"] * (more > 0), target=host.name)
    if not any(attacker.is_control(frame) for frame in seen):
        return not_tried("way", THINCLIENT, "its ssh server did not answer such tries", target=host.name)
    if attacker.wire.lost:
        return not_tried(
            "way", THINCLIENT, f"{attacker.wire.interface}: {attacker.wire.lost} frames came too fast", target=host.name
        )
    return judged("way", THINCLIENT, [], target=host.name, well="answers on port 22, to this machine, and to nothing else")


def to_internet(one: Audit, router: Host | None, start: int) -> Check:
    """Check that the router does not forward this machine's packets into the Internet."""
    if router is None:
        return judged("way", THINCLIENT, [], target=INTERNET, well="there is no router")
    attacker = one.attacker(router)
    if attacker is None or router.name not in one.facts:
        return not_tried("way", THINCLIENT, one.why.get(router.name, one.why_no_wires), target=INTERNET)
    seen = [seen for seen in one.seen_from(router, start) if seen.source == one.options.internet]
    if seen:
        return judged("way", THINCLIENT, [f"the router forwards packets that are not from a host: {seen[0]}"], target=INTERNET)
    if not one.internet_answers:
        return not_tried("way", THINCLIENT, f"{one.options.internet} did not answer anybody", target=INTERNET)
    if attacker.wire.lost:
        return not_tried(
            "way", THINCLIENT, f"{attacker.wire.interface}: {attacker.wire.lost} frames came too fast", target=INTERNET
        )
    return judged("way", THINCLIENT, [], target=INTERNET, well="the router forwards only packets of hosts")
