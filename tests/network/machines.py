# SPDX-License-Identifier: Apache-2.0
"""A Tower in namespaces of one machine: six machines, two switches, and an Internet behind the router.

Each machine has its own network, processes, host name and file system (this machine's, with changes kept in memory),
the product's files of its overlay and, when asked for, the product's firewall and a real sshd. Nothing is made in the
namespaces of the tests, and all ends with the processes that hold it: also when the tests themselves are killed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

CHECKOUT = Path(__file__).resolve().parents[2]
FIREWALL = "/usr/libexec/tower/firewall"
NEEDED = ("doas", "ip", "iptables-restore", "ip6tables-restore", "nsenter", "setpriv", "ssh", "sshd", "unshare")

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

# Runs as the first process of a machine: a root of its own over this one, then a wait that reaps.
_START = """
set -eu
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
mkdir -p "/mnt/root$2"
mount --bind "$2" "/mnt/root$2"
mount -t proc proc /mnt/root/proc
mount -t sysfs sysfs /mnt/root/sys
mount --rbind /dev /mnt/root/dev
mount -t tmpfs tmpfs /mnt/root/run
hostname "$1"
echo ready
exec chroot /mnt/root /bin/sh -c 'sleep infinity & wait'
"""


@dataclass(frozen=True, slots=True)
class Leg:
    """An interface of a machine: the switch that it is plugged into, and its addresses."""

    name: str
    switch: str
    ipv4: str | None = None
    ipv6: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a machine is: its role in the firewall's words, its legs and the way to everywhere else."""

    name: str
    role: str | None
    legs: tuple[Leg, ...]
    gateway: str | None = None


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
    Plan("internet", None, (Leg("eth0", "air", "10.20.0.1", "fd00:20::1"),)),
)
"""The machines of DESIGN section 7, with the addresses that it gives; `internet` is what the router's second leg leads to."""

INTERNET_ADDRESS = "198.51.100.7"
"""A server somewhere in the Internet."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd, as a client needs to know it."""

    user: str
    host_key: str
    """The public key of the host, as `known_hosts` has it: type and base64."""


