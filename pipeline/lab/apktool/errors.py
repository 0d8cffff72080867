# SPDX-License-Identifier: Apache-2.0
"""What ends a run of apk: a message in apk's form and an exit status."""

from __future__ import annotations

import sys


class ApkError(Exception):
    """An expected failure, shown as `ERROR: message`; an empty message has been shown already."""

    def __init__(self, message: str = "", status: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.status = status


def error(message: str) -> None:
    """Show an error on standard error, after what went to standard output."""
    sys.stdout.flush()
    sys.stderr.write(f"ERROR: {message}\n")
    sys.stderr.flush()


def warning(message: str) -> None:
    """Show a warning on standard error, after what went to standard output."""
    sys.stdout.flush()
    sys.stderr.write(f"WARNING: {message}\n")
    sys.stderr.flush()
