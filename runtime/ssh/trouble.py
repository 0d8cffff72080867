# SPDX-License-Identifier: Apache-2.0
"""Explain why a host could not be reached: ssh's own words, sorted by what the user can do about it."""

from __future__ import annotations

from typing import Final

from tower.base.errors import (
    AnswerError,
    DownError,
    GarbageError,
    HangsError,
    HostKeyError,
    KeyRefusedError,
    LostError,
    RefusedError,
)
from tower.hosts.registry import Host

# The first row that matches decides.
_WORDS: Final = (
    (HostKeyError, ("Host key verification failed", "IDENTIFICATION HAS CHANGED", "no matching host key")),
    (KeyRefusedError, ("Permission denied", "Too many authentication failures", "UNPROTECTED PRIVATE KEY", "Load key")),
    (
        GarbageError,
        (
            "banner line", "Protocol mismatch", "protocol version", "Bad packet length", "padding error", "Corrupted MAC",
            "message authentication code incorrect", "invalid format", "Unable to negotiate", "Protocol major",
            "invalid characters", "No banner", "No SSH version", "did not see", "protocol error", "Connection corrupted",
        ),
    ),
    (HangsError, ("during banner exchange",)),
    (DownError, ("Connection timed out", "No route to host", "Host is down", "Network is unreachable", "Operation timed out")),
    (HangsError, ("timed out", "Timeout, server")),
    (RefusedError, ("Connection refused",)),
    (LostError, ("closed by", "reset by peer", "Broken pipe", "Connection closed")),
)  # fmt: skip


def trouble_of(host: Host, line: bytes, said: str) -> AnswerError:
    """Return the error about a failed connection: `line` is the output of the host's shell, `said` that of ssh."""
    if line:
        shown = "".join(char if char.isprintable() else "?" for char in line[:60].decode(errors="replace"))
        return GarbageError(
            f"{host.name}: answers {shown}, which is not a host's answer",
            hint=f"something prints when {host.env.username} logs in there: look into ~/.ssh/rc and its shell's files",
        )
    kind = next((kind for kind, words in _WORDS if any(word in said for word in words)), AnswerError)
    message, hint = _text(kind, host)
    last = next((row.strip() for row in reversed(said.splitlines()) if row.strip()), "ssh said nothing")
    shown = "".join(char if char.isprintable() else "?" for char in last[:200])
    return kind(f"{host.name}: {message} ({shown})", hint=hint)


def _text(kind: type[AnswerError], host: Host) -> tuple[str, str]:
    """Return the explanation and the next step for a kind of error."""
    address = host.env.address
    texts: dict[type[AnswerError], tuple[str, str]] = {
        DownError: (f"nothing answers at {address}", f"is it on, and plugged into the {host.env.network.name} network?"),
        RefusedError: (
            f"the machine at {address} is on, but its ssh server is not running",
            "it may still be starting: try again in a minute",
        ),
        HangsError: (f"the machine at {address} accepts the connection but is silent", "is it overloaded? Start it anew"),
        KeyRefusedError: (
            "does not accept the key that was made for it",
            f"did another thin client provision it? Make it again: tower deprovision {host.name}, then provision it",
        ),
        HostKeyError: (
            f"the machine at {address} has another host key than the one made for {host.name}",
            "it started from another disk, or it is another machine: do not use it until you know which",
        ),
        GarbageError: (f"the machine at {address} does not speak ssh as a host does", "is it a host of this Tower?"),
        LostError: ("the connection was closed before it was ready", "try again; if that does not help, restart the host"),
    }
    return texts.get(kind, ("could not be reached", f"try: ssh -v {host.name} true"))
