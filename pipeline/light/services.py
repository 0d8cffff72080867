# SPDX-License-Identifier: Apache-2.0
"""Services and users of a light machine.

Its OpenRC believes that it is in a container: services that declare themselves unfit for one (network, firewall, host
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
"""A hash in crypt(3)'s form that no password has: the account is not locked, but accepts only keys."""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd, with what a client needs to know."""

    host_key: str
    """The public key of the host, as in `known_hosts`: type and base64."""


def service(box: Box, name: str, action: str) -> None:
    """Let OpenRC start, stop or restart a service. Raises ToolError with OpenRC's output if it fails."""
    box.run("rc-service", name, action, timeout=_SECONDS)


def start_ssh_server(box: Box) -> None:
    """Start the machine's sshd again, whatever state it is in, and wait until it listens."""
    service(box, "sshd", "zap")
    service(box, "sshd", "start")
    box.wait_for_listener(22)


def ssh_server(box: Box) -> SshServer:
    """Return the machine's sshd, which its default runlevel has started."""
    box.wait_for_listener(22)
    public = box.read("etc/ssh/ssh_host_ed25519_key.pub").split()
    return SshServer(" ".join(public[:2]))


def add_user(box: Box, name: str, *, administrator: bool = False, shell: str = "/bin/sh") -> None:
    """Add a user who logs in with keys only, and a group of the same name, unless they exist.

    This writes the files itself, as adduser would, because not every root has adduser.
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
    """Remove a user and all of their files."""
    for file in ("passwd", "shadow", "group"):
        mode = stat.S_IMODE(box.path(f"etc/{file}").stat().st_mode)
        rows = [row for row in box.read(f"etc/{file}").splitlines() if row.partition(":")[0] != name]
        box.write(f"etc/{file}", "".join(f"{row}\n" for row in rows), mode)
    box.run("rm", "-rf", f"/home/{name}")


def set_shell(box: Box, name: str, shell: str) -> None:
    """Change a user's login shell."""
    rows = [row.split(":") for row in box.read("etc/passwd").splitlines()]
    box.write("etc/passwd", "".join(":".join([*row[:6], shell] if row[0] == name else row) + "\n" for row in rows))


def let_in(box: Box, keys: Sequence[str], user: str) -> None:
    """Set the keys that may log in as this user; all others are removed."""
    home = box.path(f"home/{user}").stat()
    folder = box.path(f"home/{user}/.ssh")
    folder.mkdir(mode=0o700, exist_ok=True)
    box.write(f"home/{user}/.ssh/authorized_keys", "".join(f"{key}\n" for key in keys), 0o600)
    for path in (folder, folder / "authorized_keys"):
        os.chown(path, home.st_uid, home.st_gid)
