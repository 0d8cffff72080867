# SPDX-License-Identifier: Apache-2.0
"""The state of an audit so far."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tower.audit.attack import PORTS, Attacker, Victim
from tower.audit.checks import Check
from tower.audit.frames import Seen
from tower.audit.packets import Wire
from tower.audit.probe import Answered, Facts, Result
from tower.audit.tries import INTERFACE
from tower.base.networks import OFFLINE, ONLINE, ROUTER_ADDRESS, Network
from tower.hosts.registry import Host, Tower


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options."""

    internet: IPv4Address
    """A server in the Internet that answers on `internet_port`."""
    internet_port: int
    all_ports: bool = False
    timeout: float = 10


@dataclass(slots=True)
class Audit:
    """The results so far."""

    tower: Tower
    hosts: tuple[Host, ...]
    options: Options
    checks: list[Check] = field(default_factory=list)
    facts: dict[str, Facts] = field(default_factory=dict)
    answers: dict[str, tuple[Answered, ...]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    """The reason why a host could not be asked, by its name."""
    attackers: Mapping[str, Attacker] = field(default_factory=dict)
    """By the name of the network; empty if root does not open the wires."""
    why_no_wires: str = ""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that have hosts. The thin client may lack an interface on any other."""
        found = {host.env.network.name for host in self.hosts}
        return tuple(network for network in (ONLINE, OFFLINE) if network.name in found)

    def attack_from(self, wires: Mapping[str, Wire]) -> None:
        """Use the wires: one attacker for each network."""
        taken = {host.env.address for host in self.hosts}
        made = {}
        for network in self.networks:
            stranger = next(address for address in reversed(network.hosts) if address not in taken)
            made[network.name] = Attacker.on(wires[network.interface], network.thin_client, stranger)
        self.attackers = made

    def attacker(self, host: Host) -> Attacker | None:
        """Return the attacker for a host."""
        return self.attackers.get(host.env.network.name)

    def seen_from(self, host: Host, start: int = 0) -> list[Seen]:
        """Return the frames from a host, from number `start` of all that its wire received."""
        attacker, facts = self.attacker(host), self.facts.get(host.name)
        if attacker is None or facts is None:
            return []
        return [seen for seen in attacker.wire.seen[start:] if seen.hardware in facts.hardware.values()]

    def victim(self, host: Host) -> Victim | None:
        """Return a host as a victim; None if its hardware address is not known."""
        facts = self.facts[host.name]
        hardware = facts.hardware.get(INTERFACE)
        if hardware is None or len(hardware) != 6:
            return None
        ports = {*PORTS, *(one.port for one in facts.listeners)}
        more: Collection[int] = range(1, 65536) if self.options.all_ports else ()
        addresses = tuple(
            address for interface, address in facts.addresses if interface == INTERFACE or not address.is_link_local
        )
        return Victim(host.name, host.env.is_router, hardware, host.env.address, addresses, ports, more)

    def near(self, host: Host) -> dict[IPv4Address, str]:
        """Return the addresses of hosts that a host may not reach, with their names: all but its router, and itself."""
        return {
            other.env.address: other.name
            for other in self.hosts
            if other.name != host.name and ROUTER_ADDRESS not in (other.env.address, host.env.address)
        }

    @property
    def internet_answers(self) -> bool:
        """Whether an online host reached the Internet: only then does another host's silence mean anything."""
        wanted = (str(self.options.internet), self.options.internet_port)
        return any(
            one.result is Result.REACHED and (one.tried.address, one.tried.port) == wanted and "refused" not in one.said
            for host in self.hosts
            if host.env.online
            for one in self.answers.get(host.name, ())
        )
