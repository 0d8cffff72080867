# SPDX-License-Identifier: Apache-2.0
"""A Tower of light machines: the product's own roots with its own services, switches, and an Internet behind the router.

Hosts set themselves up from the files on their boot partition.
Nothing is made in the namespaces of the caller, and everything ends with this process, even if it is killed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from pipeline.base.scratch import temporary_folder
from pipeline.light.machine import Box, Ran
from pipeline.light.roots import RootName
from pipeline.light.services import SshServer, add_user, let_in, service, ssh_server
from pipeline.light.shelf import Shelf
from pipeline.light.switches import Interface, Wiring, plug_in, switches
from pipeline.sim.leases import Leases

USER = "user"
"""Who types `tower` on the thin client, and logs in on hosts."""
FIREWALL = "/usr/libexec/tower/firewall"
NEEDED = ("busybox", "debugfs", "ip", "nsenter", "setpriv", "tar", "unshare")

INTERNET_ADDRESS = "198.51.100.7"
"""A server somewhere in the Internet, which also resolves its names."""
NAMED_ADDRESS = "198.18.0.7"
"""Where its names lead. The router passes no name on that leads to a private address, or to one kept for documentation."""

# The rule itself does nothing, but because of it the kernel tracks connections.
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
class MachinePlan:
    """The plan of a machine: its role for the firewall (None: not in the Tower), its interfaces, its routes."""

    name: str
    role: str | None
    interfaces: tuple[Interface, ...]
    gateway: str | None = None
    more: tuple[str, ...] = ()
    """Further lines for `ip -batch`."""

    @property
    def root(self) -> RootName:
        """The name of the root that it has."""
        return RootName.THINCLIENT if self.role == "thinclient" else RootName.HOST

    @property
    def is_host(self) -> bool:
        """Whether the thin client provisions it."""
        return self.role is not None and self.root is RootName.HOST


@dataclass(slots=True)
class Machine(Box):
    """One machine of the Tower."""

    plan: MachinePlan

    @property
    def wiring(self) -> Wiring:
        """Return its cables and addresses."""
        return Wiring(self.name, self.pid, self.plan.interfaces, self.plan.role is not None, self.plan.more)

    def address(self, interface: str = "eth0") -> str:
        """Return the IPv4 address of an interface."""
        return next(one.ipv4 for one in self.plan.interfaces if one.name == interface and one.ipv4)

    def lay_on_boot(self, files: Mapping[str, bytes]) -> None:
        """Put files onto its boot partition, where a host looks at its first start."""
        for name, data in files.items():
            self.path(f"boot/{name}").write_bytes(data)

    def firewall(self, *argv: str, check: bool = True) -> Ran:
        """Run the product's firewall command inside."""
        return self.run(FIREWALL, *argv, check=check)

    def service(self, name: str, action: str) -> None:
        """Let OpenRC start, stop or restart a service."""
        service(self, name, action)

    def stop_servers(self) -> list[str]:
        """Stop the services whose ports tests use themselves; return the names of those that were running."""
        names = ("sshd", "tor", "dnsmasq")
        ran = [name for name in names if self.run("rc-service", "-q", name, "status", check=False).returncode == 0]
        for name in ran:
            self.service(name, "stop")
        return ran

    def sshd(self, *keys: str, user: str = USER) -> SshServer:
        """Return the machine's sshd, once it listens; `user` may log in with these keys."""
        add_user(self, user, administrator=True)
        let_in(self, keys, user)
        return ssh_server(self)


@dataclass(frozen=True, slots=True)
class Tower:
    """All the machines, and the namespace that the switches are in."""

    machines: Mapping[str, Machine]
    wires: int
    """A process in the namespace of the switches: the far end of interface `eth0` of `router` is `router-eth0` there."""
    starter: ThreadPoolExecutor
    leases: Leases
    """The DHCP server for the router's second interface."""
    over: threading.Event = field(default_factory=threading.Event)

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

    def turn_on(self, *machines: Machine, before: Callable[[Machine], None] | None = None) -> None:
        """Start machines that are off, with their cables plugged in, and wait until they are up.

        `before` may change what they have before they boot.
        """
        self.begin(*machines, before=before)
        for machine in machines:
            machine.wait_until_up()

    def begin(self, *machines: Machine, before: Callable[[Machine], None] | None = None) -> None:
        """Start machines as `turn_on` does, but return before they are up."""
        # Processes end with the thread that started them: this one lives as long as the Tower.
        self.starter.submit(self._begin, machines, before).result()

    @contextmanager
    def firmware(
        self, *names: str, before: Callable[[Machine], None] | None = None, after: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """For the context, restart machines that ask for it; `before` may change them before they boot.

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

    def _begin(self, machines: Sequence[Machine], before: Callable[[Machine], None] | None) -> None:
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

    def set_firewalls(self) -> None:
        """Set each machine's own rules with the product's own command."""
        for machine in self:
            if machine.plan.role is not None:
                machine.firewall("set")

    def open_firewall(self, machine: Machine) -> None:
        """Remove a machine's rules, so that only the wires limit it."""
        for command in ("iptables-restore", "ip6tables-restore"):
            machine.run(command, data=_OPEN)


@contextmanager
def assembled(on: Shelf, plans: Sequence[MachinePlan]) -> Iterator[Tower]:
    """Yield machines that are off, and the switches between them; all end with the context. One is `router`, one `internet`."""
    with ExitStack() as stack:
        machines = {
            plan.name: Machine(plan.name, on, plan.root, on.disk(stack), ("firewall",) if plan.role else ("-",), stack, plan)
            for plan in plans
        }
        starter = stack.enter_context(ThreadPoolExecutor(1))
        folder = stack.enter_context(temporary_folder("leases"))
        leases = Leases(folder, machines["router"].address("wlan0"), machines["internet"].address(), INTERNET_ADDRESS, stack)
        yield Tower(
            machines, switches(stack, {interface.switch for plan in plans for interface in plan.interfaces}), starter, leases
        )


def missing_tools() -> list[str]:
    """Return the reasons why no Tower can run on this machine."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return missing + ["root"] * (os.geteuid() != 0)
