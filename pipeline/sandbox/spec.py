# SPDX-License-Identifier: Apache-2.0
"""The specification of a sandbox: everything that influences one run of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.base.errors import SandboxError
from pipeline.sandbox.transfer import Input

CAPABILITIES = frozenset(
    {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "SETFCAP", "SETGID", "SETUID", "SYS_CHROOT"}
)
"""The capabilities that a stage may ask for: enough to make a root, none that affect the machine."""


_SYSTEM = frozenset(
    f"/{name}"
    for name in ("bin", "boot", "dev", "etc", "lib", "lib64", "out", "proc", "run", "sbin", "sys", "tmp", "usr", "work")
)
"""Folders where no input may be: the builder's own, and those that a stage writes to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run; `memory` (bytes) is three quarters of the engine's machine if not set.

    If its log exceeds `log_bytes`, the rest is left out, except for the last lines.
    """

    memory: int | None = None
    processes: int = 4096
    open_files: int = 1024
    output_bytes: int = 64 << 30
    log_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One run of a stage, with everything that influences it.

    `name` is its name in messages; `architecture` (x86_64, aarch64) is the container's, the image's own if empty;
    `timeout` is in seconds; `secrets` become /run/secrets/<name>.
    """

    name: str
    image: str
    argv: tuple[str, ...]
    epoch: int
    inputs: tuple[Input, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    timeout: float = 900
    architecture: str = ""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        odd = sorted(set(self.capabilities) - CAPABILITIES)
        if odd:
            known = ", ".join(sorted(CAPABILITIES))
            raise SandboxError(f"{self.name}: capability {', '.join(odd)} is given to no stage", hint=f"known: {known}")
        for item in self.inputs:
            if top_folder(item.target) in _SYSTEM:
                raise SandboxError(f"{self.name}: input {item.target} would lie in a folder of the system")


def top_folder(target: str) -> str:
    """Return the top-level folder that holds `target`: one volume is mounted there."""
    return "/" + PurePosixPath(target).parts[1]
