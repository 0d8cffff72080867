# SPDX-License-Identifier: Apache-2.0
"""What the router alone does: its second interface, Tor for online hosts, and the time."""

from __future__ import annotations

import re
import socket
import time

import pytest

from pipeline.light.switches import hardware_address
from pipeline.sim.machines import NAMED_ADDRESS
from pipeline.sim.prepared import serve_names
from tests.network.machines import Machine, Tower

_TOR, _NAMES = ("192.168.2.1", 9050), ("192.168.2.1", 53)
# RFC 1928: version 5, one method, no authentication; and that this is the method.
_GREETING, _ACCEPTED = b"\x05\x01\x00", b"\x05\x00"


def address_of(machine: Machine, interface: str) -> str:
    return machine.run("cat", f"/sys/class/net/{interface}/address").stdout.strip()


@pytest.mark.qa("H10", simulated="a pair of virtual interfaces in place of the radio")
def test_its_radio_has_another_address_at_every_start(machines: Tower) -> None:
    router = machines["router"]
    machines.set_firewalls()
    seen = [hardware_address("router-wlan0"), address_of(router, "wlan0")]
    wired = address_of(router, "eth0")
    router.pull_the_plug()
    machines.turn_on(router)
    seen.append(address_of(router, "wlan0"))
    assert len(set(seen)) == len(seen), seen
    # Bit 1: given by no maker. Bit 0: of one adapter, not of a group.
    assert [int(one[:2], 16) & 3 for one in seen] == [2, 2, 2]
    assert address_of(router, "eth0") == wired
    # And it has an address there again, by which online hosts reach what is outside.
    ends = time.monotonic() + 20
    while "inet 10.20.0.2/24" not in router.run("ip", "-4", "addr", "show", "wlan0").stdout:
        assert time.monotonic() < ends
        time.sleep(0.1)
    assert "default via 10.20.0.1 dev wlan0" in router.run("ip", "route").stdout


@pytest.mark.qa("A07")
def test_online_hosts_reach_tor(machines: Tower) -> None:
    machines.set_firewalls()
    router = machines["router"]
    router.wait_for_listener(_TOR[1])
    assert [place for place in router.listeners() if place[1] not in (22, _NAMES[1])] == [_TOR]
    (number,) = router.running(r"^/usr/bin/tor ")
    assert router.read(f"proc/{number}/status").split("\nUid:")[1].split()[0] != "0"
    with machines["online1"].inside():
        client = socket.create_connection(_TOR, timeout=20)
    with client:
        client.sendall(_GREETING)
        assert client.recv(2) == _ACCEPTED


def looked_up(machine: Machine, name: str) -> set[str]:
    """The addresses that a machine's resolver finds for a name."""
    said = machine.run("nslookup", "-type=a", name, check=False, timeout=60).stdout
    return set(re.findall(r"^Address: ([0-9.]+)$", said, flags=re.MULTILINE))


@pytest.mark.qa("H07")
def test_the_router_resolves_names_for_online_hosts_alone(machines: Tower) -> None:
    machines.set_firewalls()
    serve_names(machines["internet"], {"named.test": NAMED_ADDRESS, "inner.test": "192.168.3.200"})
    router = machines["router"]
    router.wait_for_listener(_NAMES[1])
    assert [place for place in router.listeners() if place[1] == _NAMES[1]] == [_NAMES]
    (number,) = router.running(r"^/usr/sbin/dnsmasq ")
    assert router.read(f"proc/{number}/status").split("\nUid:")[1].split()[0] != "0"
    ends = time.monotonic() + 20
    while looked_up(machines["online1"], "named.test") != {NAMED_ADDRESS}:
        assert time.monotonic() < ends, router.read("etc/resolv.conf")
    # A name from outside that leads into a private network is none.
    assert looked_up(machines["online1"], "inner.test") == set()
    assert machines["offline1"].read("etc/resolv.conf") == ""
    assert looked_up(machines["offline1"], "named.test") == set()


@pytest.mark.qa("A08", simulated="the programs may not set the clock of the machine that runs the tests")
def test_online_hosts_have_the_time_of_the_router(machines: Tower) -> None:
    machines.set_firewalls()
    host = machines["online1"]
    for machine in (machines["router"], host):
        machine.write("etc/conf.d/chronyd", 'ARGS="-x"\n')
        machine.service("chronyd", "start")
    ends = time.monotonic() + 60
    while True:
        rows = [row.split(",") for row in host.run("chronyc", "-c", "sources", check=False).stdout.splitlines()]
        if any(row[1:3] == ["*", "192.168.2.1"] for row in rows):
            break
        assert time.monotonic() < ends, rows
        time.sleep(0.5)
    assert len(rows) == 1, "nobody else is asked"
    tracking = host.run("chronyc", "-c", "tracking").stdout.split(",")
    assert tracking[-1].strip() == "Normal"
    assert abs(float(tracking[4])) < 1, "seconds from the router's time"
