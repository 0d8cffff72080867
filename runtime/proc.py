# SPDX-License-Identifier: Apache-2.0
"""The one place of `tower` that starts programs: argv tuples, a rebuilt environment, a time limit; never a shell.

What a program is fed on its stdin is not shown when it fails: it may be a secret.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

from tower.errors import ToolError

_KEPT: Final = ("PATH", "HOME", "USER", "TERM", "TMPDIR", "SSH_AUTH_SOCK", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")
_SYSTEM: Final = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_TAIL: Final = 10


@dataclass(frozen=True, slots=True)
class Done:
    """What a finished program left: its exit status and what it wrote."""

    status: int
    stdout: bytes
    stderr: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every child: an allow-list of ours, a fixed locale, system folders on PATH, and `extra`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = kept.get("PATH", os.defpath).split(os.pathsep)
    kept["PATH"] = os.pathsep.join([*path, *(folder for folder in _SYSTEM if folder not in path)])
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    stdin: bytes | int | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    hint: str = "",
) -> Done:
    """Run a program to its end, and its whole process group with it; `timeout` is in seconds.

    `stdin` is what it is fed, or a descriptor.
    Raises ToolError when it is missing, overruns its time, or (with `check`) fails.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    source = subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL if stdin is None else stdin
    child = _start(args, stdin=source, stderr=subprocess.PIPE, env=env, hint=hint)
    try:
        out, err = child.communicate(stdin if isinstance(stdin, bytes) else None, timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill_group(child)
        raise ToolError(f"{args[0]}: not finished after {timeout:.0f} s", hint=hint) from None
    except BaseException:
        _kill_group(child)
        raise
    done = Done(child.returncode, out, err)
    if check and done.status != 0:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-_TAIL:]
        raise ToolError("\n  ".join([f"{args[0]}: exit status {done.status}", *last]), hint=hint)
    return done


@contextmanager
def reading(argv: Sequence[str | os.PathLike[str]], *, hint: str = "") -> Iterator[IO[bytes]]:
    """The unbuffered output of a program while it runs; at the end of the context it is gone.

    Raises ToolError if it cannot be started, or if all that it wrote was read and its exit status is not 0.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    child = _start(args, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=None, hint=hint, bufsize=0)
    assert child.stdout is not None  # noqa: S101  (it is a pipe)
    try:
        yield child.stdout
        if not child.stdout.read(1) and child.wait() != 0:
            raise ToolError(f"{args[0]}: exit status {child.returncode}", hint=hint)
    finally:
        _kill_group(child)
        child.stdout.close()


def _start(
    args: tuple[str, ...], *, stdin: int, stderr: int, env: Mapping[str, str] | None, hint: str, bufsize: int = -1
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            args,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment(env),
            start_new_session=True,
            bufsize=bufsize,
        )
    except FileNotFoundError as error:
        raise ToolError(f"{args[0]}: no such program on this machine", hint=hint or "install the package that has it") from error
    except OSError as error:
        raise ToolError(f"{args[0]}: could not be started: {error.strerror}", hint=hint) from error


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """End what `_start` started, if it still runs, and take its exit status."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
