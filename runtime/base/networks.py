# SPDX-License-Identifier: Apache-2.0
"""The two networks of a Tower, and how a new host gets its address and its colour.

Allocation depends only on the other hosts: a new host gets the lowest free address, so that there are neither gaps
nor clashes. The caller holds the lock of `tower.hosts.registry`.
"""

from __future__ import annotations

import colorsys
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from tower.base.errors import HostError, ValueRefusedError


@dataclass(frozen=True, slots=True)
class Network:
    """One of the two networks that the thin client has an interface in."""

    name: str
    addresses: IPv4Network
    thin_client: IPv4Address
    interface: str

    @property
    def hosts(self) -> tuple[IPv4Address, ...]:
        """The addresses for hosts, in the order in which they are given out."""
        return tuple(self.addresses[number] for number in range(200, 255))


ONLINE: Final = Network("online", IPv4Network("192.168.2.0/24"), IPv4Address("192.168.2.100"), "eth0")
OFFLINE: Final = Network("offline", IPv4Network("192.168.3.0/24"), IPv4Address("192.168.3.100"), "eth1")
ROUTER_ADDRESS: Final = IPv4Address("192.168.2.1")

_COLORS: Final = (
    "#4363d8", "#e6194b", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990",
    "#dcbeff", "#9a6324", "#ffe119", "#800000", "#aaffc3", "#808000", "#ffd8b1", "#000075", "#a9a9a9",
)  # fmt: skip
"""Colours that most people can tell apart; the router gets the first free one, like any host."""


def network_of(*, online: bool) -> Network:
    """Return the network of a host."""
    return ONLINE if online else OFFLINE


def next_address(network: Network, taken: Collection[IPv4Address]) -> IPv4Address:
    """Return the lowest free address for a host. Raises HostError if there is none."""
    for address in network.hosts:
        if address not in taken:
            return address
    raise HostError(
        f"the {network.name} network has no address left for a host: all {len(network.hosts)} are taken",
        hint="tower deprovision a host that is no longer used",
    )


def next_color(taken: Collection[str]) -> str:
    """Return the first colour that no host has; after the fixed ones, hues at steps that never coincide."""
    for color in _COLORS:
        if color not in taken:
            return color
    step = 0
    while True:
        # The golden angle: each new hue falls into the widest remaining gap.
        red, green, blue = colorsys.hls_to_rgb(step * 0.618034 % 1, 0.35 + step % 3 * 0.15, 0.8)
        color = f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
        if color not in taken:
            return color
        step += 1


def parse_address(text: str) -> IPv4Address:
    """Parse an IPv4 address in dotted form. Raises ValueRefusedError."""
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ValueRefusedError(f"{text!r} is not an IPv4 address", hint="for example: 192.168.2.200") from None
    return address


def parse_network(text: str) -> Network:
    """Parse one of the two networks from its addresses. Raises ValueRefusedError."""
    for network in (ONLINE, OFFLINE):
        if text == str(network.addresses):
            return network
    raise ValueRefusedError(f"{text!r} is not a network of a Tower", hint=f"{ONLINE.addresses} or {OFFLINE.addresses}")
