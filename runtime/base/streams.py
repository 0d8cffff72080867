# SPDX-License-Identifier: Apache-2.0
"""Input, output and errors as we were given them: closed, full, in another encoding, or with no reader.

Failing to write the output is an error, since it is the result; failing to write progress is not.
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
"""The most characters of a line of input: an answer, or a password."""


def prepare() -> None:
    """Make all three usable: a closed one fails when it is written to, and its number cannot go to another file."""
    if sys.stdin is None:
        sys.stdin = _void(os.O_RDONLY, "r")
    if sys.stdout is None:
        sys.stdout = _void(os.O_RDONLY, "w")  # writing to it fails with EBADF, as if it were closed
    if sys.stderr is None:
        sys.stderr = _void(os.O_WRONLY, "w")
    # Characters that the encoding lacks are shown as escapes.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")


def _void(flags: int, mode: Literal["r", "w"]) -> TextIO:
    handle = os.open(os.devnull, flags)
    os.set_inheritable(handle, True)  # inheritable, as the three are: programs get them, too
    return os.fdopen(handle, mode, encoding="utf-8")


def show(text: str) -> None:
    """Write a result, or a part of it. Raises OSError naming the output; BrokenPipeError if the reader went away."""
    try:
        sys.stdout.write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from error


def show_json(row: Mapping[str, object]) -> None:
    """Write a result for programs: one JSON object on a line. Raises as `show` does."""
    import json

    show(f"{json.dumps(row, sort_keys=True)}\n")


def note(text: str) -> None:
    """Write a line about the progress. Raises BrokenPipeError if the reader went away."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        pass


def line() -> str:
    """Read one line of the input, with its newline; "" at its end. Raises ValueRefusedError for an endless line."""
    found = sys.stdin.readline(_LONGEST + 1)
    if len(found) > _LONGEST:
        raise ValueRefusedError(f"the input has a line of more than {_LONGEST} characters", hint="give a password as a line")
    return found


def finish() -> OSError | None:
    """Write what is still buffered; return the error that prevented it. Python then has nothing left to write at its exit."""
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
