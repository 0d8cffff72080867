# SPDX-License-Identifier: Apache-2.0
"""How far the first start of a host is: asked on the port of its ssh server, which runs only once the host is ready.

The host speaks first, and so tells whether it is ssh or this. Each answer is signed with a key that comes from the host's own
ssh key, which provisioning put on its boot device, and holds for one question (overlays/host/usr/libexec/tower/progress).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base.errors import AnswerError
from tower.base.files import read_file
from tower.hosts.env import Encryption
from tower.hosts.registry import HOST_KEY

if TYPE_CHECKING:
    from tower.base.view import View
    from tower.hosts.registry import Host

_HELLO: Final = b"tower-progress 1\n"
BUSY: Final = "makes itself ready"
_SSH: Final = 22
_PATIENCE: Final = 3.0
"""Seconds for all of a conversation."""
_MOST: Final = 32 << 10
_LINE: Final = re.compile(r"(\d{1,9}\.\d{1,2}) (?:([a-z_]{1,30})|failed: ([ -~]{1,400}))", re.ASCII)
_SIGN: Final = re.compile(rb"[0-9a-f]{64}")
ENCRYPTING: Final = {"partition": 0.7, "encrypt": 2.1, "volumes": 4.2, "system": 30.9, "boot": 0.8, "restart": 52.5}
MAKING: Final = {
    "name": 0.4, "user": 0.5, "ssh_server": 0.2, "keyboard": 0.2, "clock": 0.3, "language": 0.2, "prompt": 0.2, "network": 0.1,
    "firewall": 0.3, "wlan": 0.1, "tor": 0.1, "names": 0.1, "time_source": 0.1, "receipt": 0.1, "secrets": 0.3,
}  # fmt: skip
"""Seconds that each step usually takes; the restart lasts until the host goes on.

Measured by ci/bench/first_start.py: medians of three first starts of a PC that QEMU emulated, on two cores that did other work
(load 3 to 4). On a Raspberry Pi 3 that QEMU emulated, the second group took three to ten times as long; no real machine was
measured.
"""


class ForeignError(Exception):
    """The machine that answers does not have the host's key, or its answer is malformed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a host says of its first start."""

    steps: tuple[tuple[str, float], ...]
    """Each step with its beginning, in seconds since the host was started."""
    now: float
    failure: str = ""
    """Why it goes no further; empty as long as it does."""


def key_of(host_key: bytes) -> bytes:
    """What signs the answers of the host whose private ssh key this is."""
    return hashlib.sha256(b"tower-progress\n" + host_key).digest()


def ask(address: tuple[str, int], host_key: Path) -> Progress | None:
    """What the host of this private ssh key says; None if it is past this, or not ready for it.

    Raises OSError if there is nobody, ForeignError, and StateError if the key cannot be read.
    """
    with socket.create_connection(address, timeout=_PATIENCE) as line:
        end, nonce = time.monotonic() + _PATIENCE, secrets.token_hex(16)
        try:
            if _read(line, end, len(_HELLO), b"\n") != _HELLO:
                return None
            line.sendall(f"{nonce}\n".encode())
            data = _read(line, end, _MOST + 1)
        except OSError:
            return None
    return parse(data, nonce, key_of(read_file(host_key)))


def _read(line: socket.socket, end: float, most: int, last: bytes | None = None) -> bytes:
    """What comes, until its end, or `last`, or `most` bytes. Raises TimeoutError."""
    data = b""
    while len(data) < most and not (last and data.endswith(last)):
        line.settimeout(max(end - time.monotonic(), 0.001))
        got = line.recv(most - len(data))
        if not got:
            break
        data += got
    return data


def parse(data: bytes, nonce: str, key: bytes) -> Progress:
    """A host's answer to this nonce. Raises ForeignError; nothing is looked at before it is known to be the host's."""
    if len(data) > _MOST or not data.endswith(b"\n"):
        raise ForeignError
    text, _, sign = data[:-1].rpartition(b"\n")
    wanted = hmac.new(key, f"tower-progress 1 {nonce}\n".encode() + text + b"\n", hashlib.sha256).hexdigest()
    if not _SIGN.fullmatch(sign) or not hmac.compare_digest(wanted.encode(), sign):
        raise ForeignError
    found = [_LINE.fullmatch(row) for row in text.decode(errors="replace").split("\n")]
    rows = [row for row in found if row is not None]
    if len(rows) < len(found) or rows[-1][2] != "now":
        raise ForeignError
    steps: list[tuple[str, float]] = []
    for row in rows[:-1]:
        # A second line of the same step has said more about it, which is not sent.
        if row[2] and (not steps or steps[-1][0] != row[2]):
            steps.append((row[2], float(row[1])))
    # One that it has tried again since is no failure.
    last = rows[-2] if len(rows) > 1 else None
    return Progress(tuple(steps), float(rows[-1][1]), (last and last[3]) or "")


def usual_time(seconds: float) -> str:
    """Return a usual time as it is shown."""
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


@dataclass
class FirstStartWatch:
    """Who waits for a host's first start: asks, and shows each step once."""

    host: Host
    view: View
    at: tuple[str, int] | None = None
    """Where it answers; by default the port of ssh on its own address."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each step took that is over, as far as it was seen."""
    _seen: list[tuple[str, float]] = field(default_factory=list)

    def ask(self) -> str | None:
        """What the host does, if it is at its first start; None if ssh must be asked.

        Raises OSError if there is nobody, and AnswerError with the reason if the first start has failed.
        """
        try:
            found = ask(self.at or (str(self.host.env.address), _SSH), self.host.file(HOST_KEY))
        except ForeignError:
            return "somebody is there, and has not this host's key"
        if found is None:
            return None
        self._show(found)
        if found.failure:
            raise AnswerError(
                f"{self.host.name}: its first start failed: {found.failure}",
                hint="fix that, start the host again, and continue with --resume",
            )
        return BUSY

    def _show(self, found: Progress) -> None:
        steps = list(found.steps)
        if steps[: len(self._seen)] != self._seen:
            self._seen = []  # it was started again
        for place, (name, began) in enumerate(steps):
            new = steps[place] not in self._seen
            if place + 1 == len(steps):
                if new:
                    self._say(name, "")
            elif new or steps[place] == self._seen[-1]:
                self.seconds[name] = round(steps[place + 1][1] - began, 2)
                self._say(name, f": {self.seconds[name]:.1f} s")
        self._seen = steps

    def _say(self, name: str, rest: str) -> None:
        """A line about one step: which of how many, and what it usually takes."""
        plan = {**(ENCRYPTING if self.host.env.encryption is Encryption.REQUIRED else {}), **MAKING}
        place = f"step {[*plan].index(name) + 1} of {len(plan)}, {name}" if name in plan else name
        usual = f" (usually {usual_time(plan[name])})" if name in plan else ""
        self.view.say(f"{self.host.name}: {place}{rest}{usual}")
