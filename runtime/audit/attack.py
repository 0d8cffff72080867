# SPDX-License-Identifier: Apache-2.0
"""Try a host with packets past our own firewall, from this machine and from one that does not exist; judge the answers.

Any answer of a host is a fault: it must answer this machine's ssh, and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from tower.audit import frames
from tower.audit.frames import ARP, SYN_ACK, TCP, Seen
from tower.audit.packets import MARKS, Wire

SSH: Final = 22
PORTS: Final = (
    1, 21, 22, 23, 25, 53, 67, 68, 80, 111, 123, 137, 139, 443, 445, 546, 631, 1900, 2049, 2375, 3128, 3389, 4713, 5000,
    5353, 5355, 5900, 5901, 6000, 6001, 8000, 8080, 8443, 8888, 9050, 9051, 9100, 33434, 49152,
)  # fmt: skip
"""Ports that are often open, and those that the tunnels of `tower` use on loopback."""
FOR_HOSTS: Final = {"tcp": (53, 9050), "udp": (53, 123)}
"""The router's services for online hosts, which a machine that looks like one could reach."""
_ALL_NODES: Final = IPv6Address("ff02::1")
_ALL_NODES_HARDWARE: Final = bytes.fromhex("333300000001")


@dataclass(frozen=True, slots=True)
class Victim:
    """A host that is tried."""

    name: str
    is_router: bool
    hardware: bytes
    address: IPv4Address
    addresses6: tuple[IPv6Address, ...]
    ports: Collection[int]
    """Ports to try on all addresses, from all sources."""
    more_ports: Collection[int] = ()
    """Ports to try on its IPv4 address, from this machine."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """The source of the tries: this machine's interface, or a host that does not exist."""

    wire: Wire
    own: IPv4Address
    stranger: IPv4Address
    mark: int

    @classmethod
    def on(cls, wire: Wire, own: IPv4Address, stranger: IPv4Address) -> Attacker:
        """Make an attacker with a mark of its own, so that half-open connections of earlier audits are not taken for ours."""
        return cls(wire, own, stranger, secrets.choice(MARKS))

    @property
    def local(self) -> IPv6Address:
        """The link-local address that belongs to the interface's hardware address."""
        octets = self.wire.hardware
        return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])

    def send(self, victim: Victim) -> None:
        """Send each try once."""
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
        """Send to an address elsewhere, as machines that the router does not serve: this one, and one below the hosts' range."""
        for source in (self.own, self.own - 50):
            self.wire.send(router.hardware, frames.tcp(source, target, (self.mark, port)))
            self.wire.send(router.hardware, frames.echo(source, target, self.mark))

    def forget(self, victim: Victim) -> None:
        """End the half-open connection to the host's ssh server."""
        self.wire.send(victim.hardware, frames.tcp(self.own, victim.address, (self.mark, SSH), frames.RST, 2))

    def is_control(self, seen: Seen) -> bool:
        """Tell whether a frame is the answer of a host's ssh server, which must come back if anything can."""
        wanted = (TCP, SSH, self.mark, SYN_ACK, self.own)
        return (seen.protocol, seen.source_port, seen.target_port, seen.flags, seen.target) == wanted


def faults_of(seen: Sequence[Seen], attacker: Attacker, near: Mapping[IPv4Address, str]) -> tuple[list[str], dict[str, str]]:
    """Return the faults that frames of one host prove: its own, and those about its way to other hosts, by name.

    `near` maps the addresses that the host may not reach to names.
    """
    faults: list[str] = []
    ways: dict[str, str] = {}
    for one in seen:
        if one.protocol == ARP:
            if one.target == attacker.stranger:
                faults.append("answers a machine that does not exist (it asks for its hardware address)")
            elif one.target in near and one.source not in (one.target, IPv4Address(0)):
                name = near[one.target]  # type: ignore[index]  # it is one of the keys
                ways[name] = f"asks for the hardware address of {one.target}: its own firewall lets packets to it out"
        elif not (attacker.is_control(one) or _is_session(one, attacker)):
            faults.append(f"sends {one}")
    return list(dict.fromkeys(faults)), ways


def _is_session(one: Seen, attacker: Attacker) -> bool:
    """Tell whether it belongs to a session of ssh before the kernel's filter was set; an answer to our RST does not."""
    return one.protocol == TCP and one.source_port == SSH and one.target == attacker.own and one.target_port not in MARKS
