# SPDX-License-Identifier: Apache-2.0
"""The Wi-Fi network of the router: a program there joins it, and goes back to the previous one if that fails.

The network's name and its derived key are sent as input; the password itself never leaves this machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tower.base.errors import RemoteError
from tower.base.files import write_file
from tower.base.names import ssid_octets, ssid_text
from tower.hosts import env
from tower.hosts.env import Wlan
from tower.hosts.registry import ENV, Host, Tower
from tower.ssh.sessions import Session, failed

PROGRAM: Final = "/usr/libexec/tower/wlan"
LONGEST: Final = 600
_UNDOING: Final = 60.0
"""Further seconds, for going back."""
_NOT_JOINED: Final = 3
"""The program's exit status for: not connected in time, and the previous network is back."""


def join(session: Session, wlan: Wlan, *, limit: int) -> None:
    """Make the router join another network within `limit` seconds.

    Raises RemoteError if it does not; it is then connected as before.
    """
    given = f"{ssid_octets(wlan.ssid).hex()}\n{wlan.shared_key}\n".encode()
    argv = (PROGRAM, "set", str(limit))
    done = session.root(argv, stdin=given, timeout=limit + _UNDOING, check=False)
    if done.status == _NOT_JOINED:
        name = ssid_text(wlan.ssid)
        raise RemoteError(
            f"{session.host.name}: is not connected to '{name}' after {limit} s, and goes back to the previous network",
            hint=f"are the name and the password right, and is it in range? Check: ssh {session.host.name} doas {PROGRAM} check",
        )
    if done.status != 0:
        raise failed(session.host.name, argv, done, "nothing was changed, or it was undone")


def keep(tower: Tower, host: Host, wlan: Wlan) -> None:
    """Save the router's network for when it is provisioned or upgraded again. Raises StateError."""
    with tower.lock():
        current = tower.host(host.name)
        write_file(current.file(ENV), env.dump(replace(current.env, wlan=wlan)))
