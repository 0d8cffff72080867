# SPDX-License-Identifier: Apache-2.0
"""Many hosts on one machine of the ring: an address and an sshd of its own for each, to see what asking all at once costs.

All servers run on the processors that the thin client's side has, too: no Tower is ever so tight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.light.services import add_user, let_in, start_ssh_server
from tests.network.home import FOLDER, User
from tests.network.machines import USER, Machine, Tower

_FIRST = 210
_SLOW = "slow"


def names(count: int) -> list[str]:
    """What they are called; the last one is slow."""
    return [f"many{number}" for number in range(count)]


@contextmanager
def many_hosts(tower: Tower, count: int, *, slow: float) -> Iterator[User]:
    """So many hosts, the only ones; the last takes `slow` seconds to start a program, as one with an old card does."""
    tower.set_firewalls()
    machine, user = tower["offline1"], User(tower["thinclient"])
    user.machine.run("rm", "-rf", FOLDER)
    # Its own server has the port of all addresses.
    machine.service("sshd", "stop")
    machine.write("usr/local/bin/slow-shell", f'#!/bin/sh\nsleep {slow}\nexec /bin/sh "$@"\n', 0o755)
    add_user(machine, _SLOW, shell="/usr/local/bin/slow-shell")
    addresses = [f"192.168.3.{_FIRST + number}" for number in range(count)]
    try:
        rows = [(name, address, _serve(machine, address)) for name, address in zip(names(count), addresses, strict=True)]
        let_in(machine, user.knows(*rows[:-1]), USER)
        let_in(machine, user.knows(rows[-1], user=_SLOW), _SLOW)
        yield user
    finally:
        for address in addresses:
            machine.run("sh", "-c", f"kill $(cat /run/{address}.pid); ip addr del {address}/24 dev eth0", check=False)
        start_ssh_server(machine)
        user.machine.run("rm", "-rf", FOLDER)


def _serve(machine: Machine, address: str) -> str:
    """Start an sshd; its host key."""
    key = f"/etc/ssh/many-{address}"
    machine.run("ip", "addr", "replace", f"{address}/24", "dev", "eth0")
    machine.run("sh", "-c", f"rm -f {key} {key}.pub; ssh-keygen -q -t ed25519 -N '' -C '' -f {key}")
    machine.run(
        "/usr/sbin/sshd", *(f"-o{row}" for row in (f"ListenAddress={address}", f"HostKey={key}", f"PidFile=/run/{address}.pid"))
    )
    return " ".join(machine.read(f"{key}.pub").split()[:2])


def seconds_for(user: User, *hosts: str) -> float:
    """How long `tower status` takes, from start to end; all of these (or all there are) must be up."""
    start = time.monotonic()
    assert user.json("status", *hosts)["all_up"]
    return time.monotonic() - start
