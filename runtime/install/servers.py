# SPDX-License-Identifier: Apache-2.0
"""The servers that packages come from, and those that a machine without the Internet may be connected to.

A host names its repositories itself. If that were enough, a compromised host could name its attacker's server, and `tower`
would open it the connection that it must not have. So a server must be known here: from this machine's own repositories,
or because the user has allowed it once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from tower.base.errors import HostError, ValueRefusedError
from tower.base.files import is_file, locked, look, read_file, write_file
from tower.base.view import View
from tower.hosts.registry import Tower
from tower.install.repository import Repository, parse_repositories

SERVERS: Final = "servers"
"""In ~/.local/tower: the servers that the user has allowed, NAME:PORT a line."""
PORTS: Final = (80, 443)
"""The ports that the router's sshd connects to: see overlays/common/etc/ssh/sshd_config.d/tower.conf."""
_OWN: Final = Path("/etc/apk")


def servers_of(repositories: Sequence[Repository]) -> tuple[tuple[str, int], ...]:
    """Return the names and ports of the servers, each once."""
    return tuple(dict.fromkeys((one.server, one.port) for one in repositories))


def parse_server(text: str) -> tuple[str, int]:
    """Parse a server: NAME, for https, or NAME:PORT. Raises ValueRefusedError."""
    found, _ = parse_repositories(f"https://{text}/")
    if not found or found[0].path:
        raise ValueRefusedError(f"{text!r} is not a package server", hint="for example: packages.example.org:443")
    return found[0].server, found[0].port


def check_servers(
    tower: Tower, name: str, repositories: Sequence[Repository], view: View, *, allowed: Collection[tuple[str, int]], yes: bool
) -> None:
    """Return if all servers are known here, or the user agrees. Raises ValueRefusedError, HostError, TowerError."""
    wanted = servers_of(repositories)
    if not wanted:
        raise HostError(
            f"{name}: has no repository that packages could come from",
            hint=f"add one to its list: ssh -t {name} doas vi /etc/apk/repositories",
        )
    for server, port in wanted:
        if _is_address(server):
            raise ValueRefusedError(f"{name}: its repository at {server} has no name", hint="a repository is named, not numbered")
        if port not in PORTS:
            raise ValueRefusedError(
                f"{name}: its repository at {server} has port {port}", hint="the router leads to ports 80 and 443 only"
            )
    remember(tower, allowed)
    unknown = [one for one in wanted if one not in known_servers(tower)]
    if not unknown:
        return
    shown = ", ".join(f"{server}:{port}" for server, port in unknown)
    if yes:
        raise ValueRefusedError(
            f"{name}: wants packages from {shown}, which this thin client does not know",
            hint=f"if you do: tower install --server {unknown[0][0]}:{unknown[0][1]} ...",
        )
    view.confirm(f"{name} wants packages from {shown}, which this thin client does not know. Lead it there?", yes=False)
    remember(tower, unknown)


def known_servers(tower: Tower) -> frozenset[tuple[str, int]]:
    """Return the servers (name and port) of this machine's repositories, and those that the user has named."""
    lists = [_OWN / "repositories", *sorted((_OWN / "repositories.d").glob("*.list"))]
    own, _ = parse_repositories("\n".join(read_file(path).decode(errors="replace") for path in lists if is_file(path)))
    file = tower.folder / SERVERS
    said = read_file(file).decode(errors="replace").split() if look(file) else []
    return frozenset((*servers_of(own), *map(parse_server, said)))


def remember(tower: Tower, servers: Collection[tuple[str, int]]) -> None:
    """Keep the servers that the user has allowed."""
    new = frozenset(servers) - known_servers(tower)
    if new:
        file = tower.folder / SERVERS
        with locked(tower.folder / f".{SERVERS}.lock"):
            said = set(read_file(file).decode(errors="replace").split()) if look(file) else set()
            said |= {f"{server}:{port}" for server, port in new}
            write_file(file, "".join(f"{one}\n" for one in sorted(said)).encode())


def _is_address(server: str) -> bool:
    try:
        ipaddress.ip_address(server)
    except ValueError:
        # Forms that resolvers accept as an address as well: 127.1, 0x7f000001.
        return server.rpartition(".")[2][:1].isdigit()
    return True
