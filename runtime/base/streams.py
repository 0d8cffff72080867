# SPDX-License-Identifier: Apache-2.0
"""Input, output and errors as we were given them: closed, full, in another encoding, or read by nobody.

What cannot be written to the output is an error, for it is the result; what cannot be said on the way is not.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Literal, TextIO

from tower.base.errors import ValueRefusedError

OUTPUT: Final = "standard output"
_LONGEST: Final = 4096
"""Characters of a line of input: an answer, or a password."""


def prepare() -> None:
    """Make all three usable: what is closed fails when it is written to, and has no number that a file could get instead."""
    if sys.stdin is None:
        sys.stdin = _void(os.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _void(os.O_RDONLY, "w")  # writing to it gives EBADF, as if it were closed
    if sys.stderr is None:
        sys.stderr = _void(os.O_WRONLY, "w")
    # What an encoding has not is shown by its number.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def _void(flags: int, mode: Literal["r", "w"]) -> TextIO:
    handle = os.open(os.devnull, flags)
    os.set_inheritable(handle, True)  # as the three are: programs get them, too
    return os.fdopen(handle, mode, encoding="utf-8")


def show(text: str) -> None:
    """Write a result, or a part of it. Raises OSError that names the output; BrokenPipeError if nobody reads it any more."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def show_json(row: Mapping[str, object]) -> None:
    """Write a result for programs: one JSON object, as a line. Raises as `show` does."""
    import json

    show(f"{json.dumps(row, sort_keys=True)}\n")


def note(text: str) -> None:
    """Say something about how it goes. Raises BrokenPipeError if nobody reads it any more."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        pass


def line() -> str:
    """One line of the input, with its end; empty when there is none any more. Raises ValueRefusedError for one without end."""
    found = sys.stdin.readline(_LONGEST + 1)
    if len(found) > _LONGEST:
        raise ValueRefusedError(f"the input has a line of more than {_LONGEST} characters", hint="give a password as a line")
    return found


def finish() -> OSError | None:
    """Write what is still to be written; what kept the output from that. Nothing is left for the end of Python to try."""
    problem = _flush(sys.stdout)
    _flush(sys.stderr)
    return problem


def _flush(stream: TextIO) -> OSError | None:
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, io.UnsupportedOperation):
            void = os.open(os.devnull, os.O_WRONLY)
            os.dup2(void, stream.fileno())
            os.close(void)
            stream.flush()
        return error
    return None
