# SPDX-License-Identifier: Apache-2.0
"""Switches and cables: bridges in a network namespace that belongs to no machine, and pairs of interfaces."""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import proc
from pipeline.light.cage import Process, caged

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of a machine: the switch that it is plugged into, and its addresses."""

    name: str
    switch: str
    ipv4: str | None = None
    ipv6: str | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """The data of a machine that the cables need: its name, its first process, its interfaces."""

    name: str
    pid: int
    interfaces: tuple[Interface, ...]
    own_addresses: bool
    """Whether it gives itself the addresses of IPv4."""
    more: tuple[str, ...] = ()
    """Further lines for `ip -batch` inside."""


@contextmanager
def in_network_of(pid: int) -> Iterator[None]:
    """Put this thread into the network namespace of a process."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")

    with Path("/proc/thread-self/ns/net").open("rb") as here, Path(f"/proc/{pid}/ns/net").open("rb") as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(here.fileno())


def start_in_network_of(pid: int, argv: Sequence[str | os.PathLike[str]]) -> Process:
    """Start a program of this machine in the network namespace of a process; it ends with the thread that starts it."""
    return proc.spawn(["setpriv", "--pdeathsig", "KILL", "nsenter", f"--target={pid}", "--net", "--", *argv])


def ip(pid: int, lines: Iterable[str]) -> None:
    """Run lines of `ip -batch` in the network of a process."""
    command = ["nsenter", f"--target={pid}", "--net", "ip", "-batch", "-"]
    proc.run(command, stdin="\n".join(lines).encode(), timeout=30)


def switches(stack: ExitStack, names: Iterable[str]) -> int:
    """Make switches; return a process in their network."""
    wires = caged(stack, ["sh", "-c", "echo ready; exec sleep infinity"], ["--net"]).first()
    ip(wires, [f"link add {switch} type bridge\nlink set {switch} up" for switch in sorted(names)])
    for setting in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
        _set(wires, setting, "0")
    return wires


def hardware_address(far: str) -> str:
    """Return the address of an adapter: the same at every start of its machine, since neighbours remember it."""
    return ":".join(f"{octet:02x}" for octet in (2, *hashlib.sha256(far.encode()).digest()[:5]))


def plug_in(wires: int, machines: Sequence[Wiring]) -> None:
    """Connect machines with the switches, and set the addresses that they do not set themselves.

    The far end of interface `eth0` of machine `web` is `web-eth0` where the switches are; it is removed with the machine.
    """
    lines = []
    for machine in machines:
        for interface in machine.interfaces:
            far = f"{machine.name}-{interface.name}"
            lines.append(
                f"link add {far} type veth peer name {interface.name} address {hardware_address(far)} netns {machine.pid}"
            )
            lines.append(f"link set {far} master {interface.switch} up")
    ip(wires, lines)
    for machine in machines:
        _address(machine)


def plug_in_tap(wires: int, switch: str, name: str) -> None:
    """Make the tap interface `name`, for a virtual machine, and plug it into a switch."""
    ip(wires, [f"tuntap add dev {name} mode tap", f"link set {name} master {switch} up"])


def _address(machine: Wiring) -> None:
    # Link-local addresses are usable at once, and the others are static: no waiting for duplicate address detection.
    for setting in ("all", "default", *(interface.name for interface in machine.interfaces)):
        _set(machine.pid, Path(f"/proc/sys/net/ipv6/conf/{setting}/accept_dad"), "0")
    # Unplugging a cable does not remove the address.
    for interface in machine.interfaces:
        _set(machine.pid, Path(f"/proc/sys/net/ipv6/conf/{interface.name}/keep_addr_on_down"), "1")
    lines = ["link set lo up"]
    for interface in machine.interfaces:
        lines.append(f"link set {interface.name} up")
        lines += [f"addr add {interface.ipv4}/24 dev {interface.name}"] * (
            interface.ipv4 is not None and not machine.own_addresses
        )
        lines += [f"addr add {interface.ipv6}/64 dev {interface.name} nodad"] * (interface.ipv6 is not None)
    ip(machine.pid, [*lines, *machine.more])


def _set(pid: int, setting: Path, value: str) -> None:
    """Change a setting of a process's network: /proc/sys/net shows the network of the thread that opens it."""
    with in_network_of(pid):
        setting.write_text(value)
