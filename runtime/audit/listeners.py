# SPDX-License-Identifier: Apache-2.0
"""The listeners of a machine, from the tables of /proc/net, each line with its table's name in front."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

_TABLES: Final = ("tcp", "tcp6", "udp", "udp6")
_LISTEN: Final = "0A"
_UNCONNECTED: Final = "07"


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """A socket that accepts packets from a network."""

    protocol: str
    port: int
    address: str

    def __str__(self) -> str:
        return f"{self.protocol} port {self.port} ({self.address})"


def listeners_here(proc_net: Path = Path("/proc/net")) -> tuple[Listener, ...]:
    """Return this machine's listeners. Raises OSError if the tables cannot be read."""
    lines = []
    for table in _TABLES:
        path = proc_net / table
        if path.exists():
            lines += [f"{table} {line}" for line in path.read_text(encoding="ascii").splitlines()]
    return listeners(lines)


def listeners(lines: list[str]) -> tuple[Listener, ...]:
    """Return the sockets that listen on more than loopback, sorted. Raises ValueError for an invalid line."""
    return tuple(sorted(set(_found(lines))))


def _found(lines: list[str]) -> Iterator[Listener]:
    for line in lines:
        words = line.split()
        if len(words) < 5 or words[1] == "sl":
            continue
        table, _, local, _, state = words[:5]
        wanted = _LISTEN if table.startswith("tcp") else _UNCONNECTED
        if table not in _TABLES:
            raise ValueError(table)
        text, _, port = local.partition(":")
        address = _address(text)
        if state == wanted and not address.is_loopback:
            yield Listener(table[:3], int(port, 16), str(address))


def _address(text: str) -> IPv4Address | IPv6Address:
    """Parse an address as the kernel prints it: words of 4 bytes in this processor's order (all our machines have the same)."""
    if len(text) not in (8, 32):
        raise ValueError(f"{text[:40]} is not an address")
    words = struct.unpack(f">{len(text) // 8}I", bytes.fromhex(text))
    found = ip_address(struct.pack(f"<{len(words)}I", *words))
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
