# SPDX-License-Identifier: Apache-2.0
"""`~/.local/tower`: which hosts there are, with their keys, and the ssh configuration made from them.

    config        hosts for ssh, included from ~/.ssh/config by one line; nothing else of the user's is touched
    known_hosts   their host keys, known since provisioning: ssh never asks
    hosts/<name>/ tower.env, id_ed25519(.pub), ssh_host_ed25519_key(.pub), crypto_keyfile.bin, world, receipt.json

The folders of hosts are the one source: `config` and `known_hosts` are written from them, never read by us, so that no
parser of ssh's configuration is needed and nothing can disagree. Who adds or removes a host holds the lock.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower import env
from tower.env import TowerEnv
from tower.errors import HostError, StateError, ValueRefusedError
from tower.files import is_folder, locked, make_folder, read_file, remove_folder, write_file, write_folder
from tower.names import HostName, parse_host_name, parse_public_key
from tower.networks import ROUTER_ADDRESS, network_of, next_address, next_color
from tower.refused import home_folder, in_our_words, refused

ENV: Final = "tower.env"
USER_KEY: Final = "id_ed25519"
HOST_KEY: Final = "ssh_host_ed25519_key"
KEY_FILE: Final = "crypto_keyfile.bin"
WORLD: Final = "world"
RECEIPT: Final = "receipt.json"
_HEAD: Final = (
    "# Made by tower from the folders in hosts/; it writes this file anew. Your own settings belong into ~/.ssh/config.\n"
)
_INCLUDE: Final = re.compile(r"^[ \t]*include[ \t=]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was provisioned, or is about to be."""

    folder: Path
    env: TowerEnv

    @property
    def name(self) -> HostName:
        """Its name, which is that of its folder."""
        return self.env.hostname

    def file(self, name: str) -> Path:
        """One of the files that are kept about it."""
        return self.folder / name


@dataclass(frozen=True, slots=True)
class Place:
    """What is free for a new host."""

    address: str
    color: str


@dataclass(frozen=True, slots=True)
class Tower:
    """The folder of all hosts of a user."""

    folder: Path
    ssh_config: Path

    @property
    def config(self) -> Path:
        """The configuration that ssh reads; `ssh -F` takes it, too."""
        return self.folder / "config"

    @property
    def known_hosts(self) -> Path:
        """The keys of all hosts."""
        return self.folder / "known_hosts"

    def hosts(self, *, but: str = "") -> tuple[Host, ...]:
        """All hosts, by name, `but` one. Raises StateError naming the folder that is damaged."""
        try:
            names = sorted(path.name for path in (self.folder / "hosts").iterdir() if not path.name.startswith("."))
            names = [name for name in names if name != but]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise refused(error, self.folder / "hosts", hint="it must be a folder of yours") from error
        return tuple(self._host(name) for name in names)

    def host(self, name: HostName) -> Host:
        """One host. Raises HostError if there is none of this name."""
        if not is_folder(self.folder / "hosts" / name):
            known = ", ".join(host.name for host in self.hosts()) or "none"
            raise HostError(f"{name}: there is no such host (known: {known})", hint=f"make one: tower provision {name}")
        return self._host(name)

    def named(self, names: Iterable[str]) -> tuple[Host, ...]:
        """The hosts of these names, all if there are none; the router first. Raises HostError if there is none of a name."""
        wanted = {parse_host_name(name) for name in names}
        hosts = tuple(self.host(name) for name in wanted) if wanted else self.hosts()
        return tuple(sorted(hosts, key=lambda host: (not host.env.is_router, host.name)))

    def _host(self, name: str) -> Host:
        folder = self.folder / "hosts" / name
        try:
            parse_host_name(name)
            found = env.parse(read_file(folder / ENV), str(folder / ENV))
        except ValueRefusedError as error:
            raise StateError(
                f"{folder}: {error.message}", hint=f"put it right, or remove the host: tower deprovision {name}"
            ) from error
        if found.hostname != name:
            raise StateError(f"{folder / ENV}: is of host {found.hostname}", hint="a folder of hosts/ has the name of its host")
        return Host(folder, found)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one `tower` at a time adds or removes hosts; what a killed one left half-made is removed."""
        make_folder(self.folder)
        make_folder(self.folder / "hosts")
        with locked(self.folder / ".lock"):
            for path in (self.folder / "hosts").glob(".*"):
                if is_folder(path):
                    remove_folder(path)
            yield

    def place(self, name: HostName, *, online: bool) -> Place:
        """Address and colour for a new host. Raises HostError if it may not be made now."""
        hosts = self.hosts()
        self.check_new(name, online=online, hosts=hosts)
        envs = [host.env for host in hosts]
        fixed = str(ROUTER_ADDRESS) if name == "router" else ""
        network = network_of(online=online)
        return Place(
            fixed or str(next_address(network, {one.address for one in envs})),
            next_color({one.color for one in envs}),
        )

    def check_new(self, name: HostName, *, online: bool, hosts: tuple[Host, ...]) -> None:
        """HostError if there is such a host already, or if an online one comes before the router."""
        names = {host.name for host in hosts}
        if name in names:
            what = (
                "there is a router already, and a Tower has one" if name == "router" else f"{name}: there is such a host already"
            )
            raise HostError(
                what, hint=f"continue an unfinished one: tower provision --resume {name}; or: tower deprovision {name}"
            )
        if online and name != "router" and "router" not in names:
            raise HostError(
                f"{name}: an online host reaches the Internet through the router, and there is none yet",
                hint="make it first: tower provision router --wlan-ssid NAME",
            )

    def add(self, name: HostName, *, online: bool, make: Callable[[Place], Mapping[str, bytes]]) -> Host:
        """Add a host: `make` is told its place and gives the files of its folder.

        Its address and colour are its own from then on, even if two of us run at once.
        """
        with self.lock():
            files = make(self.place(name, online=online))
            write_folder(self.folder / "hosts" / name, files)
            self._write_config()
        return self.host(name)

    def remove(self, name: HostName) -> None:
        """Forget a host, its keys included. Raises HostError if there is none of this name."""
        with self.lock():
            folder = self.folder / "hosts" / name
            if not is_folder(folder):
                self.host(name)
            # Renamed first: what is left of a removal that was killed is no host.
            gone = folder.with_name(f".{name}.gone")
            remove_folder(gone)
            with in_our_words(folder, hint="it must be a folder of yours"):
                folder.rename(gone)
            remove_folder(gone)
            self._write_config()

    def refresh(self) -> None:
        """Write ssh's configuration anew: one of us may have been killed just before it did."""
        with self.lock():
            self._write_config()

    def _write_config(self) -> None:
        """Bring `config`, `known_hosts` and the user's Include line up to what hosts there are."""
        hosts = self.hosts()
        write_file(self.known_hosts, "".join(_known_host(host) for host in hosts).encode())
        write_file(self.config, (_HEAD + "".join(_stanza(host, self) for host in hosts)).encode())
        include(self.ssh_config, self.config)


