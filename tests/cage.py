# SPDX-License-Identifier: Apache-2.0
"""A namespace of processes for programs that send signals: a mistake of theirs ends nothing outside."""

from __future__ import annotations

import os


def caged(*argv: str) -> tuple[str, ...]:
    """Return the command that runs `argv` with processes and a /proc of its own, also for a user who is not root."""
    own = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *own, "--pid", "--fork", "--kill-child", "--mount-proc", "--", *argv)
