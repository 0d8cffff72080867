# SPDX-License-Identifier: Apache-2.0
"""The DHCP server behind the router's second interface: this machine's busybox, in the network of the Internet's machine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base import proc
from pipeline.light.cage import Process
from pipeline.light.switches import start_in_network_of

_CONFIG = """interface eth0
start {address}
end {address}
option subnet 255.255.255.0
option router {gateway}
option dns {names}
lease_file {folder}/udhcpd.leases
pidfile {folder}/udhcpd.pid
"""


@dataclass(slots=True)
class Leases:
    """Gives its only address to the first client that asks."""

    folder: Path
    """For its configuration and its leases."""
    address: str
    gateway: str
    names: str
    """The DNS server that it announces."""
    stack: ExitStack
    _server: Process | None = field(default=None, init=False)

    def start(self, pid: int) -> None:
        """Start in the network namespace of a process, without leases."""
        self.stop()
        settings = {"folder": self.folder, "address": self.address, "gateway": self.gateway, "names": self.names}
        (self.folder / "udhcpd.conf").write_text(_CONFIG.format_map(settings))
        (self.folder / "udhcpd.leases").write_bytes(b"")
        words = ("busybox", "udhcpd", "-f", self.folder / "udhcpd.conf")
        self._server = start_in_network_of(pid, words)
        self.stack.callback(self.stop)

    def stop(self) -> None:
        """End the server, if it runs."""
        if self._server is not None:
            proc.kill_group(self._server.pid)
            self._server.wait(20)
            self._server = None
