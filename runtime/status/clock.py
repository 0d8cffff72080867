# SPDX-License-Identifier: Apache-2.0
"""Read and set the clocks of hosts over ssh: the offline hosts take the router's time, since they reach no other.

Every clock is compared with this machine's monotonic clock, which is never set: a question goes out, the answer comes
back, and the clock was read at some time in between. The shortest of a few such round trips is the most exact. A clock
is set at a full second, as a small `date` can do no better, by an order that is sent to arrive at that second.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import AnswerError, GarbageError, HangsError, RemoteError
from tower.base.ready import readable
from tower.base.version import OS_RELEASE, read_os_release
from tower.ssh.sessions import Session, as_root

if TYPE_CHECKING:
    import subprocess

_ROUNDS: Final = 8
_GOOD: Final = 0.005
"""An error in seconds that is small enough to stop."""
_LIMIT: Final = 10.0
"""Seconds to wait for an answer."""
_MOST: Final = 2048
_MARGIN: Final = 0.1
"""Seconds between the decision for a second and its beginning."""
_ENOUGH: Final = 0.05
"""Seconds by which a clock may be wrong without being set."""
_EARLIEST: Final = 1767225600
"""2026: a clock that shows an earlier time was never set."""
_SPAN: Final = 30 * 365 * 86400
"""A clock that is further ahead of the image than this is not valid."""
# Busybox' date has no fractions of a second, but its adjtimex does. Each line of input is a question, and starts one program.
_READ: Final = """\
case $(date +%N) in
*[!0-9]* | '') small=yes ;;
*) small= ;;
esac
while read -r line; do
if [ -z "$small" ]; then date +%s.%N; else line=$(adjtimex 2>/dev/null) && echo $line || date +%s; fi
done
"""
_SET: Final = """\
echo ready
while read -r line; do
case $line in '' | *[!0-9]*) exit 1 ;; esac
date -s "@$line" >/dev/null && echo done || exit 1
done
"""
_PLAIN: Final = re.compile(r"([0-9]{1,12})(?:\.([0-9]{9}))?")
_ADJTIMEX: Final = re.compile(r"(?:.* )?status: ([0-9]{1,8}) .*\btime\.tv_sec: ([0-9]{1,12}) time\.tv_usec: ([0-9]{1,9})(?: .*)?")
_NANOSECONDS: Final = 0x2000
"""The kernel's STA_NANO in the status: its microseconds are nanoseconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A clock's time, relative to this machine's monotonic clock."""

    offset: float
    """Seconds to add to the monotonic clock."""
    error: float
    """The possible error, in seconds."""

    def now(self) -> float:
        """Return what the clock shows now."""
        return time.monotonic() + self.offset


def earliest(os_release: Path = OS_RELEASE) -> int:
    """Return the date of this system's image: no clock of this Tower can be before it."""
    epoch = read_os_release(os_release).get("TOWER_EPOCH", "")
    return max(_EARLIEST, int(epoch)) if re.fullmatch(r"[0-9]{1,10}", epoch) else _EARLIEST


def check_sane(name: str, seconds: float, since: int) -> None:
    """Raise AnswerError if a clock that shows so many seconds should not be followed."""
    if since <= seconds <= since + _SPAN:
        return
    shown = time.strftime("%Y-%m-%d", time.gmtime(seconds)) if 0 <= seconds < 1 << 37 else f"{seconds:.0f}"
    which = "is older than this system" if seconds < since else "is decades from now"
    raise AnswerError(
        f"{name}: its clock shows {shown}, which {which}", hint=f"set it: ssh {name} doas date -s YYYY-MM-DDThh:mm:ss"
    )


