# SPDX-License-Identifier: Apache-2.0
"""A machine on the bench: its cables end in the test, which sends to it, sees what it lets in and what it lets out.

Connections between two machines would hide a rule that is missing on one behind the rules of the other. Here each is
alone: packets are put onto its wires as anyone on the switch could, programs inside send whatever they like, and what
counts is what a program inside receives and what leaves by a wire.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.light.switches import in_network_of, ip
from tests.network.machines import Machine, Tower
from tests.network.packets import ICMP, ICMPV6, TCP, UDP, Packet, content, drain, parsed

ASKED, PASSED, BEFORE, OTHERS = 254, 252, 251, range(143, 151)
"""Protocols without ports: one for each way, since of these the kernel knows connections by address
alone; and some in turn, which are strangers again when their turn comes."""

SERVICES = (22, 53, 80, 123, 9050)
"""Ports that a program listens on, by TCP and UDP, on every machine: what is refused is refused by the rules."""

_ALL_FRAMES = 0x0003
_OUTGOING = 4
_IPV6_HDRINCL = 36
_SWITCH_MAC = b"\x02\x00\x00\x00\x00\x01"
_REMEMBERED = ("tcp_timeout_syn_sent", "tcp_timeout_syn_recv", "udp_timeout", "udp_timeout_stream")
_NEIGHBOURS = (
    *(f"192.168.{network}.{number}" for network in (2, 3) for number in (1, 50, 100, 199, 200, 201, 254)),
    *(f"fd00:{network}::{number}" for network in (2, 3) for number in (1, 100, 200, 201)),
    "10.20.0.1",
    "198.51.100.7",
    "fe80::99",
)


@dataclass(slots=True)
class Bench:
    """The sockets around one machine."""

    machine: Machine
    wires: int
    interfaces: dict[str, socket.socket] = field(default_factory=dict)
    macs: dict[str, bytes] = field(default_factory=dict)
    indexes: dict[str, int] = field(default_factory=dict)
    receivers: list[tuple[int, int, socket.socket]] = field(default_factory=list)
    senders: dict[int, socket.socket] = field(default_factory=dict)
    before: list[tuple[str, Packet]] = field(default_factory=list)
    """Connections that somebody made to the machine when it had no rules yet."""
    asked_before: list[tuple[str, Packet]] = field(default_factory=list)
    """Connections that the machine made when it had no rules yet."""
    passed_before: list[Packet] = field(default_factory=list)
    """Packets that it passed on from its first interface."""
    marks: int = 20000
    other: int = OTHERS[0]
    """The protocol without ports whose turn it is."""

    def mark(self) -> int:
        """A number that no packet of this bench has had: connections of earlier tests are not this one's."""
        self.marks = self.marks + 1 if self.marks < 60000 else 20001
        return self.marks

    def next_turn(self) -> None:
        """Give the turn to the next protocol without ports."""
        self.other = OTHERS[(self.other + 1 - OTHERS[0]) % len(OTHERS)]

    def arrive(self, interface: str, packet: Packet) -> None:
        """Put a packet onto the wire of an interface, towards the machine."""
        self.interfaces[interface].send(packet.frame(self.macs[interface], _SWITCH_MAC))

    def send(self, packet: Packet, interface: str = "eth0") -> None:
        """Send as a program inside would; `interface` is for addresses that mean nothing without one. Refusals are no news."""
        target: tuple[str, int] | tuple[str, int, int, int] = (packet.target, 0)
        if packet.version == 6:
            target = (packet.target, 0, 0, self.indexes[interface] if packet.target.startswith(("fe80", "ff02")) else 0)
        try:
            self.senders[packet.version].sendto(packet.datagram(), target)
        except OSError:
            return

    def delivered(self) -> list[Packet]:
        """What programs inside have received since the last time."""
        found = []
        for version, protocol, receiver in self.receivers:
            for raw, sender in drain(receiver):
                packet = parsed(raw) if version == 4 else content(str(sender[0]).partition("%")[0], "::", protocol, raw)
                if packet is not None:
                    found.append(packet)
        return found

    def left(self) -> list[tuple[str, Packet]]:
        """What has left by the wires since the last time; the neighbours' protocols of IPv6 are among it."""
        found = []
        for interface, wire in self.interfaces.items():
            for raw, sender in drain(wire):
                kind = int.from_bytes(raw[12:14])
                if sender[2] == _OUTGOING or kind not in {0x0800, 0x86DD}:
                    continue
                packet = parsed(raw[14:])
                if packet is None and kind == 0x86DD:
                    packet = Packet("::", "::", raw[14 + 6])
                if packet is not None:
                    found.append((interface, packet))
        return found

    def settle(self, seconds: float = 0.0) -> None:
        """Give the kernel time to finish what it has begun."""
        time.sleep(seconds or 0.004)  # sleeps: what must not come has no event to wait for

    def forward(self) -> None:
        """Tell the kernel to forward, whatever the role: rules, and not the absence of a setting, must refuse it."""
        self.machine.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")

    def forget(self) -> None:
        """Throw away what has arrived so far."""
        self.settle()
        self.delivered()
        self.left()

    def ip(self, *lines: str) -> None:
        """Change addresses or routes."""
        ip(self.machine.pid, lines)

    @contextmanager
    def routed(self, interface: str, *networks: str) -> Iterator[None]:
        """With routes that have gone wrong: networks, halved so that they win, behind another interface."""
        self.ip(*(f"route add {network} dev {interface}" for network in networks))
        try:
            yield
        finally:
            self.ip(*(f"route del {network} dev {interface}" for network in networks))


