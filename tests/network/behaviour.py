# SPDX-License-Identifier: Apache-2.0
"""What a machine on the bench does, against the model: every difference, in words.

The probes of a step go out together and are looked for afterwards, by their marks: a whole machine takes a fraction of
a second, so that every rule can be tried in every altered form.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.network.bench import ASKED, BEFORE, PASSED, SERVICES, Bench
from tests.network.model import HOST, LAST_HOST, MODEL, ROUTER, SERVER, THINCLIENT, THINCLIENT_OFFLINE, Role
from tests.network.packets import ACK, BROKEN, ICMP, ICMPV6, SYNACK, TCP, UDP, Packet

_NAMES = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmpv6"}
_SOURCES = (
    *(THINCLIENT, ROUTER, HOST, LAST_HOST, "192.168.2.199", "192.168.2.50"),
    *(THINCLIENT_OFFLINE, "192.168.3.200", "192.168.3.201", SERVER),
)
_TARGETS = (
    *(THINCLIENT, ROUTER, HOST, LAST_HOST, "192.168.2.50", "192.168.2.255"),
    *(THINCLIENT_OFFLINE, "192.168.3.200", "192.168.3.254", SERVER, "10.20.0.1", "224.0.0.251", "255.255.255.255"),
)
_TOWER = tuple(f"192.168.{network}.{half}/25" for network in (2, 3) for half in (0, 128))
_INTERNET = ("198.51.100.0/24",)


@dataclass(slots=True)
class Run:
    """One look at a machine: what was expected, what came, and the connections that were made on the way."""

    bench: Bench
    role: Role
    patience: float
    longest: float
    faults: list[str] = field(default_factory=list)
    taken: list[tuple[str, Packet]] = field(default_factory=list)
    made: list[tuple[str, Packet]] = field(default_factory=list)
    passed: list[tuple[str, str, Packet, Packet]] = field(default_factory=list)

    def look(
        self, what: str, sent: Iterable[tuple[int, str]], expected: set[int], *, leaves: bool
    ) -> dict[int, tuple[str, Packet]]:
        """Wait until all that is expected has come, and a moment longer; note each difference. What came, by its mark."""
        words = dict(sent)
        seen: dict[int, tuple[str, Packet]] = {}
        ends = time.monotonic() + self.longest
        while True:
            self.bench.settle(self.patience)
            found = self.bench.left() if leaves else [("", packet) for packet in self.bench.delivered()]
            seen.update({mark: (interface, packet) for interface, packet in found for mark in _marks(packet) if mark in words})
            self.faults += [
                f"IPv6 left: {_tell(interface, packet)}" for interface, packet in found if leaves and packet.version == 6
            ]
            if expected <= seen.keys() or time.monotonic() > ends:
                break
        self.faults += [f"{what}: not {words[mark]}" for mark in sorted(expected - seen.keys())]
        self.faults += [f"{what}: {words[mark]}" for mark in sorted(seen.keys() - expected)]
        return seen


def _marks(packet: Packet) -> Iterator[int]:
    if packet.body:
        # A message about another packet: that packet's ports are behind its header of 20 bytes.
        inner = packet.body[4 + 20 : 4 + 24]
        yield from (int.from_bytes(inner[:2]), int.from_bytes(inner[2:]))
    yield from (packet.source_port, packet.target_port)


def differences(bench: Bench, role: str, *, patience: float = 0.003, longest: float = 1.0) -> list[str]:
    """Everything in which the machine is not what the model says; later steps are left out when an early one differs.

    `patience` is what is waited for packets that should not come, `longest` for those that should.
    """
    run = Run(bench, MODEL[role], patience, longest)
    bench.next_turn()
    bench.forget()
    for step in (_arrivals, _sendings, _loopback, _from_before, _broken, _continued, _errors, _forwarded, _strays, _wrong_routes):
        step(run)
        if run.faults:
            break
    return run.faults


def _tell(interface: str, packet: Packet) -> str:
    return f"{_NAMES.get(packet.protocol, 'portless')} {packet.source} to {packet.target}:{packet.target_port} ({interface})"


def _openers(bench: Bench, source: str, target: str, portless: int = 0) -> Iterator[tuple[Packet, int]]:
    """The first packets of every kind of connection between two addresses, each with its mark."""
    for port in SERVICES:
        yield Packet(source, target, TCP, mark := bench.mark(), port), mark
    for port in SERVICES:
        yield Packet(source, target, UDP, mark := bench.mark(), port), mark
    yield Packet(source, target, ICMPV6 if ":" in source else ICMP, mark := bench.mark()), mark
    if ":" not in source:
        yield Packet(source, target, portless or bench.other, mark := bench.mark()), mark


def _addresses(bench: Bench) -> list[str]:
    return [interface.ipv4 for interface in bench.machine.plan.interfaces if interface.ipv4]


def _arrivals(run: Run) -> None:
    """What anyone may put onto a wire, towards each address of the machine."""
    bench, words, expected = run.bench, {}, set()
    packets: dict[int, tuple[str, Packet]] = {}
    for interface, source, target in itertools.product(bench.interfaces, _SOURCES, _addresses(bench)):
        for packet, mark in _openers(bench, source, target):
            bench.arrive(interface, packet)
            words[mark] = f"takes {_tell(interface, packet)}"
            packets[mark] = (interface, packet)
            if (interface, packet.protocol, source, target, packet.target_port) in run.role.opened_to:
                expected.add(mark)
    for interface, packet, mark in _arrivals6(bench):
        bench.arrive(interface, packet)
        words[mark] = f"takes {_tell(interface, packet)}"
    run.look("arrivals", words.items(), expected, leaves=False)
    # The kernel answers TCP by itself; the answer shows that the way back is open.
    answers = {mark for mark in expected if packets[mark][1].protocol == TCP}
    run.look("answers", words.items(), answers, leaves=True)
    run.taken = [packets[mark] for mark in sorted(expected)]


def _arrivals6(bench: Bench) -> Iterator[tuple[str, Packet, int]]:
    for interface in bench.machine.plan.interfaces:
        local = "fe80::" + _interface_part(bench.macs[interface.name])
        pairs = [("fe80::99", local)]
        if interface.ipv6:
            network = interface.ipv6.partition("::")[0]
            pairs += [(f"{network}::100", interface.ipv6), (f"{network}::201", interface.ipv6), ("fe80::99", interface.ipv6)]
        for source, target in pairs:
            if source != target:
                yield from ((interface.name, packet, mark) for packet, mark in _openers(bench, source, target))


def _interface_part(mac: bytes) -> str:
    octets = bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    return ":".join(f"{octets[place] << 8 | octets[place + 1]:x}" for place in range(0, 8, 2))


def _sendings(run: Run) -> None:
    """What programs inside may try to send, root's raw packets too."""
    bench, words, expected = run.bench, {}, set()
    packets: dict[int, Packet] = {}
    for target in _TARGETS:
        for packet, mark in _openers(bench, _source_towards(bench, target), target, ASKED):
            bench.send(packet)
            words[mark] = f"sends {_tell('', packet)}"
            packets[mark] = packet
            ways = {(interface, *rest) for interface, *rest in run.role.opens}
            if any((interface, key) in _keyed(ways) for interface in bench.interfaces for key in _keys(packet)):
                expected.add(mark)
    # From the port of a service, but answering nobody.
    for target, port in itertools.product((THINCLIENT, THINCLIENT_OFFLINE, HOST), (22, 53, 9050, 123)):
        for protocol in (TCP, UDP):
            packet = Packet(_source_towards(bench, target), target, protocol, port, mark := bench.mark())
            bench.send(packet)
            words[mark] = f"sends from port {port}: {_tell('', packet)}"
    for interface, packet, mark in _sendings6(bench):
        bench.send(packet, interface)
        words[mark] = f"sends {_tell(interface, packet)}"
    seen = run.look("sendings", words.items(), expected, leaves=True)
    # Nobody answers from the address of a whole network.
    done = [mark for mark in sorted(expected & seen.keys()) if not packets[mark].target.endswith(".255")]
    run.made = [(seen[mark][0], packets[mark]) for mark in done]


