# SPDX-License-Identifier: Apache-2.0
"""The frame of every command: its input, output and errors as they were given, and the one place that shows errors.

The three may be closed, full, in another encoding, or without a reader. Imports next to nothing: `pipeline.apk` is
started often.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from pipeline.base.errors import FactoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from _typeshed import ReadableBuffer

INTERRUPTED = 130
READER_GONE = 141
"""The status of a program that SIGPIPE ended: a reader that went away does not want a message."""
OUTPUT = "standard output"
_FAILED = 1
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def ended(run: Callable[[], int]) -> int:
    """Run a command; return its exit status. An expected error becomes a line or two on stderr."""
    _prepare()
    try:
        status = run()
    except FactoryError as error:
        status = show(error)
    except SystemExit as left:
        status = _status_of(left)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as error:
        status = _failed(error)
    problem = _flush(sys.stdout)
    if problem is not None:
        told = unwritten(problem)
        status = status or told
    _flush(sys.stderr)
    return status


class _Result(io.FileIO):
    """Standard output as a file whose errors name it."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, or raise an OSError that names the output."""
        try:
            return super().write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, OUTPUT) from None


class _Words(io.FileIO):
    """Standard error as a file: failing to write progress is no error."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write if possible."""
        try:
            return super().write(data)
        except OSError:
            return len(memoryview(data))


def _prepare() -> None:
    """Make the streams usable: no file can get a closed one's number, characters that it lacks are escaped, errors are named."""
    for name, number in _NUMBERS.items():
        if getattr(sys, name) is None:
            # Like a closed stream: output to a read-only descriptor fails.
            handle = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)  # inheritable: programs get it, too
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (lives as long as we do)
    sys.stdout, sys.stderr = _named(sys.stdout, 1, _Result), _named(sys.stderr, 2, _Words)


def _named(stream: TextIO | None, number: int, kind: type[io.FileIO]) -> TextIO:
    """Rebuild a stream on files of `kind`, if it is that of the process and not one that a caller replaced."""
    if stream is not None and (not isinstance(stream, io.TextIOWrapper) or not _is_number(stream, number)):
        return stream
    raw = kind(number, "w", closefd=False)
    encoding = stream.encoding if stream is not None else "utf-8"
    at_once = stream is not None and (stream.line_buffering or stream.write_through)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=at_once)


def _is_number(stream: TextIO, number: int) -> bool:
    try:
        return stream.fileno() == number
    except (OSError, ValueError):
        return False


def silence(stream: TextIO) -> None:
    """Redirect a stream that can no longer be written to nowhere, so that later writes do not fail again."""
    try:
        void = os.open(os.devnull, os.O_WRONLY)
        os.dup2(void, stream.fileno())
        os.close(void)
    except (OSError, ValueError):  # it has no descriptor, or no descriptor is left
        pass


def show(error: FactoryError) -> int:
    """Show an error on stderr; return its exit status."""
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    return error.exit_status


def unwritten(problem: OSError) -> int:
    """Show that the output could not be written, and why, unless its reader went away; return the exit status."""
    if problem.errno == errno.EPIPE:
        return READER_GONE
    from pipeline.base.refused import refused

    show(refused(problem, OUTPUT, hint="is it open for writing?"))
    return _FAILED


def _failed(error: Exception) -> int:
    """Show an expected error; return its status. Raises a bug again."""
    from pipeline.base.refused import expected

    if isinstance(error, OSError) and (error.errno == errno.EPIPE or error.filename == OUTPUT):
        silence(sys.stdout)
        return unwritten(error)
    ours = expected(error)
    if ours is None:
        raise error
    return show(ours)


def _status_of(left: SystemExit) -> int:
    if isinstance(left.code, str):
        return show(FactoryError(left.code))
    return left.code or 0 if isinstance(left.code, int | None) else _FAILED


def _flush(stream: TextIO) -> OSError | None:
    """Flush a stream; return the error that prevented it. Python then has nothing left to write at its exit."""
    try:
        stream.flush()
    except OSError as error:
        silence(stream)
        try:
            stream.flush()
        except OSError:
            pass
        return error
    return None
