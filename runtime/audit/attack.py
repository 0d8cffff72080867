# SPDX-License-Identifier: Apache-2.0
"""What is sent to a host past our own firewall, as this machine and as one that does not exist; and what that means.

Anything that a host sends back is a fault: it must answer this machine's ssh, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tower.audit import frames
from tower.audit.frames import ARP, SYN_ACK, TCP, Seen
from tower.audit.wire import MARKS, Wire

SSH: Final = 22
PORTS: Final = (
    1, 21, 22, 23, 25, 53, 67, 68, 80, 111, 123, 137, 139, 443, 445, 546, 631, 1900, 2049, 2375, 3128, 3389, 4713, 5000,
    5353, 5355, 5900, 5901, 6000, 6001, 8000, 8080, 8443, 8888, 9050, 9051, 9100, 33434, 49152,
)  # fmt: skip
"""What is often open, and what the tunnels of `tower` use on loopback."""
FOR_HOSTS: Final = {"tcp": (9050,), "udp": (123,)}
"""What the router offers to online hosts, and so to one that looks like them."""
_ALL_NODES: Final = IPv6Address("ff02::1")
_ALL_NODES_HARDWARE: Final = bytes.fromhex("333300000001")


@dataclass(frozen=True, slots=True)
class Victim:
    """A host as it is tried."""

    name: str
    is_router: bool
    hardware: bytes
    address: IPv4Address
    addresses6: tuple[IPv6Address, ...]
    ports: Collection[int]
    """To try by all addresses, from all sources."""
    more_ports: Collection[int] = ()
    """To try by its IPv4 address, from this machine."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """Who tries: this machine's leg, or a host that does not exist."""

    wire: Wire
    own: IPv4Address
    stranger: IPv4Address
    mark: int

    @classmethod
    def on(cls, wire: Wire, own: IPv4Address, stranger: IPv4Address) -> Attacker:
        """With a mark of its own: what earlier audits left half open on a host is not taken for ours."""
        return cls(wire, own, stranger, secrets.choice(MARKS))

    @property
    def local(self) -> IPv6Address:
        """The link-local address that belongs to the leg's hardware address."""
        octets = self.wire.hardware
        return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])

    def send(self, victim: Victim) -> None:
        """Everything, once."""
        tried = [(self.own, port) for port in sorted({*victim.ports, *victim.more_ports})]
        tried += [(self.stranger, port) for port in sorted(victim.ports)]
        for source, port in tried:
            as_host = victim.is_router and source == self.stranger
            ports = (self.mark, port)
            if not (as_host and port in FOR_HOSTS["tcp"]):
                self.wire.send(victim.hardware, frames.tcp(source, victim.address, ports))
            if not (as_host and port in FOR_HOSTS["udp"]):
                self.wire.send(victim.hardware, frames.udp(source, victim.address, ports, b"tower audit"))
        for source in (self.own, self.stranger):
            self.wire.send(victim.hardware, frames.echo(source, victim.address, self.mark))
        self._send6(victim)

    def _send6(self, victim: Victim) -> None:
        for target in victim.addresses6:
            packets = [frames.who_has(self.local, target, self.wire.hardware), frames.echo(self.local, target, self.mark)]
            for port in sorted(victim.ports):
                packets += [frames.tcp(self.local, target, (self.mark, port))]
                packets += [frames.udp(self.local, target, (self.mark, port), b"tower audit")]
            for packet in packets:
                self.wire.send(victim.hardware, packet)
        self.wire.send(_ALL_NODES_HARDWARE, frames.echo(self.local, _ALL_NODES, self.mark))

    def send_through(self, router: Victim, target: IPv4Address, port: int) -> None:
        """To an address elsewhere, as nobody whom the router serves: this machine, and one below the hosts' addresses."""
        for source in (self.own, self.own - 50):
            self.wire.send(router.hardware, frames.tcp(source, target, (self.mark, port)))
            self.wire.send(router.hardware, frames.echo(source, target, self.mark))

    def forget(self, victim: Victim) -> None:
        """End the connection that the host's ssh server took for begun."""
        self.wire.send(victim.hardware, frames.tcp(self.own, victim.address, (self.mark, SSH), frames.RST, 2))

    def is_control(self, seen: Seen) -> bool:
        """Whether a frame is the answer of a host's ssh server: what must come back if anything can."""
        wanted = (TCP, SSH, self.mark, SYN_ACK, self.own)
        return (seen.protocol, seen.source_port, seen.target_port, seen.flags, seen.target) == wanted


def faults_of(seen: Sequence[Seen], attacker: Attacker, near: Mapping[IPv4Address, str]) -> tuple[list[str], dict[str, str]]:
    """What frames of one host prove: against itself, and about its way to other hosts, by name.

    `near` are the addresses, and names, that the host may not reach.
    """
    faults: list[str] = []
    ways: dict[str, str] = {}
    for one in seen:
        if one.protocol == ARP:
            if one.target == attacker.stranger:
                faults.append("answers a machine that does not exist (it asks for its hardware address)")
            elif one.target in near and one.source not in (one.target, IPv4Address(0)):
                name = near[one.target]  # type: ignore[index]  # it is one of the keys
                ways[name] = f"asks for the hardware address of {one.target}: what it sends there passes its own firewall"
        elif not (attacker.is_control(one) or _is_session(one, attacker)):
            faults.append(f"sends {one}")
    return list(dict.fromkeys(faults)), ways


def _is_session(one: Seen, attacker: Attacker) -> bool:
    """Part of a session of ssh, as it went by before the kernel's filter was set; an answer to our RST is none."""
    return one.protocol == TCP and one.source_port == SSH and one.target == attacker.own and one.target_port not in MARKS
