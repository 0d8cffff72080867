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
            seen.update({mark: (leg, packet) for leg, packet in found for mark in _marks(packet) if mark in words})
            self.faults += [f"IPv6 left: {_tell(leg, packet)}" for leg, packet in found if leaves and packet.version == 6]
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


def _tell(leg: str, packet: Packet) -> str:
    return f"{_NAMES.get(packet.protocol, 'portless')} {packet.source} to {packet.target}:{packet.target_port} ({leg})"


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
    return [leg.ipv4 for leg in bench.machine.plan.legs if leg.ipv4]


def _arrivals(run: Run) -> None:
    """What anyone may put onto a wire, towards each address of the machine."""
    bench, words, expected = run.bench, {}, set()
    packets: dict[int, tuple[str, Packet]] = {}
    for leg, source, target in itertools.product(bench.legs, _SOURCES, _addresses(bench)):
        for packet, mark in _openers(bench, source, target):
            bench.arrive(leg, packet)
            words[mark] = f"takes {_tell(leg, packet)}"
            packets[mark] = (leg, packet)
            if (leg, packet.protocol, source, target, packet.target_port) in run.role.opened_to:
                expected.add(mark)
    for leg, packet, mark in _arrivals6(bench):
        bench.arrive(leg, packet)
        words[mark] = f"takes {_tell(leg, packet)}"
    run.look("arrivals", words.items(), expected, leaves=False)
    # The kernel answers TCP by itself; the answer shows that the way back is open.
    answers = {mark for mark in expected if packets[mark][1].protocol == TCP}
    run.look("answers", words.items(), answers, leaves=True)
    run.taken = [packets[mark] for mark in sorted(expected)]


def _arrivals6(bench: Bench) -> Iterator[tuple[str, Packet, int]]:
    for leg in bench.machine.plan.legs:
        local = "fe80::" + _interface_part(bench.macs[leg.name])
        pairs = [("fe80::99", local)]
        if leg.ipv6:
            network = leg.ipv6.partition("::")[0]
            pairs += [(f"{network}::100", leg.ipv6), (f"{network}::201", leg.ipv6), ("fe80::99", leg.ipv6)]
        for source, target in pairs:
            if source != target:
                yield from ((leg.name, packet, mark) for packet, mark in _openers(bench, source, target))


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
            ways = {(leg, *rest) for leg, *rest in run.role.opens}
            if any((leg, key) in _keyed(ways) for leg in bench.legs for key in _keys(packet)):
                expected.add(mark)
    # From the port of a service, but answering nobody.
    for target, port in itertools.product((THINCLIENT, THINCLIENT_OFFLINE, HOST), (22, 9050, 123)):
        for protocol in (TCP, UDP):
            packet = Packet(_source_towards(bench, target), target, protocol, port, mark := bench.mark())
            bench.send(packet)
            words[mark] = f"sends from port {port}: {_tell('', packet)}"
    for leg, packet, mark in _sendings6(bench):
        bench.send(packet, leg)
        words[mark] = f"sends {_tell(leg, packet)}"
    seen = run.look("sendings", words.items(), expected, leaves=True)
    # Nobody answers from the address of a whole network.
    done = [mark for mark in sorted(expected & seen.keys()) if not packets[mark].target.endswith(".255")]
    run.made = [(seen[mark][0], packets[mark]) for mark in done]


def _keyed(ways: set[tuple[object, ...]]) -> set[tuple[object, tuple[object, ...]]]:
    return {(leg, tuple(rest)) for leg, *rest in ways}


def _keys(packet: Packet) -> tuple[tuple[object, ...], ...]:
    return (packet.protocol, packet.target, packet.target_port), (0, packet.target, 0)


def _source_towards(bench: Bench, target: str) -> str:
    """The address of the leg that a packet to `target` would leave by."""
    legs = [leg for leg in bench.machine.plan.legs if leg.ipv4]
    near = [leg.ipv4 for leg in legs if leg.ipv4 and leg.ipv4.rpartition(".")[0] == target.rpartition(".")[0]]
    far = legs[-1].ipv4 if bench.machine.name == "router" else legs[0].ipv4
    return near[0] if near else far or ""