def parse_time(line: str, name: str) -> tuple[float, float]:
    """Parse a line of a host: the seconds, and how exact they are. Raises GarbageError, which does not show the line."""
    if (match := _PLAIN.fullmatch(line)) is not None:
        seconds, parts = match.groups()
        # Without a fraction, the clock was somewhere in that second.
        return (int(seconds) + int(parts) / 1e9, 0.0) if parts else (int(seconds) + 0.5, 0.5)
    if (match := _ADJTIMEX.fullmatch(line)) is not None:
        unit = 1e-9 if int(match[1]) & _NANOSECONDS else 1e-6
        part = int(match[3]) * unit
        if part < 1:
            return int(match[2]) + part, 0.0
    raise GarbageError(f"{name}: its answer is not a time", hint=f"see: ssh {name} date")


def read_clock(session: Session) -> Reading:
    """Read a host's clock. Raises GarbageError, HangsError, and the errors of broken connections."""
    best: Reading | None = None
    with _talk(session, ("sh", "-c", _READ)) as talk:
        for _ in range(_ROUNDS):
            start = time.monotonic()
            line = talk.ask("")
            end = time.monotonic()
            seconds, error = parse_time(line, session.host.name)
            error += (end - start) / 2
            if best is None or error < best.error:
                best = Reading(seconds - (start + end) / 2, error)
            if best.error < _GOOD:
                break
    assert best is not None  # noqa: S101  (there are rounds)
    return best


def set_clock(session: Session, wanted: Reading, *, lead: float) -> None:
    """Set a host's clock to `wanted`; `lead` is the number of seconds that an order takes to arrive.

    Raises RemoteError if the host fails to do it.
    """
    with _talk(session, as_root(("sh", "-c", _SET))) as talk:
        if talk.line() == "ready":
            second = int(wanted.now() + lead + _MARGIN) + 1
            time.sleep(max(0.0, second - lead - wanted.now()))
            if talk.ask(str(second)) == "done":
                return
    raise RemoteError(f"{session.host.name}: its clock could not be set", hint=f"try: ssh {session.host.name} doas date")


def follows_the_internet(session: Session) -> bool | None:
    """Tell whether a host gets its time from servers; None if that is unknown."""
    done = session.run(["chronyc", "-c", "tracking"], timeout=_LIMIT, check=False, most=_MOST)
    fields = done.stdout.decode(errors="replace").strip().split(",")
    return fields[-1] != "Not synchronised" if done.status == 0 and len(fields) > 10 else None


def is_off(found: Reading, wanted: Reading) -> bool:
    """Tell whether a clock has to be set."""
    return abs(found.offset - wanted.offset) > max(_ENOUGH, found.error + wanted.error)


@dataclass(slots=True)
class _Talk:
    """A program of a host that answers each line with a line."""

    name: str
    child: subprocess.Popen[bytes]

    def ask(self, line: str) -> str:
        """Send a line and return the answer. Raises HangsError, GarbageError, LostError."""
        assert self.child.stdin is not None  # noqa: S101  (it is a pipe)
        with suppress(OSError):  # it has ended: reading will show why
            self.child.stdin.write(f"{line}\n".encode())
        return self.line()

    def line(self) -> str:
        """Return the next line of its output; "" if it has ended."""
        assert self.child.stdout is not None  # noqa: S101  (it is a pipe)
        found, end = bytearray(), time.monotonic() + _LIMIT
        while not found.endswith(b"\n"):
            if not readable([self.child.stdout], max(0.0, end - time.monotonic())):
                raise HangsError(f"{self.name}: did not answer with the time within {_LIMIT:.0f} s")
            data = os.read(self.child.stdout.fileno(), _MOST)
            found += data
            if not data:
                break
            if len(found) > _MOST:
                raise GarbageError(
                    f"{self.name}: answered more than {_MOST} bytes, expected a time",
                    hint=f"see: ssh {self.name} date",
                )
        return found.decode(errors="replace").removesuffix("\n")


@contextmanager
def _talk(session: Session, argv: Sequence[str]) -> Iterator[_Talk]:
    with session.popen(argv, stderr=proc.NULL) as child:
        yield _Talk(session.host.name, child)