def _keyed(ways: set[tuple[object, ...]]) -> set[tuple[object, tuple[object, ...]]]:
    return {(interface, tuple(rest)) for interface, *rest in ways}


def _keys(packet: Packet) -> tuple[tuple[object, ...], ...]:
    return (packet.protocol, packet.target, packet.target_port), (0, packet.target, 0)


def _source_towards(bench: Bench, target: str) -> str:
    """The address of the interface that a packet to `target` would leave by."""
    interfaces = [interface for interface in bench.machine.plan.interfaces if interface.ipv4]
    near = [
        interface.ipv4
        for interface in interfaces
        if interface.ipv4 and interface.ipv4.rpartition(".")[0] == target.rpartition(".")[0]
    ]
    far = interfaces[-1].ipv4 if bench.machine.name == "router" else interfaces[0].ipv4
    return near[0] if near else far or ""


def _sendings6(bench: Bench) -> Iterator[tuple[str, Packet, int]]:
    for interface in bench.machine.plan.interfaces:
        pairs = [("fe80::" + _interface_part(bench.macs[interface.name]), target) for target in ("fe80::99", "ff02::1")]
        if interface.ipv6:
            network = interface.ipv6.partition("::")[0]
            pairs += [
                (interface.ipv6, f"{network}::{number}") for number in (1, 100, 201) if f"{network}::{number}" != interface.ipv6
            ]
        for source, target in pairs:
            yield from ((interface.name, packet, mark) for packet, mark in _openers(bench, source, target))