def _sendings6(bench: Bench) -> Iterator[tuple[str, Packet, int]]:
    for leg in bench.machine.plan.legs:
        pairs = [("fe80::" + _interface_part(bench.macs[leg.name]), target) for target in ("fe80::99", "ff02::1")]
        if leg.ipv6:
            network = leg.ipv6.partition("::")[0]
            pairs += [(leg.ipv6, f"{network}::{number}") for number in (1, 100, 201) if f"{network}::{number}" != leg.ipv6]
        for source, target in pairs:
            yield from ((leg.name, packet, mark) for packet, mark in _openers(bench, source, target))


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
    for leg, packet in run.taken:
        if packet.protocol == TCP:
            words[packet.source_port] = f"answers {_tell(leg, packet)}"
    run.look("answers", words.items(), expected, leaves=True)
    words, expected = {}, set()
    for leg, packet in run.taken:
        bench.arrive(leg, Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK))
        words[packet.source_port] = f"takes more of {_tell(leg, packet)}"
        expected.add(packet.source_port)
    for leg, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.arrive(leg, packet.reply())
            words[packet.source_port] = f"takes the answer to {_tell(leg, packet)}"
            expected.add(packet.source_port)
    run.look("continued", words.items(), expected, leaves=False)
    bench.forget()
    words, expected = {}, set()
    for leg, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.send(Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK))
            words[packet.source_port] = f"sends more of {_tell(leg, packet)}"
            expected.add(packet.source_port)
    run.look("continued", words.items(), expected, leaves=True)


def connect_before(bench: Bench) -> None:
    """Make connections to, from and through a machine that has no rules: what it has then must end them."""
    bench.forward()
    bench.forget()
    for leg in (one for one in bench.machine.plan.legs if one.ipv4):
        near = [
            address for address in (*_SOURCES, *_TARGETS) if address.rpartition(".")[0] == (leg.ipv4 or "").rpartition(".")[0]
        ]
        others = [address for address in dict.fromkeys(near) if address != leg.ipv4 and not address.endswith(".255")]
        for source, target in itertools.product(others, _addresses(bench)):
            for packet, _ in _openers(bench, source, target, BEFORE):
                bench.arrive(leg.name, packet)
                bench.before.append((leg.name, packet))
        with bench.routed(leg.name, *_INTERNET):
            for target in (*others, SERVER):
                for packet, _ in _openers(bench, leg.ipv4 or "", target, ASKED):
                    bench.send(packet)
                    bench.asked_before.append((leg.name, packet))
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
    for leg, packet in bench.before:
        allowed = (leg, packet.protocol, packet.source, packet.target, packet.target_port) in run.role.opened_to
        if not allowed and (packet.source.startswith("192.168.") or not _to_internet(run, leg)):
            bench.send(packet.reply(ACK))
            words[packet.source_port] = f"answers, from before it had rules, {_tell(leg, packet)}"
    run.look("from before", words.items(), set(), leaves=True)
    words = {}
    for leg in bench.legs:
        asked = [packet for one, packet in bench.asked_before if one == leg]
        if not asked or _to_internet(run, leg):
            continue
        with bench.routed(leg, *_INTERNET):
            for packet in asked:
                ports = {(way[0], way[1], way[3]) for way in run.role.opens}
                if packet.target == SERVER or (leg, packet.protocol, packet.target_port) not in ports:
                    bench.arrive(leg, packet.reply())
                    words[packet.source_port] = f"takes the answer, from before it had rules, to {_tell(leg, packet)}"
    run.look("from before", words.items(), set(), leaves=False)
    words = {}
    for packet in bench.passed_before if "wlan0" in bench.legs else ():
        bench.arrive("wlan0", packet.reply())
        words[packet.source_port] = f"passes on the answer, from before it had rules, to {_tell('eth0', packet)}"
    run.look("from before", words.items(), set(), leaves=True)
    _new_ways(run)


def _to_internet(run: Run, leg: str) -> bool:
    """Whether the leg leads to the Internet: then it serves all that the machine has asked or has answered."""
    return any((leg, 0) == way[:2] for way in run.role.opens)


def _new_ways(run: Run) -> None:
    """An address elsewhere is not reached by a leg that leads to hosts only, even if a route says so."""
    bench, words = run.bench, {}
    for leg in (one for one in bench.machine.plan.legs if one.ipv4):
        if not _to_internet(run, leg.name):
            with bench.routed(leg.name, *_INTERNET):
                for packet, mark in _openers(bench, leg.ipv4 or "", SERVER, PASSED):
                    bench.send(packet)
                    words[mark] = f"sends {_tell(leg.name, packet)}"
    run.look("wrong way", words.items(), set(), leaves=True)


def _broken(run: Run) -> None:
    """Packets that are no part of a connection pass nowhere, not even between those who may connect."""
    bench, words = run.bench, {}

    def broken(packet: Packet) -> tuple[Packet, int]:
        mark = bench.mark()
        return Packet(packet.source, packet.target, packet.protocol, mark, packet.target_port, BROKEN), mark

    for leg, taken in run.taken:
        packet, mark = broken(taken)
        bench.arrive(leg, packet)
        words[mark] = f"takes {_tell(leg, packet)}"
    run.look("broken", words.items(), set(), leaves=False)
    words = {}
    for leg, made in run.made:
        if made.protocol in {TCP, UDP}:
            packet, mark = broken(made)
            bench.send(packet)
            words[mark] = f"sends {_tell(leg, packet)}"
    for leg, _, source, target in run.role.forwards:
        for protocol in (TCP, UDP):
            packet, mark = broken(Packet(source, target, protocol, 0, 443))
            bench.arrive(leg, packet)
            words[mark] = f"passes on {_tell(leg, packet)}"
    run.look("broken", words.items(), set(), leaves=True)