@contextmanager
def bench(tower: Tower, name: str) -> Iterator[Bench]:
    """Take a machine's cables out of the switches, and hold their ends. Its own servers are stopped: they would answer."""
    machine = tower[name]
    made = Bench(machine, tower.wires)
    interfaces = {interface.name: interface.switch for interface in machine.plan.interfaces}
    with ExitStack() as stack:
        for service in machine.stop_servers():
            stack.callback(machine.service, service, "start")
        # No connection is ever completed here. Without this, the kernel's repeated SYN-ACKs would show up in later tests.
        machine.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/tcp_synack_retries")
        for interface, switch in interfaces.items():
            far = f"{name}-{interface}"
            ip(tower.wires, [f"link set {far} nomaster"])
            stack.callback(ip, tower.wires, [f"link set {far} master {switch}"])
            with in_network_of(tower.wires):
                wire = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
                wire.bind((far, _ALL_FRAMES))
            wire.setblocking(False)
            made.interfaces[interface] = wire
            with machine.inside():
                made.indexes[interface] = socket.if_nametoindex(interface)
                made.macs[interface] = bytes.fromhex(
                    (Path(machine.root) / f"sys/class/net/{interface}/address").read_text().replace(":", "")
                )
        _open_sockets(made, stack)
        _teach(made, interfaces)
        yield made


def _open_sockets(made: Bench, stack: ExitStack) -> None:
    machine = made.machine
    for family, version, protocols in (
        (socket.AF_INET, 4, (TCP, UDP, ICMP, ASKED, PASSED, *OTHERS)),
        (socket.AF_INET6, 6, (TCP, UDP, ICMPV6)),
    ):
        for protocol in protocols:
            receiver = stack.enter_context(machine.socket(family, socket.SOCK_RAW, protocol))
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            made.receivers.append((version, protocol, receiver))
        sender = stack.enter_context(machine.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))
        if version == 4:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        else:
            sender.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        made.senders[version] = sender
    for port in SERVICES:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            service = stack.enter_context(machine.socket(socket.AF_INET6, kind))
            service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            service.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                service.listen(4096)


def _teach(made: Bench, interfaces: Sequence[str] | dict[str, str]) -> None:
    """Neighbours by heart, so that nothing depends on who answers; and settings under which the rules alone protect."""
    mac = ":".join(f"{octet:02x}" for octet in _SWITCH_MAC)
    made.ip(
        *(
            f"neigh replace {address} lladdr {mac} dev {interface} nud permanent"
            for interface in interfaces
            for address in _NEIGHBOURS
        )
    )
    settings = {
        # The rules are tested, not the kernel's own filter of addresses; and numbers in the tests' segments are made up.
        "net/ipv4/conf/all/rp_filter": "0",
        "net/netfilter/nf_conntrack_tcp_be_liberal": "1",
        "net/ipv4/icmp_ratelimit": "0",
        # Connections are remembered as long as the tests run, those without ports as short as can be.
        "net/netfilter/nf_conntrack_generic_timeout": "1",
        **{f"net/netfilter/nf_conntrack_{kind}": "3600" for kind in _REMEMBERED},
        **{f"net/ipv4/conf/{interface}/rp_filter": "0" for interface in interfaces},
    }
    for name, value in settings.items():
        made.machine.run("sh", "-c", f"echo {value} >/proc/sys/{name}")
