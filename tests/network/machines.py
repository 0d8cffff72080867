# SPDX-License-Identifier: Apache-2.0
"""The Tower of the network ring: six machines of `pipeline.sim`, an Internet, and roots that are built if need be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from tower.base.names import parse_host_name, parse_user_name
from tower.hosts import env, secret
from tower.hosts.env import Encryption, InstallationType, TowerEnv, Wlan
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, RECEIPT_ON_BOOT

from pipeline.base.errors import BootError
from pipeline.cli.command_line import open_factory
from pipeline.light.parts import NEEDED
from pipeline.light.roots import RootName, root_of
from pipeline.light.services import NO_PASSWORD, SshServer
from pipeline.light.shelf import Shelf, shelf
from pipeline.light.switches import Interface, in_network_of
from pipeline.sim.machines import INTERNET_ADDRESS, NAMED_ADDRESS, USER, Machine, MachinePlan, Tower, assembled, missing_tools

__all__ = [
    "CHECKOUT", "INTERNET_ADDRESS", "PLANS", "USER", "Interface", "Machine", "MachinePlan", "SshServer", "Tower",
    "boot_files", "in_network_of", "missing_tools", "root_files", "roots", "tower",
]  # fmt: skip

CHECKOUT: Final = Path(__file__).resolve().parents[2]
_BUILD_SECONDS: Final = 3600

# Each machine has one interface more than it should: an adapter that somebody plugged in.
_SPARE = Interface("usb0", "spare")


def _host(name: str, role: str, network: int, number: int) -> MachinePlan:
    interface = Interface("eth0", role, f"192.168.{network}.{number}", f"fd00:{network}::{number}")
    return MachinePlan(name, role, (interface, _SPARE), "192.168.2.1" if role == "online" else None)


PLANS = (
    MachinePlan(
        "thinclient",
        "thinclient",
        (
            Interface("eth0", "online", "192.168.2.100", "fd00:2::100"),
            Interface("eth1", "offline", "192.168.3.100", "fd00:3::100"),
            _SPARE,
        ),
    ),
    MachinePlan(
        "router",
        "router",
        (Interface("eth0", "online", "192.168.2.1", "fd00:2::1"), Interface("wlan0", "air", "10.20.0.2", "fd00:20::2"), _SPARE),
        "10.20.0.1",
    ),
    _host("online1", "online", 2, 200),
    _host("online2", "online", 2, 201),
    _host("offline1", "offline", 3, 200),
    _host("offline2", "offline", 3, 201),
    MachinePlan(
        "internet",
        None,
        (Interface("eth0", "air", "10.20.0.1", "fd00:20::1"),),
        more=tuple(f"addr add {address}/32 dev eth0" for address in (INTERNET_ADDRESS, NAMED_ADDRESS)),
    ),
)
"""The machines of DESIGN section 7, and their addresses; the router's second interface leads to `internet`."""


def root_files(*names: RootName) -> dict[str, Path]:
    """The files of some roots, or of all, by name; built by the real command if need be."""
    factory = open_factory(CHECKOUT)
    try:
        return {name.value: root_of(name, factory) for name in names or RootName}
    except BootError:
        argv = [sys.executable, "-m", "doit", *NEEDED]
        done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        factory.keys.reset()
        return {name.value: root_of(name, factory) for name in names or RootName}


@contextmanager
def roots(*names: RootName) -> Iterator[Shelf]:
    """Some roots, or all of them, unpacked for as many Towers as the caller makes of them."""
    with shelf(root_files(*names)) as made:
        yield made


@contextmanager
def tower(on: Shelf) -> Iterator[Tower]:
    """Start the machines of the ring and connect them; end them all on the way out."""
    with assembled(on, PLANS) as made:
        made.turn_on(*made, before=_first_start)
        yield made


def _first_start(machine: Machine) -> None:
    """What `tower provision` lays on a host's boot partition; the product does the rest."""
    if machine.plan.is_host:
        machine.lay_on_boot(boot_files(machine.plan))


def boot_files(plan: MachinePlan) -> dict[str, bytes]:
    """The files that a host of the Tower finds on its boot partition, by name, made by the product's own modules."""
    online = plan.role != "offline"
    key = secret.new_key_pair(plan.name)
    found = TowerEnv(
        hostname=parse_host_name(plan.name),
        username=parse_user_name(USER),
        public_key=secret.new_key_pair(f"{USER}@{plan.name}").public,
        password_hash=NO_PASSWORD,
        keyboard_layout="fr",
        keyboard_variant="fr",
        timezone="Europe/Paris",
        lang="fr_FR.UTF-8",
        online=online,
        wlan=Wlan("Home", "0" * 64) if plan.role == "router" else None,
        address=IPv4Address(str(plan.interfaces[0].ipv4)),
        installation_type=InstallationType.INSTALL,
        color="#4363d8",
        alpine_branch="lab",
        encryption=Encryption.NONE,
    )
    receipt = {"schema": 1, "id": "0" * 32, "host": plan.name, "version": "0", "channel": "lab", "image_sha256": "0" * 64}
    return {
        ENV: env.dump(found),
        HOST_KEY: key.private,
        f"{HOST_KEY}.pub": key.public.encode() + b"\n",
        KEY_FILE: secret.new_key_file(),
        RECEIPT_ON_BOOT: json.dumps(receipt, indent=1, sort_keys=True).encode() + b"\n",
    }
