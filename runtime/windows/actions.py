# SPDX-License-Identifier: Apache-2.0
"""Actions of host.sh, which `tower` sends along with each use, and their errors."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from tower.base import proc
from tower.base.errors import HostError, RemoteError, printable
from tower.ssh.sessions import Session

DISPLAY_PACKAGES: Final = ("tigervnc", "socat")
"""What a host needs for windows; Xvfb and x11vnc do in place of the first."""
_STATUSES: Final = {91: "display", 92: "program", 93: "server", 94: "window"}
"""Exit statuses of host.sh."""
_SECONDS: Final = 30.0


class NoDisplayError(RemoteError):
    """A host lacks the programs that make windows: those of `DISPLAY_PACKAGES`."""


def script(*words: str) -> list[str]:
    """Return the program that runs an action of host.sh with these words."""
    return ["sh", "-c", files("tower.windows").joinpath("host.sh").read_text(), "sh", *words]


def act(session: Session, *words: str, data: bytes = b"", check: bool = True) -> proc.Done:
    """Run an action of host.sh to its end, with `data` as its input. Raises NoDisplayError, RemoteError, HostError."""
    done = session.run(script(*words), stdin=data, timeout=_SECONDS, check=False, most=1 << 20)
    what = _STATUSES.get(done.status, "")
    name = session.host.name
    if not check or done.status == 0:
        return done
    if what == "display":
        raise NoDisplayError(
            f"{name}: has no programs for windows", hint=f"install them: tower install {name} {' '.join(DISPLAY_PACKAGES)}"
        )
    if what == "program":
        raise RemoteError(f"{name}: {words[5]}: no such program", hint=f"install it: tower install {name} {words[5]}")
    if what == "window":
        raise HostError(f"{name}: no application runs there as {words[1]}", hint="see those that do: tower run --list")
    said = printable(done.stderr.decode(errors="replace"))[-1000:].strip()
    raise RemoteError(f"{name}: no display: exit status {done.status}\n  {said}", hint=f"ssh {name}")
