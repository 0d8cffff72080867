# SPDX-License-Identifier: Apache-2.0
"""A Tower of light machines: six machines of the product's own roots, two switches, and an Internet behind the router.

Each runs the product's services. Hosts make themselves ready with what they find on their boot partition.
Nothing is made in the namespaces of whoever starts them, and all ends with that process, also when it is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tower.base.names import parse_host_name, parse_user_name
from tower.hosts import env, secret
from tower.hosts.env import Encryption, InstallationType, TowerEnv, Wlan
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, RECEIPT_ON_BOOT

from pipeline.base.scratch import temporary_folder
from pipeline.light.machine import Box, Ran
from pipeline.light.roots import RootName
from pipeline.light.services import NO_PASSWORD, SshServer, add_user, let_in, service, ssh_server
from pipeline.light.shelf import Shelf
from pipeline.light.switches import Leg, Wiring, plug_in, switches
from pipeline.sim.leases import Leases

USER = "user"
"""Who logs in on hosts."""
FIREWALL = "/usr/libexec/tower/firewall"
NEEDED = ("busybox", "debugfs", "ip", "nsenter", "setpriv", "tar", "unshare")

INTERNET_ADDRESS = "198.51.100.7"
"""A server somewhere in the Internet."""

# The one rule does nothing; for the sake of it the kernel keeps track of connections.
_OPEN = """*raw
COMMIT
*nat
COMMIT
*filter
:INPUT ACCEPT
:OUTPUT ACCEPT
:FORWARD ACCEPT
-A INPUT -m conntrack --ctstate INVALID
COMMIT
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a machine is: its role in the firewall's words (None: no machine of a Tower), its legs, its way elsewhere."""

    name: str
    role: str | None
    legs: tuple[Leg, ...]
    gateway: str | None = None
    more: tuple[str, ...] = ()
    """Further lines for `ip -batch`."""

    @property
    def root(self) -> RootName:
        """Whose root it has."""
        return RootName.THINCLIENT if self.role == "thinclient" else RootName.HOST

    @property
    def is_host(self) -> bool:
        """Whether the thin client provisions it."""
        return self.role is not None and self.root is RootName.HOST


# Each machine has a leg more than it should: an adapter that somebody plugged in.
_SPARE = Leg("usb0", "spare")


def _host(name: str, role: str, network: int, number: int) -> Plan:
    leg = Leg("eth0", role, f"192.168.{network}.{number}", f"fd00:{network}::{number}")
    return Plan(name, role, (leg, _SPARE), "192.168.2.1" if role == "online" else None)


PLANS = (
    Plan(
        "thinclient",
        "thinclient",
        (Leg("eth0", "online", "192.168.2.100", "fd00:2::100"), Leg("eth1", "offline", "192.168.3.100", "fd00:3::100"), _SPARE),
    ),
    Plan(
        "router",
        "router",
        (Leg("eth0", "online", "192.168.2.1", "fd00:2::1"), Leg("wlan0", "air", "10.20.0.2", "fd00:20::2"), _SPARE),
        "10.20.0.1",
    ),
    _host("online1", "online", 2, 200),
    _host("online2", "online", 2, 201),
    _host("offline1", "offline", 3, 200),
    _host("offline2", "offline", 3, 201),
    Plan("internet", None, (Leg("eth0", "air", "10.20.0.1", "fd00:20::1"),), more=(f"addr add {INTERNET_ADDRESS}/32 dev eth0",)),
)
"""The machines of DESIGN section 7, with the addresses that it gives; `internet` is what the router's second leg leads to."""


@dataclass(slots=True)
class Machine(Box):
    """One machine of the Tower."""

    plan: Plan

    @property
    def wiring(self) -> Wiring:
        """Its cables and addresses."""
        return Wiring(self.name, self.pid, self.plan.legs, self.plan.role is not None, self.plan.more)

    def address(self, leg: str = "eth0") -> str:
        """The IPv4 address of a leg."""
        return next(one.ipv4 for one in self.plan.legs if one.name == leg and one.ipv4)

    def firewall(self, *argv: str, check: bool = True) -> Ran:
        """The product's firewall command, inside."""
        return self.run(FIREWALL, *argv, check=check)

    def service(self, name: str, action: str) -> None:
        """Let OpenRC start, stop or restart a service."""
        service(self, name, action)

    def stop_servers(self) -> list[str]:
        """Stop the services whose ports tests use themselves; returns the names of those that were running."""
        ran = [name for name in ("sshd", "tor") if self.run("rc-service", "-q", name, "status", check=False).returncode == 0]
        for name in ran:
            self.service(name, "stop")
        return ran

    def sshd(self, *keys: str, user: str = USER) -> SshServer:
        """The machine's sshd, once it listens; `user` may log in with these keys."""
        add_user(self, user, administrator=True)
        let_in(self, keys, user)
        return ssh_server(self)


