# SPDX-License-Identifier: Apache-2.0
"""Tunnels through a connection: ports that lead to the other side. The opener of a tunnel owns and closes it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from tower.base.errors import GarbageError, LostError, PortTakenError, TowerError, ValueRefusedError
from tower.base.proc import Done
from tower.hosts.registry import Host

_TARGET: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_HERE: Final = "127.0.0.1"
_TRIES: Final = 5


class Connection(Protocol):
    """The part of a connection that a tunnel needs."""

    host: Host
    tunnels: list[Tunnel]

    def ensure(self) -> None:
        """Make the connection again if it broke. Raises as `tower.ssh.sessions.connect` does."""

    def control(self, *words: str, timeout: float = 15) -> Done:
        """Send a request to the master: `-O forward` and the like; `timeout` is in seconds."""

    def alive(self, timeout: float = 5) -> bool:
        """Tell whether the host answers through this connection now."""


@dataclass(slots=True)
class Tunnel:
    """One tunnel, in the terms of ssh's command line: `-L` leads from here, `-R` from the host."""

    flag: str
    port: int
    """The port of 127.0.0.1 that it listens on; 0 until the host has chosen one."""
    target: str
    _asked: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """Return the tunnel's option for ssh."""
        return self.flag, f"{_HERE}:{self.port}:{self.target}"

    def open(self, session: Connection) -> None:
        """Ask the master for the tunnel. Raises PortTakenError, LostError."""
        name = session.host.name
        if any(other.words == self.words for other in session.tunnels if other is not self):
            # ssh would treat the two as one, and the first to end would close both.
            raise PortTakenError(
                f"{name}: there is a tunnel at port {self.port} already", hint="leave the choice of the port out"
            )
        # ssh knows a tunnel with port 0 by that 0, not by the port that it was given.
        _, self._asked = self.words
        done = session.control("forward", *self.words)
        if done.status == 0:
            if not self.port:
                self.port = _allocated(done.stdout, name)
            return
        if not session.alive():
            raise LostError(f"{name}: the connection broke while a tunnel was made", hint=f"tower status {name}")
        where = "this machine" if self.flag == "-L" else name
        raise PortTakenError(
            f"{where}: port {self.port or 'of any number'} on {_HERE} cannot be had for a tunnel",
            hint=f"another program has it, or the ssh server of {name} forbids it: sshd -T | grep permitlisten",
        )

    def cancel(self, session: Connection) -> None:
        """Close the tunnel, unless the connection is gone, and the tunnel with it."""
        with suppress(TowerError):
            session.control("cancel", self.flag, self._asked)


@contextmanager
def forward(session: Connection, target: str, port: int, local_port: int) -> Iterator[int]:
    """Open a port here that leads through the host to the target; see Session.forward. Raises ValueRefusedError."""
    if _TARGET.fullmatch(target) is None or not 0 < port < 1 << 16:
        raise ValueRefusedError(f"{target!r} port {port} is not a target for a tunnel", hint="for example: 192.168.2.1 port 443")
    session.ensure()
    tries = 1 if local_port else _TRIES
    while True:
        # ssh does not choose a port on this side; if another program takes ours before ssh does, try another one.
        made = Tunnel("-L", local_port or free_port(), f"{target}:{port}")
        tries -= 1
        try:
            made.open(session)
            break
        except PortTakenError:
            if not tries:
                raise
    with _owned(session, made):
        yield made.port


@contextmanager
def reverse(session: Connection, local_port: int, host_port: int, target: str) -> Iterator[int]:
    """Open a port of the host that leads here; see Session.reverse. Raises ValueRefusedError."""
    if not 0 < local_port < 1 << 16:
        raise ValueRefusedError(f"{local_port} is not a port")
    session.ensure()
    made = Tunnel("-R", host_port, f"{target}:{local_port}")
    made.open(session)
    with _owned(session, made):
        yield made.port


@contextmanager
def _owned(session: Connection, made: Tunnel) -> Iterator[None]:
    session.tunnels.append(made)
    try:
        yield
    finally:
        session.tunnels.remove(made)
        made.cancel(session)


def free_port() -> int:
    """Return a port of this machine's 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        port: int = probe.getsockname()[1]
        return port


def _allocated(said: bytes, name: str) -> int:
    text = said.decode(errors="replace").strip()
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise GarbageError(f"{name}: says {text[:40]!r} where a port's number was expected", hint="is it a host of this Tower?")
    return int(text)