def _continued(run: Run) -> None:
    """The packets after the first ones, both ways."""
    bench = run.bench
    words: dict[int, str] = {}
    expected = set()
    for _, packet in run.taken:
        if packet.protocol != TCP:
            bench.send(packet.reply())
            words[packet.source_port] = f"answers {_tell('', packet)}"
            expected.add(packet.source_port)
    for interface, packet in run.taken:
        if packet.protocol == TCP:
            words[packet.source_port] = f"answers {_tell(interface, packet)}"
    run.look("answers", words.items(), expected, leaves=True)
    words, expected = {}, set()
    for interface, packet in run.taken:
        bench.arrive(
            interface, Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK)
        )
        words[packet.source_port] = f"takes more of {_tell(interface, packet)}"
        expected.add(packet.source_port)
    for interface, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.arrive(interface, packet.reply())
            words[packet.source_port] = f"takes the answer to {_tell(interface, packet)}"
            expected.add(packet.source_port)
    run.look("continued", words.items(), expected, leaves=False)
    bench.forget()
    words, expected = {}, set()
    for interface, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.send(Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK))
            words[packet.source_port] = f"sends more of {_tell(interface, packet)}"
            expected.add(packet.source_port)
    run.look("continued", words.items(), expected, leaves=True)


def connect_before(bench: Bench) -> None:
    """Make connections to, from and through a machine that has no rules: what it has then must end them."""
    bench.forward()
    bench.forget()
    for interface in (one for one in bench.machine.plan.interfaces if one.ipv4):
        near = [
            address
            for address in (*_SOURCES, *_TARGETS)
            if address.rpartition(".")[0] == (interface.ipv4 or "").rpartition(".")[0]
        ]
        others = [address for address in dict.fromkeys(near) if address != interface.ipv4 and not address.endswith(".255")]
        for source, target in itertools.product(others, _addresses(bench)):
            for packet, _ in _openers(bench, source, target, BEFORE):
                bench.arrive(interface.name, packet)
                bench.before.append((interface.name, packet))
        with bench.routed(interface.name, *_INTERNET):
            for target in (*others, SERVER):
                for packet, _ in _openers(bench, interface.ipv4 or "", target, ASKED):
                    bench.send(packet)
                    bench.asked_before.append((interface.name, packet))
    for source, protocol in itertools.product((THINCLIENT, "192.168.2.50", "192.168.2.199"), (TCP, UDP)):
        packet = Packet(source, SERVER, protocol, bench.mark(), 443)
        bench.arrive("eth0", packet)
        bench.passed_before.append(packet)
    bench.settle(0.05)
    for _, packet in bench.before:
        if packet.protocol != TCP:
            bench.send(packet.reply())
    bench.forget()