@dataclass(frozen=True, slots=True)
class Tower:
    """All the machines, and the namespace that the switches are in."""

    machines: Mapping[str, Machine]
    wires: int
    """A process in the namespace of the switches: the far end of leg `eth0` of `router` is `router-eth0` there."""
    starter: ThreadPoolExecutor
    leases: Leases
    """The DHCP server for the router's second leg."""
    over: threading.Event = field(default_factory=threading.Event)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def turn_on(self, *machines: Machine, before: Callable[[Machine], None] | None = None) -> None:
        """Start machines that are off, with their cables plugged in, and wait until they are up.

        `before` may change what they have before they boot.
        """
        # Processes end with the thread that started them: this one lives as long as the Tower.
        self.starter.submit(self._turn_on, machines, before).result()

    @contextmanager
    def firmware(
        self, *names: str, before: Callable[[Machine], None] | None = None, after: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Meanwhile, machines that ask for it are started again; `before` may change them before they boot.

        `after` is called when one is up again.
        """
        threads = [threading.Thread(target=self._start_again, args=(self[name], before, after)) for name in names]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()
            self.over.clear()

    def _start_again(self, machine: Machine, before: Callable[[Machine], None] | None, after: Callable[[], None] | None) -> None:
        while not self.over.wait(0.05):
            if not machine.is_on:
                if not machine.wait_until_off():
                    return
                self.turn_on(machine, before=before)
                if after is not None:
                    after()

    def _turn_on(self, machines: Sequence[Machine], before: Callable[[Machine], None] | None) -> None:
        for machine in machines:
            machine.turn_on()
        for machine in machines:
            machine.wait_until_made()
        plug_in(self.wires, [machine.wiring for machine in machines])
        if any(machine.plan.role == "router" for machine in machines):
            # The router comes back with another hardware address, and the only lease must be free for it.
            self.leases.start(self["internet"].pid)
        for machine in machines:
            if before is not None:
                before(machine)
            machine.boot()
        for machine in machines:
            machine.wait_until_up()

    def set_firewalls(self) -> None:
        """Each machine's own rules, by the product's own command."""
        for machine in self:
            if machine.plan.role is not None:
                machine.firewall("set")

    def open_firewall(self, machine: Machine) -> None:
        """No rules: what the wires alone allow."""
        for command in ("iptables-restore", "ip6tables-restore"):
            machine.run(command, data=_OPEN)


@contextmanager
def tower(on: Shelf) -> Iterator[Tower]:
    """Start the machines of the ring and connect them; end them all on the way out."""
    with assembled(on, PLANS) as made:
        made.turn_on(*made, before=_first_start)
        yield made


@contextmanager
def assembled(on: Shelf, plans: Sequence[Plan]) -> Iterator[Tower]:
    """Machines that are off, and the switches between them; all of them end on the way out. One is `router`, one `internet`."""
    with ExitStack() as stack:
        machines = {
            plan.name: Machine(plan.name, on, plan.root, on.disk(stack), ("firewall",) if plan.role else ("-",), stack, plan)
            for plan in plans
        }
        starter = stack.enter_context(ThreadPoolExecutor(1))
        folder = stack.enter_context(temporary_folder("leases"))
        leases = Leases(folder, machines["router"].address("wlan0"), machines["internet"].address(), INTERNET_ADDRESS, stack)
        yield Tower(machines, switches(stack, {leg.switch for plan in plans for leg in plan.legs}), starter, leases)


def _first_start(machine: Machine) -> None:
    """What `tower provision` lays on a host's boot partition; the product does the rest."""
    if machine.plan.is_host:
        for name, data in boot_files(machine.plan).items():
            machine.path(f"boot/{name}").write_bytes(data)


def boot_files(plan: Plan) -> dict[str, bytes]:
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
        address=IPv4Address(str(plan.legs[0].ipv4)),
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


def missing_tools() -> list[str]:
    """What keeps this machine from having a Tower in it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return missing + ["root"] * (os.geteuid() != 0)
