# SPDX-License-Identifier: Apache-2.0
"""`~/.local/tower`: the hosts with their keys, and the ssh configuration made from them.

    config        hosts for ssh, included from ~/.ssh/config by one line; nothing else of the user's is touched
    known_hosts   their host keys, known since provisioning: ssh never asks
    hosts/<name>/ tower.env, id_ed25519(.pub), ssh_host_ed25519_key(.pub), crypto_keyfile.bin, world, receipt.json

The folders of hosts are the only source: `config` and `known_hosts` are written from them, and never read by us, so
no parser of ssh's configuration is needed and the files cannot disagree. To add or remove a host, hold the lock.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base.errors import HostError, StateError, ValueRefusedError
from tower.base.files import is_folder, locked, look, make_folder, read_file, remove_folder, write_file, write_folder
from tower.base.names import ROUTER, HostName, parse_host_name, parse_public_key
from tower.base.networks import ROUTER_ADDRESS, network_of, next_address, next_color
from tower.base.refused import asked_by, home_folder, in_our_words, refused
from tower.hosts import env
from tower.hosts.env import TowerEnv
from tower.hosts.stanza import include, include_line, quoted, stanza, why_not_included

ENV: Final = "tower.env"
USER_KEY: Final = "id_ed25519"
HOST_KEY: Final = "ssh_host_ed25519_key"
KEY_FILE: Final = "crypto_keyfile.bin"
WORLD: Final = "world"
RECEIPT: Final = "receipt.json"
UPGRADE: Final = "upgrade"
RECEIPT_ON_BOOT: Final = "tower-receipt.json"
OWN: Final = (
    USER_KEY, f"{USER_KEY}.pub", HOST_KEY, f"{HOST_KEY}.pub", KEY_FILE, WORLD, RECEIPT, RECEIPT_ON_BOOT, ".lock", ".install.lock",
    ENV,
)  # fmt: skip
"""All files that may be in a host's folder, beside the folder of an upgrade."""
_HEAD: Final = (
    "# Made by tower from the folders in hosts/; it writes this file anew. Your own settings belong into ~/.ssh/config.\n"
)


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
        """Return one of the files that are kept about it."""
        return self.folder / name


@dataclass(frozen=True, slots=True)
class FreeAddress:
    """A free address and colour for a new host."""

    address: str
    color: str