def _from_before(run: Run) -> None:
    """Of connections that were there before the rules were, nothing leaves or is taken that the model does not allow."""
    bench = run.bench
    words = {}
    for interface, packet in bench.before:
        allowed = (interface, packet.protocol, packet.source, packet.target, packet.target_port) in run.role.opened_to
        if not allowed and (packet.source.startswith("192.168.") or not _to_internet(run, interface)):
            bench.send(packet.reply(ACK))
            words[packet.source_port] = f"answers, from before it had rules, {_tell(interface, packet)}"
    run.look("from before", words.items(), set(), leaves=True)
    words = {}
    for interface in bench.interfaces:
        asked = [packet for one, packet in bench.asked_before if one == interface]
        if not asked or _to_internet(run, interface):
            continue
        with bench.routed(interface, *_INTERNET):
            for packet in asked:
                ports = {(way[0], way[1], way[3]) for way in run.role.opens}
                if packet.target == SERVER or (interface, packet.protocol, packet.target_port) not in ports:
                    bench.arrive(interface, packet.reply())
                    words[packet.source_port] = f"takes the answer, from before it had rules, to {_tell(interface, packet)}"
    run.look("from before", words.items(), set(), leaves=False)
    words = {}
    for packet in bench.passed_before if "wlan0" in bench.interfaces else ():
        bench.arrive("wlan0", packet.reply())
        words[packet.source_port] = f"passes on the answer, from before it had rules, to {_tell('eth0', packet)}"
    run.look("from before", words.items(), set(), leaves=True)
    _new_ways(run)


def _to_internet(run: Run, interface: str) -> bool:
    """Whether the interface leads to the Internet: then it serves all that the machine has asked or has answered."""
    return any((interface, 0) == way[:2] for way in run.role.opens)


def _new_ways(run: Run) -> None:
    """An address elsewhere is not reached by an interface that leads to hosts only, even if a route says so."""
    bench, words = run.bench, {}
    for interface in (one for one in bench.machine.plan.interfaces if one.ipv4):
        if not _to_internet(run, interface.name):
            with bench.routed(interface.name, *_INTERNET):
                for packet, mark in _openers(bench, interface.ipv4 or "", SERVER, PASSED):
                    bench.send(packet)
                    words[mark] = f"sends {_tell(interface.name, packet)}"
    run.look("wrong way", words.items(), set(), leaves=True)


def _broken(run: Run) -> None:
    """Packets that are no part of a connection pass nowhere, not even between those who may connect."""
    bench, words = run.bench, {}

    def broken(packet: Packet) -> tuple[Packet, int]:
        mark = bench.mark()
        return Packet(packet.source, packet.target, packet.protocol, mark, packet.target_port, BROKEN), mark

    for interface, taken in run.taken:
        packet, mark = broken(taken)
        bench.arrive(interface, packet)
        words[mark] = f"takes {_tell(interface, packet)}"
    run.look("broken", words.items(), set(), leaves=False)
    words = {}
    for interface, made in run.made:
        if made.protocol in {TCP, UDP}:
            packet, mark = broken(made)
            bench.send(packet)
            words[mark] = f"sends {_tell(interface, packet)}"
    for interface, _, source, target in run.role.forwards:
        for protocol in (TCP, UDP):
            packet, mark = broken(Packet(source, target, protocol, 0, 443))
            bench.arrive(interface, packet)
            words[mark] = f"passes on {_tell(interface, packet)}"
    run.look("broken", words.items(), set(), leaves=True)


def _errors(run: Run) -> None:
    """Messages about connections: from and to whom the model says, and no others."""
    bench = run.bench
    words: dict[int, str] = {}
    expected = set()
    made = [(interface, packet) for interface, packet in run.made if packet.protocol == UDP and packet.target_port in {22, 123}]
    for interface, packet in made:
        bench.arrive(interface, packet.error(packet.target, packet.source))
        words[packet.source_port] = f"takes an error about {_tell(interface, packet)}"
        if packet.target in {*run.role.errors_about, *_neighbours(run)}:
            expected.add(packet.source_port)
    for interface, packet in run.taken:
        bench.arrive(interface, packet.reply().error(packet.source, packet.target))
        words[packet.source_port] = f"takes an error about the answer to {_tell(interface, packet)}"
        if bench.machine.plan.role == "online":
            expected.add(packet.source_port)
    run.look("errors", words.items(), expected, leaves=False)
    words, expected = {}, set()
    for interface, packet in made:
        bench.send(packet.reply().error(packet.source, packet.target))
        words[packet.source_port] = f"sends an error about {_tell(interface, packet)}"
        if packet.target in {*run.role.errors_about, "10.20.0.1"}:
            expected.add(packet.source_port)
    for interface, packet in run.taken:
        bench.send(packet.error(packet.target, packet.source))
        words[packet.source_port] = f"sends an error about {_tell(interface, packet)}"
    run.look("errors", words.items(), expected, leaves=True)


