# SPDX-License-Identifier: Apache-2.0
"""Provision a host: decide first, then make its keys, write its disk, and wait for its first answer.

Nothing is changed before `prepare`, which gives the host its folder, with keys, settings and receipt; from then on each
step can be interrupted at any moment and repeated (`tower provision --resume NAME`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from tower.base.errors import AnswerError, HostError, ImageProblemError
from tower.base.files import locked, make_folder
from tower.base.names import HostName, UserName
from tower.base.networks import network_of
from tower.base.refused import home_folder
from tower.base.view import View
from tower.disk import receipt
from tower.disk.make import HostDisk, make_disk
from tower.disk.receipt import Receipt, Stage, Target
from tower.disk.target import open_target
from tower.hosts import env, secret
from tower.hosts.env import Encryption, InstallationType, TowerEnv, Wlan
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, RECEIPT, RECEIPT_ON_BOOT, USER_KEY, WORLD, FreeAddress, Host, Tower
from tower.hosts.settings import Settings
from tower.image.source import ImageSource, read_source

BOOT_FILES: Final = (ENV, KEY_FILE, HOST_KEY, f"{HOST_KEY}.pub")
"""The files of a host's folder that the boot partition gets, beside the receipt."""
_SSH: Final = 22


@dataclass(frozen=True, slots=True)
class Wish:
    """The choices of the user."""

    name: HostName
    online: bool
    username: UserName
    settings: Settings
    wlan: Wlan | None
    password: str | None = field(repr=False)
    """The password for the host's console; without one, the host is reached by ssh alone."""
    encryption: Encryption = Encryption.REQUIRED

    def env(self, place: FreeAddress, source: ImageSource, public_key: str) -> TowerEnv:
        """Return the host's settings."""
        return TowerEnv(
            hostname=self.name,
            username=self.username,
            public_key=public_key,
            password_hash=secret.no_password() if self.password is None else secret.hash_password(self.password),
            keyboard_layout=self.settings.keyboard_layout,
            keyboard_variant=self.settings.keyboard_variant,
            timezone=self.settings.timezone,
            lang=self.settings.lang,
            online=self.online,
            wlan=self.wlan,
            address=IPv4Address(place.address),
            installation_type=InstallationType.INSTALL,
            color=place.color,
            alpine_branch=source.branch,
            encryption=self.encryption,
        )


def check_network(address: IPv4Address, *, online: bool) -> None:
    """Raise AnswerError unless this machine is in the host's network, and nobody uses the address for the host."""
    network = network_of(online=online)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((str(network.thin_client), 0))
        except OSError:
            raise AnswerError(
                f"not in the {network.name} network: {network.interface} has no address {network.thin_client}",
                hint="plug the network in; or do not wait for the host: --no-wait",
            ) from None
        probe.settimeout(1)
        try:
            probe.connect((str(address), _SSH))
        except OSError as error:
            # If it is unreachable or silent, nobody is there. A refusal is an answer.
            if not isinstance(error, ConnectionRefusedError):
                return
    raise AnswerError(
        f"{address}: another machine has this address already", hint="switch that machine off, or take it off the network"
    )


def prepare(tower: Tower, wish: Wish, source: ImageSource, target: Target) -> Host:
    """Give a host its name, address, colour and keys in one step. Raises HostError if another `tower` was faster."""

    def make(place: FreeAddress) -> Mapping[str, bytes]:
        user, host = secret.new_key_pair(f"{wish.username}@{wish.name}"), secret.new_key_pair(str(wish.name))
        first = Receipt.new(wish.name, source, target)
        return {
            ENV: env.dump(wish.env(place, source, user.public)),
            USER_KEY: user.private,
            f"{USER_KEY}.pub": user.public.encode() + b"\n",
            HOST_KEY: host.private,
            f"{HOST_KEY}.pub": host.public.encode() + b"\n",
            KEY_FILE: secret.new_key_file(),
            WORLD: b"",
            RECEIPT: first.dump(),
            RECEIPT_ON_BOOT: first.public,
        }

    return tower.add(wish.name, online=wish.online, make=make)


@contextmanager
def busy(host: Host) -> Iterator[None]:
    """Let only one `tower` at a time work on a host's disk."""
    with locked(host.file(".lock"), busy=f"{host.name}: another tower is provisioning this host"):
        yield


def read_receipt(host: Host) -> Receipt:
    """Return the receipt of a host, which tells how far its provisioning came. Raises HostError."""
    found = receipt.read(host.file(RECEIPT))
    if found.host != host.name:
        raise HostError(
            f"{host.file(RECEIPT)}: belongs to host {found.host}", hint=f"remove the host: tower deprovision {host.name}"
        )
    return found


def keep_receipt(host: Host, found: Receipt) -> Receipt:
    """Write a host's receipt; return it."""
    receipt.write(host.file(RECEIPT), found)
    return found


def source_of(found: Receipt) -> ImageSource:
    """Return the image that a provisioning began with. Raises ImageProblemError if another one is there now."""
    source = read_source(Path(found.image))
    if source.sha256 != found.image_sha256:
        raise ImageProblemError(
            f"{source.path}: differs from the image that the provisioning of {found.host} began with",
            hint=f"start again: tower deprovision {found.host}, then tower provision {found.host}",
        )
    return source


def write_disk(host: Host, found: Receipt, source: ImageSource, *, resume: bool, view: View) -> Receipt:
    """Write the host's disk; return the updated receipt. After a TowerError or a signal, repeat it with `resume`."""
    folder = home_folder() / ".cache" / "tower"
    make_folder(folder)
    files = {name: host.file(name) for name in (*BOOT_FILES, RECEIPT_ON_BOOT)}
    with open_target(found.target, source.path) as medium:
        make_disk(HostDisk(source, files, folder), medium, resume=resume, view=view)
    return keep_receipt(host, found.at(Stage.WRITTEN))