def tower_of_user(home: Path | None = None) -> Tower:
    """The folder of whoever runs this."""
    home = home or home_folder()
    return Tower(home / ".local" / "tower", home / ".ssh" / "config")


def _known_host(host: Host) -> str:
    key = read_file(host.file(f"{HOST_KEY}.pub")).decode(errors="replace").strip()
    return f"{host.name} {' '.join(parse_public_key(key).split()[:2])}\n"


def _stanza(host: Host, tower: Tower) -> str:
    # HostKeyAlias: the key belongs to the host, whatever its address becomes.
    rows = {
        "HostName": str(host.env.address),
        "User": host.env.username,
        "IdentityFile": quoted(host.file(USER_KEY)),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": quoted(tower.known_hosts),
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": host.name,
        "HostKeyAlgorithms": "ssh-ed25519",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
    }
    return f"\nHost {host.name}\n" + "".join(f"    {name} {value}\n" for name, value in rows.items())


def quoted(path: Path) -> str:
    """A path as ssh's configuration takes it. Raises StateError if it cannot."""
    text = os.fspath(path)
    if '"' in text or "\\" in text or not text.isprintable():
        raise StateError(f"{path}: a path with quotes or backslashes cannot stand in ssh's configuration")
    return '"' + text.replace("%", "%%") + '"'


def include(ssh_config: Path, config: Path) -> None:
    """Make the user's configuration include ours, by one line in front: below a `Host` it would count for that host only.

    All other bytes, the mode and, if it is one, the link stay as they are.
    """
    line = f"Include {_unexpanded(config)}\n".encode()
    real = ssh_config.resolve() if ssh_config.is_symlink() else ssh_config
    if not real.exists():
        if not real.parent.is_dir():
            make_folder(real.parent)
        write_file(real, line)
        return
    # Large enough for any that a person wrote.
    before = read_file(real, most=16 << 20)
    if line in _leading_includes(before):
        return
    write_file(real, line + before, mode=real.stat().st_mode & 0o777)


def _unexpanded(config: Path) -> str:
    """The path of an Include, which knows patterns and no tokens: a folder that holds a pattern's characters is refused."""
    text = os.fspath(config)
    if any(char in text for char in '"\\*?[]') or not text.isprintable():
        raise StateError(f"{config}: a path with quotes or pattern characters cannot be included by ssh's configuration")
    return f'"{text}"'


def _leading_includes(data: bytes) -> list[bytes]:
    """The Include lines before the first line that is neither one nor a comment."""
    found: list[bytes] = []
    for line in data.splitlines(keepends=True):
        text = line.decode(errors="replace")
        if _INCLUDE.match(text):
            found.append(line if line.endswith(b"\n") else line + b"\n")
        elif text.strip() and not text.lstrip().startswith("#"):
            break
    return found
