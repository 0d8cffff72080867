# SPDX-License-Identifier: Apache-2.0
"""Processes in namespaces of their own, which end with the process that started them, even if that is killed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pipeline.base import proc
from pipeline.base.errors import BootError

READY = b"ready\n"


class Process(Protocol):
    """A program of this machine that `proc.spawn` has started."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended, and return its exit status."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True, slots=True)
class Caged:
    """A process that holds namespaces."""

    outer: Process
    """The program that made the namespaces and waits; it ends with the status of their first process."""
    output: IO[bytes]
    input: IO[bytes]

    def first(self) -> int:
        """Wait until the namespaces are ready; return the process ID of their first process on this machine.

        Raises BootError with the output of the process if it ended instead.
        """
        said = []
        for line in self.output:
            if line == READY:
                return int(Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()[0])
            said.append(line.decode(errors="replace"))
        raise BootError(f"namespaces: exit status {self.outer.wait()}; root may make them\n{''.join(said)}")


def caged(stack: ExitStack, argv: Sequence[str], namespaces: Sequence[str], *, within: int | None = None) -> Caged:
    """Start `argv` as the first process of new namespaces (`--net` and its like); it prints `ready` when it is.

    With `within`, it sees the file systems of that process. The end of the stack ends it. Raises BootError.
    """
    inside = ["nsenter", f"--target={within}", "--mount", "--"] if within is not None else []
    # If this process or the unshare between ends, for any reason, so does the first process, and its namespaces with it.
    cage = ["setpriv", "--pdeathsig", "KILL", *inside, "unshare", *namespaces, "--fork", "--kill-child=KILL", "--"]
    process = proc.spawn([*cage, *argv], stdin=proc.PIPE, stdout=proc.PIPE, stderr=proc.STDOUT)
    stack.callback(process.wait)
    stack.callback(proc.kill_group, process.pid)
    if process.stdout is None or process.stdin is None:
        raise BootError("namespaces: no pipe to their first process")
    stack.callback(process.stdout.close)
    stack.callback(process.stdin.close)
    return Caged(process, process.stdout, process.stdin)
