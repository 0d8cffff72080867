# SPDX-License-Identifier: Apache-2.0
"""Processes in namespaces of their own, which end with whoever started them, whatever ends that."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

READY = b"ready\n"


@dataclass(frozen=True, slots=True)
class Caged:
    """A process that holds namespaces."""

    outer: subprocess.Popen[bytes]
    """The program that made the namespaces, and waits; it ends as their first process ended."""
    output: BinaryIO
    input: BinaryIO

    def first(self) -> int:
        """Wait until the namespaces are ready; the number of their first process, as this machine sees it.

        Raises AssertionError with what the process said if it ended instead.
        """
        said = []
        for line in self.output:
            if line == READY:
                return int(Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text().split()[0])
            said.append(line.decode(errors="replace"))
        raise AssertionError(f"namespaces: exit status {self.outer.wait()}; root may make them\n{''.join(said)}")


def caged(stack: ExitStack, argv: Sequence[str], namespaces: Sequence[str], *, within: int | None = None) -> Caged:
    """Start `argv` as the first process of new namespaces (`--net` and its like); it says `ready` on its output.

    With `within`, the file systems are those that this process sees. The end of the stack ends it.
    """
    inside = ["nsenter", f"--target={within}", "--mount", "--"] if within is not None else []
    # Whatever ends the tests, or the unshare between, ends the first process, and so its namespaces.
    cage = ["setpriv", "--pdeathsig", "KILL", *inside, "unshare", *namespaces, "--fork", "--kill-child=KILL", "--"]
    process = subprocess.Popen(
        [*cage, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    assert process.stdin is not None
    stack.callback(process.stdout.close)
    stack.callback(process.stdin.close)
    return Caged(process, process.stdout, process.stdin)  # type: ignore[arg-type]