@dataclass(frozen=True, slots=True)
class Tower:
    """The folder of all hosts of a user."""

    folder: Path
    ssh_config: Path

    @property
    def config(self) -> Path:
        """The configuration that ssh reads; also for `ssh -F`."""
        return self.folder / "config"

    @property
    def known_hosts(self) -> Path:
        """The keys of all hosts."""
        return self.folder / "known_hosts"

    def hosts(self, *, but: str = "") -> tuple[Host, ...]:
        """Return all hosts by name, except `but`. Raises StateError naming a damaged folder."""
        try:
            names = sorted(path.name for path in (self.folder / "hosts").iterdir() if not path.name.startswith("."))
            names = [name for name in names if name != but]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise refused(error, self.folder / "hosts", hint="it must be a folder of yours") from error
        return tuple(self._host(name) for name in names)

    def has(self, name: HostName) -> bool:
        """Tell whether a folder of this name exists among the hosts, complete or not."""
        return os.path.lexists(self.folder / "hosts" / name)

    def host(self, name: HostName) -> Host:
        """Return one host. Raises HostError if there is none of this name."""
        if not self.has(name):
            known = ", ".join(host.name for host in self.hosts()) or "none"
            hint = f"make one: tower provision {name}"
            if asked_by() and not self._is_of_a_user():
                hint = f"these are the hosts of root; for those of {asked_by()}, do not run tower as root"
            raise HostError(f"{name}: there is no such host (known: {known})", hint=hint)
        return self._host(name)

    def _is_of_a_user(self) -> bool:
        home = look(self.folder.parents[1])
        return home is not None and home.st_uid != 0

    def named(self, names: Iterable[str]) -> tuple[Host, ...]:
        """Return the hosts of these names (all if none are given), the router first. Raises HostError for an unknown name."""
        wanted = {parse_host_name(name) for name in names}
        hosts = tuple(self.host(name) for name in wanted) if wanted else self.hosts()
        return tuple(sorted(hosts, key=lambda host: (not host.env.is_router, host.name)))

    def _host(self, name: str) -> Host:
        folder = self.folder / "hosts" / name
        hint = f"repair it, or remove the host: tower deprovision {name}"
        try:
            parse_host_name(name)
            found = env.parse(read_file(folder / ENV), str(folder / ENV))
        except ValueRefusedError as error:
            raise StateError(f"{folder}: {error.message}", hint=hint) from error
        except StateError as error:
            raise StateError(error.message, hint=error.hint or hint) from error
        if found.hostname != name:
            raise StateError(f"{folder / ENV}: is for host {found.hostname}", hint="a folder of hosts/ has the name of its host")
        return Host(folder, found)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for adding and removing hosts, and remove folders that a killed `tower` left incomplete."""
        make_folder(self.folder)
        make_folder(self.folder / "hosts")
        with locked(self.folder / ".lock"):
            for path in (self.folder / "hosts").glob(".*"):
                if is_folder(path) and not path.is_symlink():
                    remove_folder(path)
            yield

    def place(self, name: HostName, *, online: bool) -> FreeAddress:
        """Return a free address and colour for a new host. Raises HostError if it may not be made now."""
        hosts = self.hosts()
        self.check_new(name, online=online, hosts=hosts)
        envs = [host.env for host in hosts]
        fixed = str(ROUTER_ADDRESS) if name == ROUTER else ""
        network = network_of(online=online)
        return FreeAddress(
            fixed or str(next_address(network, {one.address for one in envs})),
            next_color({one.color for one in envs}),
        )

    def check_new(self, name: HostName, *, online: bool, hosts: tuple[Host, ...]) -> None:
        """Raise HostError if the host exists, or is online while there is no router; StateError about the home."""
        quoted(self.known_hosts)
        names = {host.name for host in hosts}
        if name in names:
            what = "there is a router already, and a Tower has one" if name == ROUTER else f"{name}: this host exists already"
            raise HostError(
                what, hint=f"continue an unfinished one: tower provision --resume {name}; or: tower deprovision {name}"
            )
        if online and name != ROUTER and ROUTER not in names:
            raise HostError(
                f"{name}: an online host reaches the Internet through the router, and there is none yet",
                hint="make it first: tower provision router --wlan-ssid NAME",
            )

    def add(self, name: HostName, *, online: bool, make: Callable[[FreeAddress], Mapping[str, bytes]]) -> Host:
        """Add a host: `make` is given its place and returns the files of its folder.

        The address and colour belong to the host from then on, even if two processes add hosts at the same time.
        """
        with self.lock():
            files = make(self.place(name, online=online))
            write_folder(self.folder / "hosts" / name, files)
            self._write_config()
            self._include()
        return self.host(name)

    def remove(self, name: HostName) -> None:
        """Forget a host and its keys. Raises HostError if there is none of this name, and StateError."""
        with self.lock():
            folder = self.folder / "hosts" / name
            if not self.has(name):
                self.host(name)
            if folder.is_symlink() or not folder.is_dir():
                _remove_linked(folder)
            else:
                # Rename it first: the leftovers of a killed removal are not a host.
                gone = folder.with_name(f".{name}.gone")
                remove_folder(gone)
                with in_our_words(folder, hint="it must be a folder of yours"):
                    folder.rename(gone)
                remove_folder(gone)
            self._write_config()

    def refresh(self) -> None:
        """Write ssh's configuration again: a killed `tower` may not have got to it."""
        with self.lock():
            self._write_config()
            self._include()

    def notice(self, *, made: bool = False) -> str:
        """Return what the user has to do so that `ssh` knows the hosts; "" if nothing, also once a host is `made`."""
        why = why_not_included(self.ssh_config, self.config)
        why = why or (why_not_included(self.ssh_config, self.config, tried=True) if made else "")
        if not why:
            return ""
        return (
            f"{self.ssh_config} stays as it is: {why}. For `ssh NAME` to work, put this line in front of it:\n"
            f"  {include_line(self.config)}\nuntil then: {self.ssh_to('NAME')}"
        )

    def ssh_to(self, name: str) -> str:
        """Return the command for a session on a host."""
        included = not why_not_included(self.ssh_config, self.config, tried=True)
        return f"ssh {name}" if included else f"ssh -F {shlex.quote(os.fspath(self.config))} {name}"

    def _write_config(self) -> None:
        """Write `config` and `known_hosts` from the present hosts."""
        hosts = self.hosts()
        write_file(self.known_hosts, "".join(_known_host(host) for host in hosts).encode())
        write_file(self.config, (_HEAD + "".join(self._stanza(host) for host in hosts)).encode())

    def _stanza(self, host: Host) -> str:
        return stanza(host.name, str(host.env.address), host.env.username, key=host.file(USER_KEY), known_hosts=self.known_hosts)

    def _include(self) -> None:
        """Put our line into ssh's configuration; if that fails, `notice` shows the line, and `tower` works without it."""
        with suppress(StateError):
            include(self.ssh_config, self.config)


def tower_of_user(home: Path | None = None) -> Tower:
    """Return the folder of this user."""
    home = home or home_folder()
    return Tower(home / ".local" / "tower", home / ".ssh" / "config")


def _remove_linked(link: Path) -> None:
    """Remove a link in place of a host's folder; if it leads to one elsewhere, remove our files there first."""
    if link.is_dir() and any(os.path.lexists(link / name) for name in (ENV, USER_KEY, HOST_KEY)):
        with in_our_words(link, hint="it must be a folder of yours"):
            remove_folder(link / UPGRADE)
            for name in OWN:
                (link / name).unlink(missing_ok=True)
            with suppress(OSError):  # other files there are not ours
                link.resolve().rmdir()
    with in_our_words(link, hint="it must be yours"):
        link.unlink()


def _known_host(host: Host) -> str:
    key = read_file(host.file(f"{HOST_KEY}.pub")).decode(errors="replace").strip()
    return f"{host.name} {' '.join(parse_public_key(key).split()[:2])}\n"