@dataclass(slots=True)
class Machine:
    """One machine of the Tower."""

    plan: Plan
    process: subprocess.Popen[bytes]
    pid: int
    """Its first process, by the number that it has here."""
    server: SshServer | None = field(default=None, init=False)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.plan.name

    @property
    def root(self) -> Path:
        """Its file system, seen from here."""
        return Path(f"/proc/{self.pid}/root")

    def address(self, leg: str = "eth0") -> str:
        """The IPv4 address of a leg."""
        return next(one.ipv4 for one in self.plan.legs if one.name == leg and one.ipv4)

    def argv(self, *argv: str) -> list[str]:
        """The command that runs `argv` inside, as its root."""
        return ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd", "--", *argv]

    def run(
        self,
        *argv: str,
        data: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as root or another user; what it prints is in the result and in the error."""
        if user is not None:
            argv = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "env", f"HOME=/home/{user}", *argv)
        done = subprocess.run(
            self.argv(*argv),
            input=data or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **(env or {})},
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside."""
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def read(self, name: str) -> str:
        """Read a file inside."""
        return (self.root / name.lstrip("/")).read_text()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes belong to the machine, for good."""
        with in_network_of(self.pid):
            yield

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket on the machine's network, which does not block."""
        with self.inside():
            made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    def serves(self, port: int, kind: int) -> bool:
        """Whether the machine's sshd has the port, so that no test can."""
        return self.server is not None and (port, kind) == (22, socket.SOCK_STREAM)

    def firewall(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The product's firewall command, inside."""
        return self.run(FIREWALL, *argv, check=check)

    def sshd(self, authorized_key: str, user: str = "user") -> SshServer:
        """Start the machine's sshd with the product's settings and a host key of its own, once; `user` may log in."""
        if self.server is None:
            overlay = CHECKOUT / "overlays" / "common" / "etc" / "ssh" / "sshd_config.d" / "tower.conf"
            self.write("etc/ssh/sshd_config.d/tower.conf", overlay.read_text(), 0o600)
            for old in (self.root / "etc" / "ssh").glob("ssh_host_*"):
                old.unlink()
            self.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", "/etc/ssh/ssh_host_ed25519_key")
            self.run("useradd", "--create-home", "--shell", "/bin/sh", "--password", "*", user)
            self.run("mkdir", "-p", "-m", "0755", "/run/sshd")
            self.run("/usr/sbin/sshd")
            public = self.read("etc/ssh/ssh_host_ed25519_key.pub").split()
            self.server = SshServer(user, " ".join(public[:2]))
            self._wait_for_listener(22)
        self.write(f"home/{user}/.ssh/authorized_keys", authorized_key.rstrip("\n") + "\n", 0o600)
        self.run("chown", "-R", f"{user}:{user}", f"/home/{user}/.ssh")
        return self.server

    def _wait_for_listener(self, port: int, seconds: float = 20) -> None:
        ends = time.monotonic() + seconds
        # Columns of proc(5): local address, remote address, state; 0A is LISTEN.
        while not any(
            columns[1].endswith(f":{port:04X}") and columns[3] == "0A"
            for columns in map(str.split, Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines())
        ):
            if time.monotonic() > ends:
                raise AssertionError(f"{self.name}: nothing listens on port {port} after {seconds} s")
            time.sleep(0.02)


@contextmanager
def in_network_of(pid: int) -> Iterator[None]:
    """Put this thread into the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, 0x40000000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")

    with Path("/proc/thread-self/ns/net").open("rb") as here, Path(f"/proc/{pid}/ns/net").open("rb") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(here.fileno())


@dataclass(frozen=True, slots=True)
class Tower:
    """All the machines, and the namespace that the switches are in."""

    machines: Mapping[str, Machine]
    wires: int
    """A process in the namespace of the switches: the far end of leg `eth0` of `router` is `router-eth0` there."""

    def __getitem__(self, name: str) -> Machine:
        return self.machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self.machines.values())

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
def tower() -> Iterator[Tower]:
    """Start the machines and connect them; end them all on the way out."""
    with ExitStack() as stack:
        wires, wires_pid = _started(stack, ["sh", "-c", "echo ready; exec sleep infinity"], ["--net"])
        started = []
        for plan in PLANS:
            argv = ["sh", "-c", _START, "sh", plan.name, str(CHECKOUT)]
            started.append((plan, *_begin(stack, argv, ["--net", "--mount", "--pid", "--uts", "--ipc"])))
        machines = {plan.name: Machine(plan, process, _first(process, output)) for plan, process, output in started}
        made = Tower(machines, wires_pid)
        _connect(made)
        for machine in made:
            _lay_overlay(machine)
        assert wires.poll() is None
        yield made


def _begin(stack: ExitStack, argv: Sequence[str], namespaces: Sequence[str]) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    # Whatever ends the tests, or the unshare between, ends the first process, and so its namespaces.
    cage = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--fork", "--kill-child=KILL", "--"]
    process = subprocess.Popen([*cage, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    stack.callback(process.stdout.close)
    return process, process.stdout  # type: ignore[return-value]


def _started(stack: ExitStack, argv: Sequence[str], namespaces: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    process, output = _begin(stack, argv, namespaces)
    return process, _first(process, output)


def _first(process: subprocess.Popen[bytes], output: BinaryIO) -> int:
    """Wait until the namespaces are ready; the number of their first process."""
    line = output.readline()
    if line != b"ready\n":
        raise AssertionError(f"a machine did not start: {process.wait()}; is this root, in a namespace that may mount?")
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def _connect(tower: Tower) -> None:
    """Switches, cables, addresses, routes."""
    switches = sorted({leg.switch for machine in tower for leg in machine.plan.legs})
    lines = [f"link add {switch} type bridge\nlink set {switch} up" for switch in switches]
    for machine in tower:
        for leg in machine.plan.legs:
            far = f"{machine.name}-{leg.name}"
            lines.append(f"link add {far} type veth peer name {leg.name} netns {machine.pid}")
            lines.append(f"link set {far} master {leg.switch} up")
    _ip(tower.wires, lines)
    for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        command = ["nsenter", f"--target={tower.wires}", "--net", "sh", "-c", f"echo 0 >{setting}"]
        subprocess.run(command, check=True, timeout=10)
    for machine in tower:
        lines = ["link set lo up"]
        for leg in machine.plan.legs:
            # Its address is known by heart: no waiting for duplicate address detection.
            lines.append(f"link set {leg.name} up")
            lines += [f"addr add {leg.ipv4}/24 dev {leg.name}"] * (leg.ipv4 is not None)
            lines += [f"addr add {leg.ipv6}/64 dev {leg.name} nodad"] * (leg.ipv6 is not None)
        if machine.plan.gateway:
            lines.append(f"route add default via {machine.plan.gateway}")
        if machine.name == "internet":
            lines.append(f"addr add {INTERNET_ADDRESS}/32 dev eth0")
        # Link-local addresses that are usable at once.
        machine.run("sh", "-c", "for leg in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 >$leg; done")
        _ip(machine.pid, lines)


def _ip(pid: int, lines: Sequence[str]) -> None:
    command = ["nsenter", f"--target={pid}", "--net", "ip", "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, timeout=30)


def _lay_overlay(machine: Machine) -> None:
    """The product's files that a machine of this role has, where it has them."""
    common = CHECKOUT / "overlays" / "common"
    for name in ("usr/libexec/tower", "usr/share/tower"):
        shutil.copytree(common / name, machine.root / name, dirs_exist_ok=True)
    if machine.plan.role is not None:
        machine.write("etc/tower/firewall.env", f"ROLE={machine.plan.role}\n")


def missing_tools() -> list[str]:
    """What keeps this machine from having a Tower in it."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    return missing + ["root"] * (os.geteuid() != 0)
