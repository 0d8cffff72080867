# SPDX-License-Identifier: Apache-2.0
"""Connections to package servers through a host: tunnels that end on the router, which connects with its own address."""

from __future__ import annotations

import http.client
import socket
import ssl
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tower.base.errors import AnswerError, RemoteError

if TYPE_CHECKING:
    from tower.ssh.sessions import Session

_SILENCE: Final = 30.0
"""Seconds until a silent server is given up."""


@dataclass(slots=True)
class Way:
    """Connections to servers through a host, each made when it is first needed."""

    session: Session
    _stack: ExitStack = field(default_factory=ExitStack)
    _ports: dict[tuple[str, int], int] = field(default_factory=dict)
    _open: dict[tuple[str, str, int], http.client.HTTPConnection] = field(default_factory=dict)

    def connection(self, scheme: str, server: str, port: int) -> http.client.HTTPConnection:
        """Return a connection that speaks to `server`, which sees the router. Raises OSError, AnswerError or RemoteError."""
        known = self._open.get((scheme, server, port))
        if known is not None and known.sock is not None:
            return known
        if (server, port) not in self._ports:
            self._ports[server, port] = self._stack.enter_context(self.session.forward(server, port))
        local = socket.create_connection(("127.0.0.1", self._ports[server, port]), timeout=_SILENCE)
        # It has the server's name, so that the server gets the request that it expects; the socket is the tunnel's.
        made = http.client.HTTPConnection(server, port if port != {"http": 80, "https": 443}[scheme] else None)
        made.auto_open = 0
        try:
            made.sock = ssl.create_default_context().wrap_socket(local, server_hostname=server) if scheme == "https" else local
        except BaseException:
            local.close()
            raise
        self._open[scheme, server, port] = made
        return made

    def reset(self) -> None:
        """Forget connections that may be broken; the next ones are made again, with their tunnels."""
        self.close()
        self._stack = ExitStack()

    def close(self) -> None:
        """Close all connections and tunnels."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._ports.clear()
        with suppress(AnswerError, RemoteError):
            self._stack.close()