def _errors(run: Run) -> None:
    """Messages about connections: from and to whom the model says, and no others."""
    bench = run.bench
    words: dict[int, str] = {}
    expected = set()
    made = [(leg, packet) for leg, packet in run.made if packet.protocol == UDP and packet.target_port in {22, 123}]
    for leg, packet in made:
        bench.arrive(leg, packet.error(packet.target, packet.source))
        words[packet.source_port] = f"takes an error about {_tell(leg, packet)}"
        if packet.target in {*run.role.errors_about, *_neighbours(run)}:
            expected.add(packet.source_port)
    for leg, packet in run.taken:
        bench.arrive(leg, packet.reply().error(packet.source, packet.target))
        words[packet.source_port] = f"takes an error about the answer to {_tell(leg, packet)}"
        if bench.machine.plan.role == "online":
            expected.add(packet.source_port)
    run.look("errors", words.items(), expected, leaves=False)
    words, expected = {}, set()
    for leg, packet in made:
        bench.send(packet.reply().error(packet.source, packet.target))
        words[packet.source_port] = f"sends an error about {_tell(leg, packet)}"
        if packet.target in {*run.role.errors_about, "10.20.0.1"}:
            expected.add(packet.source_port)
    for leg, packet in run.taken:
        bench.send(packet.error(packet.target, packet.source))
        words[packet.source_port] = f"sends an error about {_tell(leg, packet)}"
    run.look("errors", words.items(), expected, leaves=True)


def _neighbours(run: Run) -> tuple[str, ...]:
    """An online host takes messages about all its connections, the router about those of its second leg."""
    return ("10.20.0.1", ROUTER) if run.bench.machine.plan.role == "online" else ("10.20.0.1",)


def _forwarded(run: Run) -> None:
    """What the machine passes on from one leg to another, although the kernel is told to forward."""
    bench = run.bench
    words: dict[int, str] = {}
    expected, sent = set(), {}
    targets = (SERVER, HOST, THINCLIENT, "192.168.3.200", "192.168.3.254", "10.20.0.1")
    for leg, source, target in itertools.product(bench.legs, _SOURCES, targets):
        if source == target or target in _addresses(bench):
            continue
        for packet, mark in _openers(bench, source, target, PASSED if leg == "eth0" else bench.other):
            if packet.protocol == PASSED and source == LAST_HOST:
                continue  # translated, it would be the same as the other host's
            bench.arrive(leg, packet)
            words[mark] = f"passes on {_tell(leg, packet)}"
            sent[mark] = (leg, packet)
            ways = [way for way in run.role.forwards if (way[0], way[2]) == (leg, source)]
            if ways and target in {SERVER, "10.20.0.1"}:
                expected.add(mark)
    for leg, packet, mark in _forwarded6(bench):
        bench.arrive(leg, packet)
        words[mark] = f"passes on {_tell(leg, packet)}"
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
    networks = [(leg.name, leg.ipv6.partition("::")[0]) for leg in bench.machine.plan.legs if leg.ipv6]
    for (leg, network), (_, other) in itertools.permutations(networks, 2):
        yield from ((leg, packet, mark) for packet, mark in _openers(bench, f"{network}::201", f"{other}::200"))
    # To a neighbour on the same leg, by way of this machine.
    for leg, network in networks:
        yield from ((leg, packet, mark) for packet, mark in _openers(bench, f"{network}::99", f"{network}::201"))


def _forwarded_back(run: Run) -> None:
    bench = run.bench
    for back in (True, False):
        words, expected = {}, set()
        for leg, out, packet, translated in run.passed:
            if back:
                bench.arrive(out, translated.reply())
            else:
                bench.arrive(
                    leg, Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK)
                )
            words[packet.source_port] = f"passes on {'the answer to' if back else 'more of'} {_tell(leg, packet)}"
            expected.add(packet.source_port)
        run.look("forwarded", words.items(), expected, leaves=True)
    for back in (True, False):
        words, expected = {}, set()
        for leg, out, packet, translated in run.passed:
            if packet.protocol == UDP:
                if back:
                    bench.arrive(out, translated.error(translated.target, translated.source))
                else:
                    bench.arrive(leg, packet.reply().error(packet.source, packet.target))
                words[packet.source_port] = f"passes on an error {'back' if back else 'out'} about {_tell(leg, packet)}"
                expected.add(packet.source_port)
        run.look("forwarded errors", words.items(), expected, leaves=True)


