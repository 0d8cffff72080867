# SPDX-License-Identifier: Apache-2.0
"""The tries of each host: every other machine by each of its addresses, the Internet, and names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from tower.audit.checks import INTERNET, THINCLIENT
from tower.audit.probe import Facts, Try
from tower.base.networks import OFFLINE, ONLINE, ROUTER_ADDRESS
from tower.hosts.registry import Host

INTERFACE: Final = "eth0"
"""Every host's interface in its network."""
_INTERNET6: Final = IPv6Address("2620:fe::9")
_SSH: Final = 22
_OTHER: Final = 80
_UDP: Final = 33434
_DNS: Final = 53


@dataclass(frozen=True, slots=True)
class TryPlan:
    """The data that the tries are made from."""

    hosts: tuple[Host, ...]
    facts: Mapping[str, Facts]
    here: tuple[tuple[str, IPv6Address], ...]
    """This machine's IPv6 addresses, each with its interface."""
    tcp_port: int
    udp_port: int
    internet: IPv4Address
    internet_port: int

    def ways(self, host: Host) -> tuple[Try, ...]:
        """Return the tries to all other machines and the Internet."""
        return (*self._here(host), *(one for other in self.hosts for one in self._other(host, other)), *self._internet(host))

    def names(self, host: Host, label: str) -> tuple[Try, ...]:
        """Return an offline host's queries for a name, to every machine that might answer."""
        if host.env.online:
            return ()
        likely = [ROUTER_ADDRESS, ONLINE.thin_client, OFFLINE.thin_client, OFFLINE.addresses[1], self.internet]
        servers = dict.fromkeys([*self.facts[host.name].name_servers, *map(str, likely)])
        asked = tuple(Try("", "name", server, _DNS, label) for server in servers)
        return (*asked, Try("", "resolve", "", _DNS, label))

    def _here(self, host: Host) -> Iterator[Try]:
        addresses = [str(network.thin_client) for network in (ONLINE, OFFLINE)]
        addresses += _reachable(self.here, host.env.network.interface)
        for address in addresses:
            for port in (_SSH, _OTHER, self.tcp_port):
                yield Try(THINCLIENT, "tcp", address, port)
            yield Try(THINCLIENT, "udp", address, self.udp_port)
            yield Try(THINCLIENT, "icmp", address)

    def _other(self, host: Host, other: Host) -> Iterator[Try]:
        if other.name == host.name:
            return
        addresses = [str(other.env.address)]
        if other.name in self.facts:
            near = other.env.network == host.env.network
            addresses += _reachable(self.facts[other.name].addresses, INTERFACE if near else "")
        for address in addresses:
            for port in (_SSH, _OTHER):
                yield Try(other.name, "tcp", address, port)
            for port in (_DNS, _UDP):
                yield Try(other.name, "udp", address, port)
            yield Try(other.name, "icmp", address)

    def _internet(self, host: Host) -> Iterator[Try]:
        yield Try(INTERNET, "tcp", str(self.internet), self.internet_port)
        for address in (str(_INTERNET6), *([] if host.env.online else [str(self.internet)])):
            yield Try(INTERNET, "tcp", address, _OTHER)
            yield Try(INTERNET, "udp", address, _DNS)
            yield Try(INTERNET, "icmp", address)


def _reachable(addresses: tuple[tuple[str, IPv6Address], ...], interface: str) -> list[str]:
    """Return the addresses that another machine can reach: link-local ones only on a common wire (`interface` of the machine)."""
    found = []
    for own, address in addresses:
        if not address.is_link_local:
            found.append(str(address))
        elif own == interface:
            found.append(f"{address}%{INTERFACE}")
    return found


def addresses_here(path: Path = Path("/proc/net/if_inet6")) -> tuple[tuple[str, IPv6Address], ...]:
    """Return this machine's IPv6 addresses, each with its interface; without loopback."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # this machine has no IPv6
        return ()
    rows = [(line.split()[5], IPv6Address(bytes.fromhex(line.split()[0]))) for line in lines]
    return tuple((interface, address) for interface, address in rows if not address.is_loopback)