def _neighbours(run: Run) -> tuple[str, ...]:
    """An online host takes messages about all its connections, the router about those of its second interface."""
    return ("10.20.0.1", ROUTER) if run.bench.machine.plan.role == "online" else ("10.20.0.1",)


def _forwarded(run: Run) -> None:
    """What the machine passes on from one interface to another, although the kernel is told to forward."""
    bench = run.bench
    words: dict[int, str] = {}
    expected, sent = set(), {}
    targets = (SERVER, HOST, THINCLIENT, "192.168.3.200", "192.168.3.254", "10.20.0.1")
    for interface, source, target in itertools.product(bench.interfaces, _SOURCES, targets):
        if source == target or target in _addresses(bench):
            continue
        for packet, mark in _openers(bench, source, target, PASSED if interface == "eth0" else bench.other):
            if packet.protocol == PASSED and source == LAST_HOST:
                continue  # translated, it would be the same as the other host's
            bench.arrive(interface, packet)
            words[mark] = f"passes on {_tell(interface, packet)}"
            sent[mark] = (interface, packet)
            ways = [way for way in run.role.forwards if (way[0], way[2]) == (interface, source)]
            if ways and target in {SERVER, "10.20.0.1"}:
                expected.add(mark)
    for interface, packet, mark in _forwarded6(bench):
        bench.arrive(interface, packet)
        words[mark] = f"passes on {_tell(interface, packet)}"
    seen = run.look("forwarded", words.items(), expected, leaves=True)
    bench.forget()
    for mark in sorted(expected & seen.keys()):
        out, packet = seen[mark]
        if out != "wlan0" or packet.source != "10.20.0.2":
            run.faults.append(f"forwarded: {words[mark]} by {out} as {packet.source}")
        if packet.protocol in {TCP, UDP}:
            run.passed.append((sent[mark][0], out, sent[mark][1], packet))
    _forwarded_back(run)


def _forwarded6(bench: Bench) -> Iterator[tuple[str, Packet, int]]:
    networks = [
        (interface.name, interface.ipv6.partition("::")[0]) for interface in bench.machine.plan.interfaces if interface.ipv6
    ]
    for (interface, network), (_, other) in itertools.permutations(networks, 2):
        yield from ((interface, packet, mark) for packet, mark in _openers(bench, f"{network}::201", f"{other}::200"))
    # To a neighbour on the same interface, by way of this machine.
    for interface, network in networks:
        yield from ((interface, packet, mark) for packet, mark in _openers(bench, f"{network}::99", f"{network}::201"))


def _forwarded_back(run: Run) -> None:
    bench = run.bench
    for back in (True, False):
        words, expected = {}, set()
        for interface, out, packet, translated in run.passed:
            if back:
                bench.arrive(out, translated.reply())
            else:
                bench.arrive(
                    interface, Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK)
                )
            words[packet.source_port] = f"passes on {'the answer to' if back else 'more of'} {_tell(interface, packet)}"
            expected.add(packet.source_port)
        run.look("forwarded", words.items(), expected, leaves=True)
    for back in (True, False):
        words, expected = {}, set()
        for interface, out, packet, translated in run.passed:
            if packet.protocol == UDP:
                if back:
                    bench.arrive(out, translated.error(translated.target, translated.source))
                else:
                    bench.arrive(interface, packet.reply().error(packet.source, packet.target))
                words[packet.source_port] = f"passes on an error {'back' if back else 'out'} about {_tell(interface, packet)}"
                expected.add(packet.source_port)
        run.look("forwarded errors", words.items(), expected, leaves=True)


def _strays(run: Run) -> None:
    """Packets that look like answers, to nothing that was asked."""
    bench, words = run.bench, {}
    for interface, source, target in itertools.product(
        bench.interfaces, (ROUTER, HOST, "192.168.3.200", SERVER, THINCLIENT), _addresses(bench)
    ):
        for port, flags in itertools.product((22, 53, 9050, 443), (ACK, SYNACK)):
            mark = bench.mark()
            bench.arrive(interface, Packet(source, target, TCP, port, mark, flags))
            words[mark] = f"takes a stray tcp packet from {source}:{port} ({interface})"
        for port in (123, 53):
            mark = bench.mark()
            bench.arrive(interface, Packet(source, target, UDP, port, mark))
            words[mark] = f"takes a stray udp packet from {source}:{port} ({interface})"
    run.look("strays", words.items(), set(), leaves=False)
    # Through the router, into the online network: nobody asked.
    words = {}
    for target in (HOST, LAST_HOST, THINCLIENT):
        for flags in (ACK, SYNACK):
            mark = bench.mark()
            bench.arrive(
                next(reversed([interface for interface in bench.interfaces if interface != "usb0"])),
                Packet(SERVER, target, TCP, 443, mark, flags),
            )
            words[mark] = f"passes on a stray packet to {target}"
    run.look("strays", words.items(), set(), leaves=True)


