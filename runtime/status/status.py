# SPDX-License-Identifier: Apache-2.0
"""Ask all hosts at once for their state: one ssh and one round trip for each, every one of them bounded in time.

One loop reads and writes the pipes of all ssh processes: waiting for twenty hosts takes as long as waiting for one, and an
interruption ends them all. A connection may be kept, and is then asked again in the next round.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import AnswerError, DownError, RefusedError
from tower.hosts.registry import Host, Tower
from tower.ssh import sessions
from tower.ssh.trouble import trouble_of
from tower.status import report
from tower.status.report import HostReport

if TYPE_CHECKING:
    from subprocess import Popen

_MOST_SAID: Final = 16 << 10
"""The most bytes of ssh's own messages that are read."""
_GRACE: Final = 1.0
"""Seconds that ssh has, after its own limit, to say why it gives up."""
_EXCHANGES: Final = ("mlkem768x25519-sha256", "curve25519-sha256")
"""Key exchanges that cost next to nothing on either side. The second is not quantum-safe, but a status need not stay
secret for decades, and it takes a tenth of the time of the one that ssh would choose instead.
"""


class State(StrEnum):
    """Whether a host is up."""

    UP = "up"
    DOWN = "down"
    STRANGE = "strange"
    """A machine answers, but not as the host should."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a host when it was asked."""

    host: Host
    state: State
    reason: str
    """Why it is not up."""
    seconds: float
    """Seconds until this was known."""
    report: HostReport | None = None


@dataclass(slots=True)
class _Connection:
    """A connection to a host: its ssh process, and its output since the last question."""

    host: Host
    child: Popen[bytes]
    context: ExitStack
    asked: float = 0
    answer: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    ended: set[int] = field(default_factory=set)

    @property
    def pipes(self) -> dict[IO[bytes], bytearray]:
        """Return the pipes to read, each with its buffer."""
        assert self.child.stdout is not None  # noqa: S101  (they are pipes)
        assert self.child.stderr is not None  # noqa: S101
        return {self.child.stdout: self.answer, self.child.stderr: self.said}

    def ask(self) -> None:
        """Ask the question once more."""
        self.asked = time.monotonic()
        self.answer.clear()
        self.said.clear()
        try:
            assert self.child.stdin is not None  # noqa: S101  (it is a pipe)
            self.child.stdin.write(b"\n")
        except OSError:
            pass  # it has ended: its output will say why

    def read(self, pipe: IO[bytes]) -> bool:
        """Read what has come; False at the end."""
        data = os.read(pipe.fileno(), 4096)
        kept = self.pipes[pipe]
        kept += data[: max(_MOST_SAID, report.MOST) + 1 - len(kept)]
        return bool(data)

    def status(self, limit: float) -> Status | None:
        """Return the state if it is known by now; None if it is still to be waited for."""
        seconds = time.monotonic() - self.asked
        ended = len(self.ended) == len(self.pipes)
        if report.is_whole(bytes(self.answer)) or len(self.answer) > report.MOST or (ended and self.answer):
            try:
                return Status(self.host, State.UP, "", seconds, report.parse(bytes(self.answer)))
            except AnswerError as error:
                return Status(self.host, State.STRANGE, error.message, seconds)
        if ended:
            return Status(self.host, *explain(self.host, self.said.decode(errors="replace")), seconds)
        if seconds >= limit + _GRACE:
            return Status(self.host, State.STRANGE, f"did not answer within {limit:g} s", seconds)
        return None


def explain(host: Host, said: str) -> tuple[State, str]:
    """Translate the reason why ssh gave up."""
    trouble = trouble_of(host, b"", said)
    there = not isinstance(trouble, (DownError, RefusedError))
    return State.STRANGE if there else State.DOWN, trouble.message.removeprefix(f"{host.name}: ")


class Survey:
    """Asks hosts, and owns the open connections."""

    def __init__(self, tower: Tower, *, limit: float, keep: bool) -> None:
        self._tower, self._limit, self._keep = tower, limit, keep
        self._lines: dict[str, _Connection] = {}

    def ask(self, hosts: Iterable[Host]) -> Iterator[Status]:
        """Ask each host once, and yield the answers in the order in which they come; all of them soon after the limit."""
        with selectors.DefaultSelector() as selector:
            waiting = []
            for host in hosts:
                line = self._line(host)
                line.ask()
                waiting.append(line)
                for pipe in line.pipes:
                    selector.register(pipe, selectors.EVENT_READ, line)
            while waiting:
                end = min(line.asked for line in waiting) + self._limit + _GRACE
                for key, _ in selector.select(max(0.0, end - time.monotonic())):
                    if not key.data.read(key.fileobj):
                        key.data.ended.add(key.fd)
                        selector.unregister(key.fileobj)
                for line in tuple(waiting):
                    found = line.status(self._limit)
                    if found is not None:
                        waiting.remove(line)
                        for pipe in line.pipes:
                            if pipe.fileno() not in line.ended:
                                selector.unregister(pipe)
                        if not self._keep or found.state is not State.UP:
                            self._lines.pop(line.host.name).context.close()
                        yield found

    def _line(self, host: Host) -> _Connection:
        """Return the open connection to a host, or a new one."""
        line = self._lines.get(host.name)
        if line is None:
            with ExitStack() as stack:
                argv = _argv(host, self._tower, self._limit)
                child = stack.enter_context(
                    proc.running(argv, stdin=proc.PIPE, stderr=proc.PIPE, missing="install openssh-client")
                )
                line = self._lines[host.name] = _Connection(host, child, stack.pop_all())
        return line

    def close(self) -> None:
        """End all connections."""
        while self._lines:
            self._lines.popitem()[1].context.close()


@contextmanager
def survey(tower: Tower, *, limit: float, keep: bool = False) -> Iterator[Survey]:
    """Yield a survey for the context; with `keep`, connections stay open from one round to the next."""
    made = Survey(tower, limit=limit, keep=keep)
    try:
        yield made
    finally:
        made.close()


def _argv(host: Host, tower: Tower, limit: float) -> tuple[str | os.PathLike[str], ...]:
    # A direct connection: for one round trip, a shared one would need another process and a socket.
    options = ("BatchMode=yes", f"ConnectTimeout={max(1, round(limit))}", "ControlMaster=no", "ControlPath=none")
    exchange = f"KexAlgorithms=^{next(name for name in _EXCHANGES if name in sessions.known_exchanges())}"
    pairs = [word for option in (*options, exchange) for word in ("-o", option)]
    return ("ssh", "-F", tower.config, "-T", *pairs, "--", host.name, report.QUESTION)
