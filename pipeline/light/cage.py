# SPDX-License-Identifier: Apache-2.0
"""Processes in namespaces of their own, which end with whoever started them, whatever ends that."""

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
        """Its exit status, or None as long as it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""

    def kill(self) -> None:
        """End it at once."""


@dataclass(frozen=True, slots=True)
class Caged:
    """A process that holds namespaces."""

    outer: Process
    """The program that made the namespaces, and waits; it ends as their first process ended."""
    output: IO[bytes]
    input: IO[bytes]

    def first(self) -> int:
        """Wait until the namespaces are ready; the number of their first process, as this machine sees it.

        Raises BootError with what the process said if it ended instead.
        """
        said = []
        for line in self.output:
            if line == READY:
                return int(Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()[0])
            said.append(line.decode(errors="replace"))
        raise BootError(f"namespaces: exit status {self.outer.wait()}; root may make them\n{''.join(said)}")


def caged(stack: ExitStack, argv: Sequence[str], namespaces: Sequence[str], *, within: int | None = None) -> Caged:
    """Start `argv` as the first process of new namespaces (`--net` and its like); it says `ready` on its output.

    With `within`, the file systems are those that this process sees. The end of the stack ends it.
    """
    inside = ["nsenter", f"--target={within}", "--mount", "--"] if within is not None else []
    # Whatever ends the tests, or the unshare between, ends the first process, and so its namespaces.
    cage = ["setpriv", "--pdeathsig", "KILL", *inside, "unshare", *namespaces, "--fork", "--kill-child=KILL", "--"]
    process = proc.spawn([*cage, *argv], stdin=proc.PIPE, stdout=proc.PIPE, stderr=proc.STDOUT)
    stack.callback(process.wait)
    stack.callback(proc.kill_group, process.pid)
    if process.stdout is None or process.stdin is None:
        raise BootError("namespaces: no pipe to their first process")
    stack.callback(process.stdout.close)
    stack.callback(process.stdin.close)
    return Caged(process, process.stdout, process.stdin)
