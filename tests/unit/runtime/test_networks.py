# SPDX-License-Identifier: Apache-2.0
"""Addresses and colours of new hosts: no gaps, no clashes."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base import networks
from tower.base.errors import AnswerError, HostError
from tower.base.names import parse_color
from tower.base.networks import OFFLINE, ONLINE, next_address, next_color
from tower.provision import provision


@given(st.sets(st.sampled_from(ONLINE.hosts), max_size=len(ONLINE.hosts) - 1))
def test_the_lowest_free_address(taken: set[IPv4Address]) -> None:
    found = next_address(ONLINE, taken)
    assert found not in taken
    assert all(address in taken for address in ONLINE.hosts if address < found)


def test_networks_do_not_share_addresses() -> None:
    assert next_address(OFFLINE, set(ONLINE.hosts)) == IPv4Address("192.168.3.200")


def test_a_full_network_is_an_error() -> None:
    with pytest.raises(HostError, match="no address left"):
        next_address(ONLINE, set(ONLINE.hosts))


def test_colors_never_clash() -> None:
    taken: list[str] = []
    for _ in range(120):
        taken.append(parse_color(next_color(taken)))
    assert len(set(taken)) == 120
    gone = taken.pop(3)
    assert next_color(taken) == gone


def test_a_leg_that_this_machine_has_not() -> None:
    with pytest.raises(AnswerError, match="not in the offline network: eth1 has no address"):
        provision.check_network(IPv4Address("192.168.3.200"), online=False)


def test_an_address_that_somebody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it takes a connection or refuses it, somebody is there; where nobody is, all is well."""
    here = networks.Network("offline", IPv4Network("127.0.0.0/24"), IPv4Address("127.0.0.1"), "lo")
    monkeypatch.setattr(provision, "network_of", lambda online: here)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(provision, "_SSH", server.getsockname()[1])
        for address in ("127.0.0.1", "127.0.0.2"):
            with pytest.raises(AnswerError, match="another machine has this address already"):
                provision.check_network(IPv4Address(address), online=False)
    provision.check_network(IPv4Address("192.0.2.1"), online=False)
