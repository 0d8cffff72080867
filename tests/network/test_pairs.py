# SPDX-License-Identifier: Apache-2.0
"""Every machine tries to reach every other, with ordinary sockets, by every protocol and address."""

from __future__ import annotations

import errno
import itertools
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.network.machines import INTERNET_ADDRESS, Machine, Tower
from tests.network.packets import checksum, drain

PORTS = (22, 53, 80, 123, 9050)
_REFUSED_AT_ONCE = {errno.EPERM, errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
_WAIT = 0.8
_numbers = itertools.count(1)

# A try: from, to, protocol, port, address.
Try = tuple[str, str, str, int, str]


@pytest.fixture(scope="module")
def services(machines: Tower) -> Iterator[dict[tuple[str, int], socket.socket]]:
    """A program on every port of every machine; those of UDP answer through the test."""
    for machine in machines:
        if machine.plan.is_host:
            # They listen on one address alone; what is tried here are the rules, on all of them.
            machine.stop_servers()
    with ExitStack() as stack:
        datagrams = {}
        # Of its two addresses the server answers datagrams from the one that was asked.
        places = [(machine, machine.name, "::") for machine in machines]
        places.append((machines["internet"], "server", f"::ffff:{INTERNET_ADDRESS}"))
        for (machine, name, address), port in itertools.product(places, PORTS):
            for kind in (socket.SOCK_DGRAM,) if name == "server" else (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                service = stack.enter_context(machine.socket(socket.AF_INET6, kind))
                service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                service.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    service.listen(256)
                else:
                    datagrams[name, port] = service
        yield datagrams


@pytest.fixture
def with_rules(machines: Tower) -> None:
    machines.set_firewalls()


def allowed(source: str, target: str, protocol: str, port: int, address: str) -> bool:
    """The model: DESIGN section 7 and QA, I01 to I04, in the words of machines."""
    if ":" in address:
        return False
    if source == "thinclient":
        return target != "internet" and (protocol, port) == ("tcp", 22)
    if source.startswith("online") and target == "router":
        return address == "192.168.2.1" and (protocol, port) in {("tcp", 53), ("tcp", 9050), ("udp", 53), ("udp", 123)}
    return target == "internet" and source in {"router", "online1", "online2"}


def on_a_common_switch(source: Machine, target: Machine) -> bool:
    return bool(
        {interface.switch for interface in source.plan.interfaces}
        & {interface.switch for interface in target.plan.interfaces} - {"spare"}
    )


def tries(machines: Tower) -> Iterator[Try]:
    for source, target in itertools.permutations(machines, 2):
        for address in addresses(source, target):
            yield from ((source.name, target.name, kind, port, address) for kind in ("tcp", "udp") for port in PORTS)
            yield (source.name, target.name, "icmp", 0, address)


def addresses(source: Machine, target: Machine) -> Iterator[str]:
    """All addresses of a machine, the link-local ones by each interface that is on its switch, the spare ones too."""
    for interface in target.plan.interfaces:
        yield from (address for address in (interface.ipv4, interface.ipv6) if address)
        local = local_address(target, interface.name)
        yield from (f"{local}%{mine.name}" for mine in source.plan.interfaces if mine.switch == interface.switch)
    if target.name == "internet":
        yield INTERNET_ADDRESS


def local_address(machine: Machine, interface: str) -> str:
    octets = bytes.fromhex((machine.root / f"sys/class/net/{interface}/address").read_text().replace(":", ""))
    octets = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return "fe80::" + ":".join(f"{octets[place] << 8 | octets[place + 1]:x}" for place in range(0, 8, 2))


def reached(machines: Tower, services: dict[tuple[str, int], socket.socket], wanted: list[Try]) -> set[Try]:
    """Return the tries that got an answer."""
    for service in services.values():
        drain(service)
    with ExitStack() as stack:
        waiting: dict[int, tuple[Try, socket.socket]] = {}
        for one in wanted:
            client = begun(machines[one[0]], one, stack)
            if client is not None:
                waiting[client.fileno()] = (one, client)
        return answered(waiting, services)


def begun(machine: Machine, one: Try, stack: ExitStack) -> socket.socket | None:
    """A socket that has sent its first packet; None if the machine itself refused that."""
    _, target, protocol, port, address = one
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    icmp = socket.getprotobyname("ipv6-icmp" if family == socket.AF_INET6 else "icmp")
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "icmp": socket.SOCK_RAW}[protocol]
    client = stack.enter_context(machine.socket(family, kind, icmp if protocol == "icmp" else 0))
    with machine.inside():
        where = socket.getaddrinfo(address, port, family, socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
    try:
        client.connect(where)
        if protocol == "icmp":
            client.send(echo(family))
        elif protocol == "udp":
            client.send(target.encode())
    except OSError as error:
        if error.errno in _REFUSED_AT_ONCE:
            return None
        if error.errno != errno.EINPROGRESS:
            raise
    return client


def echo(family: int) -> bytes:
    """An echo request of its own number: none is part of an earlier one's connection. The kernel adds IPv6's checksum."""
    kind, number = (128 if family == socket.AF_INET6 else 8), next(_numbers)
    sum_of_it = checksum(struct.pack("!BBHHH", kind, 0, 0, number, 1))
    return struct.pack("!BBHHH", kind, 0, sum_of_it, number, 1)


def answered(waiting: dict[int, tuple[Try, socket.socket]], services: dict[tuple[str, int], socket.socket]) -> set[Try]:
    done: set[Try] = set()
    poll = select.poll()
    for number, (one, _) in waiting.items():
        poll.register(number, select.POLLOUT if one[2] == "tcp" else select.POLLIN)
    ends = time.monotonic() + _WAIT
    while time.monotonic() < ends:
        for service in services.values():
            for data, sender in drain(service):
                try:
                    service.sendto(data, sender)
                except OSError:
                    continue  # its own rules do not let it answer
        for number, _ in poll.poll(20):
            one, client = waiting[number]
            poll.unregister(number)
            if succeeded(one, client):
                done.add(one)
            ends = time.monotonic() + _WAIT
    return done


def succeeded(one: Try, client: socket.socket) -> bool:
    if one[2] == "tcp":
        return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    try:
        data = client.recv(2048)
    except OSError:
        return False
    if one[2] == "udp":
        return data == one[1].encode()
    return (data[0] if ":" in one[4] else data[20]) in {129, 0}


def complain(found: set[Try], expected: set[Try]) -> None:
    tell: Callable[[Try], str] = lambda one: f"{one[0]} to {one[1]}: {one[2]} {one[4]} port {one[3]}"  # noqa: E731
    faults = [f"reached, and should not: {tell(one)}" for one in sorted(found - expected)]
    faults += [f"not reached: {tell(one)}" for one in sorted(expected - found)]
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_without_rules_neighbours_reach_each_other(machines: Tower, services: dict[tuple[str, int], socket.socket]) -> None:
    """The tries themselves work: what the next test finds closed is closed by rules."""
    for machine in machines:
        machines.open_firewall(machine)
    near = [
        one
        for one in tries(machines)
        if on_a_common_switch(machines[one[0]], machines[one[1]])
        and one[4].partition("%")[2] != "usb0"
        and common_network(machines[one[0]], one[4])
    ]
    complain(reached(machines, services, near), set(near))


def common_network(source: Machine, address: str) -> bool:
    def network(one: str) -> str:
        return one.rpartition(":" if ":" in one else ".")[0]

    mine = [one for interface in source.plan.interfaces for one in (interface.ipv4, interface.ipv6) if one]
    return "%" in address or network(address) in {network(one) for one in mine}


@pytest.mark.qa("I01")
@pytest.mark.qa("I02")
@pytest.mark.qa("I04")
@pytest.mark.qa("I05")
@pytest.mark.usefixtures("with_rules")
def test_pairs_reach_what_the_model_allows(machines: Tower, services: dict[tuple[str, int], socket.socket]) -> None:
    wanted = list(tries(machines))
    expected = {one for one in wanted if allowed(*one) and routed(machines[one[0]], one[4])}
    complain(reached(machines, services, wanted), expected)


def routed(source: Machine, address: str) -> bool:
    """Whether an allowed address is one that the machine has a way to; online hosts and the router have one to everywhere."""
    return source.plan.gateway is not None or common_network(source, address)
