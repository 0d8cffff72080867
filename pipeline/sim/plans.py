# SPDX-License-Identifier: Apache-2.0
"""The Tower that `doit sim` starts: a thin client, the router, a host of each network, and an Internet behind the router."""

from __future__ import annotations

from typing import Final

from pipeline.light.switches import Interface
from pipeline.sim.machines import INTERNET_ADDRESS, NAMED_ADDRESS, MachinePlan

THIN_CLIENT: Final = "thinclient"
WIFI: Final = "Home"

SIM: Final = (
    MachinePlan(
        "internet",
        None,
        (Interface("eth0", "air", "10.20.0.1"),),
        more=tuple(f"addr add {address}/32 dev eth0" for address in (INTERNET_ADDRESS, NAMED_ADDRESS)),
    ),
    MachinePlan(
        THIN_CLIENT, "thinclient", (Interface("eth0", "online", "192.168.2.100"), Interface("eth1", "offline", "192.168.3.100"))
    ),
    MachinePlan(
        "router", "router", (Interface("eth0", "online", "192.168.2.1"), Interface("wlan0", "air", "10.20.0.2")), "10.20.0.1"
    ),
    MachinePlan("web", "online", (Interface("eth0", "online", "192.168.2.200"),), "192.168.2.1"),
    MachinePlan("vault", "offline", (Interface("eth0", "offline", "192.168.3.200"),)),
)
"""In the order in which they start."""
