# SPDX-License-Identifier: Apache-2.0
"""Turn a host's facts and tries into checks, one for each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tower.audit import rules
from tower.audit.checks import Check, judged, not_tried
from tower.audit.probe import Answered, Facts, Result, family_of
from tower.base.errors import TowerError
from tower.base.networks import ROUTER_ADDRESS
from tower.hosts.registry import Host

_SSHD: Final = {
    "port": ("22",),
    "permitrootlogin": ("no",),
    "passwordauthentication": ("no",),
    "kbdinteractiveauthentication": ("no",),
    "permitemptypasswords": ("no",),
    "hostbasedauthentication": ("no",),
    "gssapiauthentication": ("no",),
    "kerberosauthentication": ("no",),
    "pubkeyauthentication": ("yes",),
    "allowagentforwarding": ("no",),
    "x11forwarding": ("no",),
    "gatewayports": ("no",),
    "permittunnel": ("no",),
    "permituserenvironment": ("no",),
    "authorizedkeyscommand": ("none",),
    "trustedusercakeys": ("none",),
    "hostkey": ("/etc/ssh/ssh_host_ed25519_key",),
}
"""The required output of `sshd -T`, as far as the host's sshd has the setting."""
_MUST_BE_THERE: Final = ("port", "permitrootlogin", "passwordauthentication", "kbdinteractiveauthentication", "x11forwarding")
_OFFERED: Final = {"router": {("tcp", 22), ("tcp", 53), ("tcp", 9050), ("udp", 53), ("udp", 123)}}


def about_host(host: Host, facts: Facts) -> list[Check]:
    """Compare a host's facts with what they should be."""
    return [sshd(host, facts), firewall(host, facts), forwarding(host, facts), way_out(host, facts), listening(host, facts)]


def sshd(host: Host, facts: Facts) -> Check:
    """Check the settings of its ssh server."""
    found = facts.sshd
    if found is None:
        return not_tried("ssh server", host.name, "sshd -T failed there")
    faults = []
    for name, allowed in _SSHD.items():
        values = found.get(name, ())
        if values not in [(value,) for value in allowed] and (values or name in _MUST_BE_THERE):
            faults.append(f"{name} is {' '.join(values) or 'not said'}, not {allowed[0]}")
    return judged("ssh server", host.name, faults, well="keys only, never root")


def firewall(host: Host, facts: Facts) -> Check:
    """Check its firewall's rules against those of its role."""
    role = rules.role_of(host)
    if facts.rules is None:
        return not_tried("firewall", host.name, "iptables-save or ip6tables-save failed there")
    try:
        wanted = rules.expected_rules(host)
        faults = [
            fault
            for family, one, found in zip(("IPv4", "IPv6"), wanted, facts.rules, strict=True)
            for fault in rules.differences(one, found, family)
        ]
    except TowerError as error:
        return not_tried("firewall", host.name, error.message)
    return judged("firewall", host.name, faults, well=f"the rules are those of the role {role}")


def forwarding(host: Host, facts: Facts) -> Check:
    """Check that the router forwards IPv4, and no other machine forwards anything."""
    wanted = {"ipv4/ip_forward": "1" if host.env.is_router else "0", "ipv6/conf/all/forwarding": "0"}
    faults = [f"{name} is {value}" for name, value in facts.switches.items() if name in wanted and value != wanted[name]]
    if "ipv4/ip_forward" not in facts.switches:
        return not_tried("forwarding", host.name, "it does not report whether it forwards")
    return judged("forwarding", host.name, faults, well="IPv4, for its hosts" if host.env.is_router else "forwards nothing")


def way_out(host: Host, facts: Facts) -> Check:
    """Check that an offline host has no default route, and an online host has one through the router."""
    faults = []
    for interface, gateway in facts.routes:
        if not host.env.online:
            faults.append(f"has a default route: {gateway} ({interface})")
        elif not host.env.is_router and gateway != str(ROUTER_ADDRESS):
            faults.append(f"its way to the Internet is {gateway} ({interface}), not the router")
        elif host.env.is_router and interface == host.env.network.interface:
            faults.append(f"its way to the Internet leads into the network of hosts: {gateway} ({interface})")
    return judged("way out", host.name, faults, well="through the router" if host.env.online else "none")


def listening(host: Host, facts: Facts) -> Check:
    """Check that only its ssh server listens; other listeners are named, and their ports were tried."""
    offered = _OFFERED.get(rules.role_of(host), {("tcp", 22)})
    more = sorted({f"{one.protocol} {one.port}" for one in facts.listeners if (one.protocol, one.port) not in offered})
    if ("tcp", 22) not in {(one.protocol, one.port) for one in facts.listeners}:
        return not_tried("listeners", host.name, "its list of listeners lacks ssh, although that listens")
    return judged("listeners", host.name, [], well=f"behind the firewall also: {', '.join(more)}" if more else "ssh alone")


def way(
    source: str, target: str, answers: Sequence[Answered], controls: Mapping[str, bool], *, alive: bool, more: Sequence[str] = ()
) -> Check:
    """Check that a machine cannot reach another: no answer, and no packet that left it.

    A silence counts only if such tries work at all (`controls`) and if the other machine is up (`alive`).
    """
    faults = [str(one) for one in answers if one.result in (Result.REACHED, Result.LEFT)]
    if faults or more:
        return judged("way", source, [*faults, *more], target=target)
    for one in answers:
        if one.result is Result.FAILED:
            return not_tried("way", source, f"{one.tried}: {one.said or 'no result'}", target=target)
        if one.result is Result.SILENT and not controls.get(family_of(one.tried)):
            why = f"{one.tried}: such tries do not even reach its own loopback"
            return not_tried("way", source, why, target=target)
        if one.result is Result.SILENT and not alive:
            return not_tried("way", source, f"{target} did not answer anybody", target=target)
    if not answers:
        return not_tried("way", source, "nothing was tried", target=target)
    return judged("way", source, [], target=target, well=f"{len(answers)} tries, none got through")


def names(host: Host, answers: Sequence[Answered]) -> Check:
    """Check that an offline host sends no query for a name."""
    faults = [str(one) for one in answers if one.result in (Result.REACHED, Result.LEFT)]
    failed = [f"{one.tried}: {one.said or 'no result'}" for one in answers if one.result is Result.FAILED]
    if failed and not faults:
        return not_tried("names", host.name, "; ".join(failed))
    return judged("names", host.name, faults, well=f"{len(answers)} questions, none left the host")
