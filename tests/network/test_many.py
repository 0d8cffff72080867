# SPDX-License-Identifier: Apache-2.0
"""`tower status` of twenty hosts takes hardly longer than that of the slowest of them."""

from __future__ import annotations

from tests.network.machines import Tower
from tests.network.many import many_hosts, names, seconds_for

COUNT = 20


def test_twenty_hosts_take_hardly_longer_than_the_slowest(machines: Tower) -> None:
    with many_hosts(machines, COUNT, slow=2) as user:
        slowest = min(seconds_for(user, names(COUNT)[-1]) for _ in range(2))
        for _ in range(4):
            everything = seconds_for(user)
            if everything <= 1.5 * slowest:
                break
    assert everything <= 1.5 * slowest, f"{everything:.2f} s for all, {slowest:.2f} s for the slowest"
