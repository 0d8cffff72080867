# SPDX-License-Identifier: Apache-2.0
"""What a machine's firewall logs: each refused packet once, under the right name, nothing else, and no flood."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from tests.network.bench import Bench
from tests.network.model import HOST, MODEL, ROUTER, SERVER, THINCLIENT, THINCLIENT_OFFLINE
from tests.network.packets import TCP, Packet

_LINE = re.compile(r'\[(\d+):\d+\] -A .*-j LOG --log-prefix "(.*)"')
_MOST = 12
"""What a rule may log in a moment, and the tests take less than one."""


def log_differences(bench: Bench, role: str, version: int) -> list[str]:
    """Everything in which the logs are not as they should be. The rules must just have been set."""
    bench.settle()
    expected = _traffic4(bench, role) if version == 4 else _traffic6(bench)
    bench.settle()
    counted = Counter[str]()
    for prefix, count in _counters(bench, version):
        counted[prefix] += count
    faults = [
        f"IPv{version}: {prefix!r} logged {counted[prefix]} times, not {expected[prefix]}"
        for prefix in sorted(expected.keys() | counted.keys())
        if counted[prefix] != expected[prefix] and not _own_chatter(version, prefix, counted[prefix] - expected[prefix])
    ]
    for _ in range(20):
        _ = _traffic4(bench, role) if version == 4 else _traffic6(bench)
    bench.forget()
    return faults + [f"IPv{version}: {prefix!r} floods: {count}" for prefix, count in _counters(bench, version) if count > _MOST]


def _own_chatter(version: int, prefix: str, more: int) -> bool:
    """The kernel itself reports multicast groups, some seconds after an interface is up: refused, and logged."""
    return version == 6 and prefix == "refused output: " and 0 < more <= 8


def _counters(bench: Bench, version: int) -> Iterator[tuple[str, int]]:
    done = bench.machine.run("iptables-save" if version == 4 else "ip6tables-save", "-c")
    yield from ((prefix, int(count)) for count, prefix in _LINE.findall(done.stdout))


def _traffic4(bench: Bench, role: str) -> Counter[str]:
    expected = Counter[str]()
    own = bench.machine.address()
    network = own.rpartition(".")[0]

    def arrive(prefix: str | None, times: int, source: str, target: str, port: int = 80) -> None:
        for _ in range(times):
            bench.arrive("eth0", Packet(source, target, TCP, bench.mark(), port))
        if prefix:
            expected[f"refused {prefix}: "] += times

    def send(prefix: str | None, times: int, target: str, port: int = 80) -> None:
        for _ in range(times):
            bench.send(Packet(own, target, TCP, bench.mark(), port))
        if prefix:
            expected[f"refused {prefix}: "] += times

    arrive("input", 2, f"{network}.50", own)
    with bench.routed("usb0", "203.0.113.0/24"):
        arrive("prerouting", 2, "203.0.113.9", own)
    arrive("forward", 2, f"{network}.50", f"{network}.254")
    if MODEL[role].opened_to:
        arrive(None, 1, THINCLIENT_OFFLINE if role == "offline" else THINCLIENT, own, 22)
    if role == "router":
        arrive("forward", 3, HOST, "192.168.3.200")
        arrive(None, 1, HOST, SERVER)
    if role in {"router", "online"}:
        send("output", 1, "192.168.3.200")
        send("output", 2, "224.0.0.251")
        send(None, 1, SERVER)
    if role == "online":
        send("output", 3, "192.168.2.254")
        send(None, 1, ROUTER, 9050)
        with bench.routed("usb0", "198.51.100.0/24"):
            send("output", 1, SERVER)
    else:
        send("output", 3, f"{network}.50")
    if role == "thinclient":
        send(None, 1, HOST, 22)
    send(None, 1, own)
    return expected


def _traffic6(bench: Bench) -> Counter[str]:
    expected = Counter[str]()
    own = next(interface.ipv6 for interface in bench.machine.plan.interfaces if interface.ipv6)
    network = own.partition("::")[0]
    for prefix, source, target in (
        ("input", f"{network}::99", own),
        ("prerouting", "2001:db8::99", own),
        ("forward", f"{network}::99", f"{network}::254"),
    ):
        bench.arrive("eth0", Packet(source, target, TCP, bench.mark(), 80))
        expected[f"refused {prefix}: "] += 1
    bench.send(Packet(own, f"{network}::201", TCP, bench.mark(), 80))
    expected["refused output: "] += 1
    bench.send(Packet("::1", "::1", TCP, bench.mark(), 80))
    return expected