def _strays(run: Run) -> None:
    """Packets that look like answers, to nothing that was asked."""
    bench, words = run.bench, {}
    for leg, source, target in itertools.product(
        bench.legs, (ROUTER, HOST, "192.168.3.200", SERVER, THINCLIENT), _addresses(bench)
    ):
        for port, flags in itertools.product((22, 9050, 443), (ACK, SYNACK)):
            mark = bench.mark()
            bench.arrive(leg, Packet(source, target, TCP, port, mark, flags))
            words[mark] = f"takes a stray tcp packet from {source}:{port} ({leg})"
        for port in (123, 53):
            mark = bench.mark()
            bench.arrive(leg, Packet(source, target, UDP, port, mark))
            words[mark] = f"takes a stray udp packet from {source}:{port} ({leg})"
    run.look("strays", words.items(), set(), leaves=False)
    # Through the router, into the online network: nobody asked.
    words = {}
    for target in (HOST, LAST_HOST, THINCLIENT):
        for flags in (ACK, SYNACK):
            mark = bench.mark()
            bench.arrive(
                next(reversed([leg for leg in bench.legs if leg != "usb0"])), Packet(SERVER, target, TCP, 443, mark, flags)
            )
            words[mark] = f"passes on a stray packet to {target}"
    run.look("strays", words.items(), set(), leaves=True)


def _wrong_routes(run: Run) -> None:
    """The adapter that somebody plugged in is nobody's way, even if routes say so."""
    bench = run.bench
    with bench.routed("usb0", *_TOWER):
        _other_leg(run, "the Tower's networks behind usb0")
        # Answers from the Internet do not go to who took the place of the online network.
        words = {}
        for leg, out, packet, translated in run.passed:
            bench.arrive(out, translated.reply())
            words[packet.source_port] = f"passes on the answer to {_tell(leg, packet)}"
        run.look("online network behind usb0", words.items(), set(), leaves=True)
    with bench.routed("usb0", *_INTERNET):
        _other_leg(run, "the Internet behind usb0")
        words = {}
        for leg, _, packet, translated in run.passed:
            bench.arrive("usb0", translated.reply())
            words[packet.source_port] = f"passes on the answer to {_tell(leg, packet)}"
        for host in (HOST, LAST_HOST):
            for packet, mark in _openers(bench, host, SERVER, PASSED):
                bench.arrive("eth0", packet)
                words[mark] = f"passes on {_tell('eth0', packet)}"
        run.look("the Internet behind usb0", words.items(), set(), leaves=True)


def _other_leg(run: Run, what: str) -> None:
    bench, words = run.bench, {}
    bench.forget()
    for source, target in itertools.product(_SOURCES, _addresses(bench)):
        for packet, mark in _openers(bench, source, target):
            bench.arrive("usb0", packet)
            words[mark] = f"takes {_tell('usb0', packet)}"
    for leg, packet in run.made:
        if packet.protocol in {TCP, UDP}:
            bench.arrive("usb0", packet.reply())
            words[packet.source_port] = f"takes by usb0 the answer to {_tell(leg, packet)}"
    for leg, packet in run.taken:
        bench.arrive("usb0", Packet(packet.source, packet.target, packet.protocol, packet.source_port, packet.target_port, ACK))
        words[packet.source_port] = f"takes by usb0 more of {_tell(leg, packet)}"
    run.look(what, words.items(), set(), leaves=False)
    bench.forget()
    words = {}
    for target in _TARGETS:
        for packet, mark in _openers(bench, _source_towards(bench, target), target, ASKED):
            bench.send(packet)
            words[mark] = f"sends {_tell('', packet)}"
    for leg, packet in run.taken:
        bench.send(packet.reply())
        words[packet.source_port] = f"sends by usb0 the answer to {_tell(leg, packet)}"
    if bench.machine.plan.role in {"router"}:
        # From the outside into the network of hosts, and through: the third leg has no part in it.
        for host in (HOST, LAST_HOST):
            for packet, mark in _openers(bench, host, SERVER):
                bench.arrive("usb0", packet)
                words[mark] = f"passes on {_tell('usb0', packet)}"
    bench.settle(run.patience)
    left = [(leg, packet) for leg, packet in bench.left() if leg == "usb0" or bench.machine.plan.role == "router"]
    for leg, packet in left:
        told = {words[mark] for mark in _marks(packet) if mark in words}
        if told and (leg == "usb0" or (packet.source == "10.20.0.2" and any("usb0" in one for one in told))):
            run.faults += [f"{what}: {one} by {leg}" for one in told]


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
