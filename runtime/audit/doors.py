# SPDX-License-Identifier: Apache-2.0
"""Open ports of the thin client while hosts try to reach it: a program listens, the firewall stays as it is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tower.base.errors import ToolError


@dataclass(frozen=True, slots=True)
class Doors:
    """An open port of each kind, for both families."""

    tcp: socket.socket
    udp: socket.socket

    @property
    def tcp_port(self) -> int:
        """The port that accepts connections."""
        return int(self.tcp.getsockname()[1])

    @property
    def udp_port(self) -> int:
        """The port that accepts datagrams."""
        return int(self.udp.getsockname()[1])

    def came_in(self) -> list[tuple[str, str]]:
        """Return who came in: the address, and how."""
        found = []
        while True:
            try:
                connection, sender = self.tcp.accept()
            except OSError:
                break
            connection.close()
            found.append((_plain(sender[0]), f"a program here took its connection (tcp port {self.tcp_port})"))
        while True:
            try:
                _, sender = self.udp.recvfrom(2048)
            except OSError:
                break
            found.append((_plain(sender[0]), f"a program here got its datagram (udp port {self.udp_port})"))
        return found


@contextmanager
def opened() -> Iterator[Doors]:
    """Yield open doors, which are closed at the end of the context."""
    with ExitStack() as stack:
        yield Doors(_listener(stack, socket.SOCK_STREAM), _listener(stack, socket.SOCK_DGRAM))


def _listener(stack: ExitStack, kind: socket.SocketKind) -> socket.socket:
    try:
        made = stack.enter_context(socket.socket(socket.AF_INET6, kind))
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(("::", 0))
    except OSError:  # this machine has no IPv6
        try:
            made = stack.enter_context(socket.socket(socket.AF_INET, kind))
            made.bind(("0.0.0.0", 0))  # noqa: S104  (on purpose: whatever the firewall lets in)
        except OSError as error:
            raise ToolError(f"cannot listen on this machine: {error.strerror}") from error
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    made.setblocking(False)
    return made


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:").partition("%")[0]