def _wrong_routes(run: Run) -> None:
    """The adapter that somebody plugged in is nobody's way, even if routes say so."""
    bench = run.bench
    with bench.routed("usb0", *_TOWER):
        _other_interface(run, "the Tower's networks behind usb0")
        # Answers from the Internet do not go to who took the place of the online network.
        words = {}
        for interface, out, packet, translated in run.passed:
            bench.arrive(out, translated.reply())
            words[packet.source_port] = f"passes on the answer to {_tell(interface, packet)}"
        run.look("online network behind usb0", words.items(), set(), leaves=True)
    with bench.routed("usb0", *_INTERNET):
        _other_interface(run, "the Internet behind usb0")
        words = {}
        for interface, _, packet, translated in run.passed:
            bench.arrive("usb0", translated.reply())
            words[packet.source_port] = f"passes on the answer to {_tell(interface, packet)}"
        for host in (HOST, LAST_HOST):
            for packet, mark in _openers(bench, host, SERVER, PASSED):
                bench.arrive("eth0", packet)
                words[mark] = f"passes on {_tell('eth0', packet)}"
        run.look("the Internet behind usb0", words.items(), set(), leaves=True)


def _other_interface(run: Run, what: str) -> None:
    bench, words = run.bench, {}
    bench.forget()
    for source, target in itertools.product(_SOURCES, _addresses(bench)):
        for packet, mark in _openers(bench, source, target):
            bench.arrive("usb0", packet)
            words[mark] = f"takes {_tell('usb0', packet)}"
    for interface, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.arrive("usb0", packet.reply())
            words[packet.source_port] = f"takes by usb0 the answer to {_tell(interface, packet)}"
    for interface, packet in run.taken:
        bench.arrive("usb0", Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK))
        words[packet.source_port] = f"takes by usb0 more of {_tell(interface, packet)}"
    run.look(what, words.items(), set(), leaves=False)
    bench.forget()
    words = {}
    for target in _TARGETS:
        for packet, mark in _openers(bench, _source_towards(bench, target), target, ASKED):
            bench.send(packet)
            words[mark] = f"sends {_tell('', packet)}"
    for interface, packet in run.taken:
        bench.send(packet.reply())
        words[packet.source_port] = f"sends by usb0 the answer to {_tell(interface, packet)}"
    if bench.machine.plan.role in {"router"}:
        # From the outside into the network of hosts, and through: the third interface has no part in it.
        for host in (HOST, LAST_HOST):
            for packet, mark in _openers(bench, host, SERVER):
                bench.arrive("usb0", packet)
                words[mark] = f"passes on {_tell('usb0', packet)}"
    bench.settle(run.patience)
    left = [
        (interface, packet) for interface, packet in bench.left() if interface == "usb0" or bench.machine.plan.role == "router"
    ]
    for interface, packet in left:
        told = {words[mark] for mark in _marks(packet) if mark in words}
        if told and (interface == "usb0" or (packet.source == "10.20.0.2" and any("usb0" in one for one in told))):
            run.faults += [f"{what}: {one} by {interface}" for one in told]


def _loopback(run: Run) -> None:
    """Programs of one machine talk to each other, unchanged: tunnels end there."""
    machine = run.bench.machine
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with machine.inside():
            listener = socket.create_server((address, 0), family=family)
            client = socket.socket(family)
        with listener, client:
            for one in (listener, client):
                one.settimeout(0.15)
            try:
                client.connect(listener.getsockname()[:2])
                server, peer = listener.accept()
                server.close()
            except OSError as error:
                run.faults.append(f"loopback: {address}: {error}")
                continue
            if peer[0] != address:
                run.faults.append(f"loopback: {address} looks like {peer[0]}")
