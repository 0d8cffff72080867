# SPDX-License-Identifier: Apache-2.0
"""Clocks of hosts, read and set over ssh: the offline hosts take the router's time, since they reach no other.

Every clock is compared with this machine's stopwatch (which is no clock, and never set): a question goes out, the answer
comes back, and the clock was read some time between the two. The shortest of a few such round trips says the most. A clock
is set at a whole second, all that a small `date` can do, by an order that is sent when it will be that second there.
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import AnswerError, GarbageError, HangsError, RemoteError
from tower.base.version import OS_RELEASE, read_os_release
from tower.ssh.sessions import Session, as_root

if TYPE_CHECKING:
    import subprocess

_ROUNDS: Final = 8
_GOOD: Final = 0.005
"""Seconds of error that need no further round."""
_LIMIT: Final = 10.0
"""Seconds for an answer."""
_MOST: Final = 2048
_MARGIN: Final = 0.1
"""Seconds between deciding for a second and its beginning."""
_ENOUGH: Final = 0.05
"""Seconds by which a clock may be off; less is no reason to set it."""
_EARLIEST: Final = 1767225600
"""2026: a clock that says less was never set, whatever this system is."""
_SPAN: Final = 30 * 365 * 86400
"""A clock that is further ahead of the image than this says nonsense."""
# Busybox' date has no parts of a second, but its adjtimex has. One line of input is one question, and starts one program.
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
"""The kernel's STA_NANO, in the status: what it calls microseconds are nanoseconds."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a clock shows, beside this machine's stopwatch."""

    offset: float
    """Seconds to add to the stopwatch."""
    error: float
    """Seconds by which that may be wrong."""

    def now(self) -> float:
        """What the clock shows now."""
        return time.monotonic() + self.offset


def earliest(os_release: Path = OS_RELEASE) -> int:
    """No clock of this Tower is before it: when the image of this system was made."""
    epoch = read_os_release(os_release).get("TOWER_EPOCH", "")
    return max(_EARLIEST, int(epoch)) if re.fullmatch(r"[0-9]{1,10}", epoch) else _EARLIEST


def check_sane(name: str, seconds: float, since: int) -> None:
    """Raises AnswerError if a clock that shows so many seconds is not to be followed."""
    if since <= seconds <= since + _SPAN:
        return
    shown = time.strftime("%Y-%m-%d", time.gmtime(seconds)) if 0 <= seconds < 1 << 37 else f"{seconds:.0f}"
    which = "is older than this system" if seconds < since else "is decades from now"
    raise AnswerError(
        f"{name}: its clock shows {shown}, which {which}", hint=f"set it: ssh {name} doas date -s YYYY-MM-DDThh:mm:ss"
    )


def parse_time(line: str, name: str) -> tuple[float, float]:
    """Seconds, and how exact they are, of a line that a host wrote. Raises GarbageError, which shows nothing of it."""
    if (match := _PLAIN.fullmatch(line)) is not None:
        seconds, parts = match.groups()
        # Without parts, the clock was somewhere in that second.
        return (int(seconds) + int(parts) / 1e9, 0.0) if parts else (int(seconds) + 0.5, 0.5)
    if (match := _ADJTIMEX.fullmatch(line)) is not None:
        unit = 1e-9 if int(match[1]) & _NANOSECONDS else 1e-6
        part = int(match[3]) * unit
        if part < 1:
            return int(match[2]) + part, 0.0
    raise GarbageError(f"{name}: answers what is no time", hint=f"see: ssh {name} date")


def read_clock(session: Session) -> Reading:
    """What a host's clock shows. Raises GarbageError, HangsError, and what broken connections raise."""
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
    """Make a host's clock show what `wanted` does; `lead` is how many seconds an order is under way.

    Raises RemoteError if the host does not do it.
    """
    with _talk(session, as_root(("sh", "-c", _SET))) as talk:
        if talk.line() == "ready":
            second = int(wanted.now() + lead + _MARGIN) + 1
            time.sleep(max(0.0, second - lead - wanted.now()))
            if talk.ask(str(second)) == "done":
                return
    raise RemoteError(f"{session.host.name}: its clock could not be set", hint=f"try: ssh {session.host.name} doas date")


def follows_the_internet(session: Session) -> bool | None:
    """Whether a host has its time from servers; None where nothing can tell."""
    done = session.run(["chronyc", "-c", "tracking"], timeout=_LIMIT, check=False, most=_MOST)
    fields = done.stdout.decode(errors="replace").strip().split(",")
    return fields[-1] != "Not synchronised" if done.status == 0 and len(fields) > 10 else None


def is_off(found: Reading, wanted: Reading) -> bool:
    """Whether a clock is to be set."""
    return abs(found.offset - wanted.offset) > max(_ENOUGH, found.error + wanted.error)


@dataclass(slots=True)
class _Talk:
    """A program of a host that answers a line with a line."""

    name: str
    child: subprocess.Popen[bytes]

    def ask(self, line: str) -> str:
        """Its answer. Raises HangsError, GarbageError, LostError."""
        assert self.child.stdin is not None  # noqa: S101  (it is a pipe)
        with suppress(OSError):  # it has ended: reading tells
            self.child.stdin.write(f"{line}\n".encode())
        return self.line()

    def line(self) -> str:
        """The next line that it writes; empty if it has ended."""
        assert self.child.stdout is not None  # noqa: S101  (it is a pipe)
        found, end = bytearray(), time.monotonic() + _LIMIT
        while not found.endswith(b"\n"):
            if not select.select([self.child.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise HangsError(f"{self.name}: does not tell the time within {_LIMIT:.0f} s")
            data = os.read(self.child.stdout.fileno(), _MOST)
            found += data
            if not data:
                break
            if len(found) > _MOST:
                raise GarbageError(
                    f"{self.name}: answers with more than {_MOST} bytes where a time was expected",
                    hint=f"see: ssh {self.name} date",
                )
        return found.decode(errors="replace").removesuffix("\n")


@contextmanager
def _talk(session: Session, argv: Sequence[str]) -> Iterator[_Talk]:
    with session.popen(argv, stderr=proc.NULL) as child:
        yield _Talk(session.host.name, child)
