# SPDX-License-Identifier: Apache-2.0
"""Services and users of a light machine.

Its OpenRC takes it for a container: services that say of themselves that they are not for one (network, firewall, host
name) are in no runlevel; they are started by name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.light.machine import Box

_SECONDS: Final = 120
_FIRST_USER, _LAST_USER = 1000, 60000
NO_PASSWORD: Final = "$6$salt$" + "a" * 86
"""A hash of crypt(3)'s form that no password has: an account that is not locked, and takes keys only."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd, as a client needs to know it."""

    host_key: str
    """The public key of the host, as `known_hosts` has it: type and base64."""


def service(box: Box, name: str, action: str) -> None:
    """Let OpenRC start, stop or restart a service. Raises ToolError with its words if it fails."""
    box.run("rc-service", name, action, timeout=_SECONDS)


def start_ssh_server(box: Box) -> None:
    """Start the machine's sshd again, whatever ended it, and wait until it takes connections."""
    service(box, "sshd", "zap")
    service(box, "sshd", "start")
    box.wait_for_listener(22)


def ssh_server(box: Box) -> SshServer:
    """The machine's sshd, which its default runlevel has started."""
    box.wait_for_listener(22)
    public = box.read("etc/ssh/ssh_host_ed25519_key.pub").split()
    return SshServer(" ".join(public[:2]))


def add_user(box: Box, name: str, *, administrator: bool = False, shell: str = "/bin/sh") -> None:
    """Make a user who logs in with keys only, with a group of the same name, if there is none yet.

    Written here, as adduser would: not every root has one.
    """
    accounts = box.read("etc/passwd")
    rows = [row.split(":") for row in accounts.splitlines()]
    if any(row[0] == name for row in rows):
        return
    number = max([_FIRST_USER - 1, *(int(row[2]) for row in rows if _FIRST_USER <= int(row[2]) < _LAST_USER)]) + 1
    box.write("etc/passwd", f"{accounts}{name}:x:{number}:{number}::/home/{name}:{shell}\n")
    box.write("etc/shadow", f"{box.read('etc/shadow')}{name}:{NO_PASSWORD}:19000:0:99999:7:::\n", 0o640)
    groups = [row.split(":") for row in box.read("etc/group").splitlines()]
    for group in groups:
        if administrator and group[0] == "wheel":
            group[3] = ",".join([*filter(None, group[3].split(",")), name])
    box.write("etc/group", "".join(f"{':'.join(group)}\n" for group in [*groups, [name, "x", str(number), ""]]))
    home = box.path(f"home/{name}")
    home.mkdir(mode=0o755)
    os.chown(home, number, number)


def remove_user(box: Box, name: str) -> None:
    """Take a user away again, with all that is theirs."""
    for file in ("passwd", "shadow", "group"):
        mode = stat.S_IMODE(box.path(f"etc/{file}").stat().st_mode)
        rows = [row for row in box.read(f"etc/{file}").splitlines() if row.partition(":")[0] != name]
        box.write(f"etc/{file}", "".join(f"{row}\n" for row in rows), mode)
    box.run("rm", "-rf", f"/home/{name}")


def set_shell(box: Box, name: str, shell: str) -> None:
    """Give a user another login shell."""
    rows = [row.split(":") for row in box.read("etc/passwd").splitlines()]
    box.write("etc/passwd", "".join(":".join([*row[:6], shell] if row[0] == name else row) + "\n" for row in rows))


def let_in(box: Box, keys: Sequence[str], user: str) -> None:
    """The keys, and no others, that may log in as this user."""
    home = box.path(f"home/{user}").stat()
    folder = box.path(f"home/{user}/.ssh")
    folder.mkdir(mode=0o700, exist_ok=True)
    box.write(f"home/{user}/.ssh/authorized_keys", "".join(f"{key}\n" for key in keys), 0o600)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, home.st_uid, home.st_gid)
