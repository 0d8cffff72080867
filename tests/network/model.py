# SPDX-License-Identifier: Apache-2.0
"""What a Tower's machines may do, written down a second time: from DESIGN section 7, not from the firewall's tables.

All of it is IPv4; of IPv6 a machine takes and sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.network.packets import TCP, UDP

THINCLIENT, THINCLIENT_OFFLINE, ROUTER = "192.168.2.100", "192.168.3.100", "192.168.2.1"
HOST, LAST_HOST = "192.168.2.200", "192.168.2.254"
SERVER = "198.51.100.7"


@dataclass(frozen=True, slots=True)
class Role:
    """What one machine may do, on which interface."""

    opened_to: frozenset[tuple[str, int, str, str, int]] = frozenset()
    """New connections that it takes: interface, protocol, from, to, port."""
    opens: frozenset[tuple[str, int, str, int]] = frozenset()
    """New connections that it makes: interface, protocol, to, port; protocol 0 is any, with any port."""
    errors_about: frozenset[str] = frozenset()
    """Whose messages of ICMP about its own connections it takes, and to whom it sends such messages."""
    forwards: frozenset[tuple[str, str, str, str]] = frozenset()
    """What it passes on: from interface, to interface, from, to."""


MODEL = {
    "thinclient": Role(
        opens=frozenset(
            {
                *(("eth0", TCP, target, 22) for target in (ROUTER, "192.168.2.50", HOST, LAST_HOST, "192.168.2.255")),
                *(("eth1", TCP, target, 22) for target in ("192.168.3.200", "192.168.3.254")),
            }
        ),
    ),
    "router": Role(
        opened_to=frozenset(
            {
                ("eth0", TCP, THINCLIENT, ROUTER, 22),
                *(("eth0", TCP, host, ROUTER, 9050) for host in (HOST, LAST_HOST)),
                *(("eth0", UDP, host, ROUTER, 123) for host in (HOST, LAST_HOST)),
                *(("eth0", protocol, host, ROUTER, 53) for protocol in (TCP, UDP) for host in (HOST, LAST_HOST)),
            }
        ),
        opens=frozenset({("wlan0", 0, SERVER, 0), ("wlan0", 0, "10.20.0.1", 0)}),
        errors_about=frozenset({SERVER}),
        forwards=frozenset({("eth0", "wlan0", host, SERVER) for host in (HOST, LAST_HOST)}),
    ),
    "online": Role(
        opened_to=frozenset({("eth0", TCP, THINCLIENT, HOST, 22)}),
        opens=frozenset(
            {
                *(("eth0", TCP, ROUTER, port) for port in (53, 9050)),
                *(("eth0", UDP, ROUTER, port) for port in (53, 123)),
                ("eth0", 0, SERVER, 0),
                ("eth0", 0, "10.20.0.1", 0),
            }
        ),
        errors_about=frozenset({SERVER}),
    ),
    "offline": Role(opened_to=frozenset({("eth0", TCP, THINCLIENT_OFFLINE, "192.168.3.200", 22)})),
}
