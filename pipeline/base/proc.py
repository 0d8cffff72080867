# SPDX-License-Identifier: Apache-2.0
"""The one place that starts programs (tests/lint checks that no other module of the pipeline does).

Programs get an argv tuple, a rebuilt environment, a closed stdin and a time limit; never a shell. They end with the
process that started them, however it ends (`guard`).
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from pipeline.base.errors import ToolError
from pipeline.base.guard import GUARD

_KEPT = ("PATH", "HOME", "TERM", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy",
         "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY")  # fmt: skip
_TAIL = 20
PIPE: Final = subprocess.PIPE
STDOUT: Final = subprocess.STDOUT


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a finished program: its exit status and its output."""

    status: int
    stdout: bytes
    stderr: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child: an allow-list of ours, fixed locale and time zone, and `extra`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    log: IO[bytes] | None = None,
    check: bool = True,
    hint: str = "",
) -> Done:
    """Run a program to its end, in a process group of its own.

    `stdout` takes the output if given, `log` takes stderr (and stdout, without `stdout`);
    otherwise both are in `Done`. `timeout` is in seconds.
    Raises ToolError when it is missing, takes too long, or (with `check`) fails.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    feed, source = (stdin, subprocess.PIPE) if isinstance(stdin, bytes) else (None, stdin or subprocess.DEVNULL)
    try:
        child = _start(args, env, cwd, stdin=source, stdout=stdout or log or subprocess.PIPE, stderr=log or subprocess.PIPE)
    except FileNotFoundError as error:
        raise ToolError(
            f"{args[0]}: no such program on this machine", hint=hint or "run it through ./ci/doit, which installs what is missing"
        ) from error
    except OSError as error:
        raise ToolError(f"{args[0]}: could not be started: {error.strerror}", hint=hint) from error
    try:
        out, err = child.communicate(feed, timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_group(child.pid)
        child.communicate()
        raise ToolError(f"{args[0]}: not finished after {timeout:.0f} s", hint=hint) from None
    except BaseException:
        kill_group(child.pid)
        child.wait()
        raise
    finally:
        GUARD.ended(child.pid)
    done = Done(child.returncode, out or b"", err or b"")
    if check and done.status != 0:
        last = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-_TAIL:]
        raise ToolError("\n  ".join([f"{' '.join(args)}: exit status {done.status}", *last]), hint=hint)
    return done


def spawn(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program that runs beside us (a virtual machine, a server); the caller ends it with `kill_group`.

    Raises ToolError.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    null = subprocess.DEVNULL
    try:
        return _start(
            args,
            env,
            cwd,
            stdin=null if stdin is None else stdin,
            stdout=null if stdout is None else stdout,
            stderr=null if stderr is None else stderr,
        )
    except OSError as error:
        raise ToolError(
            f"{args[0]}: could not be started: {error.strerror}", hint="run it through ./ci/doit, which installs what is missing"
        ) from error


def _start(
    args: tuple[str, ...],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    *,
    stdin: int | IO[bytes],
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
) -> subprocess.Popen[bytes]:
    mark = GUARD.starting()
    try:
        child = subprocess.Popen(
            args,
            cwd=cwd,
            env={**environment(env), **mark},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except BaseException:
        GUARD.failed()
        raise
    GUARD.started(child.pid)
    return child


def let_go(pid: int) -> None:
    """Let a program that `spawn` started outlive us from here on."""
    GUARD.ended(pid)


def on_terminal(argv: Sequence[str | os.PathLike[str]]) -> int:
    """Run a program with our own input and output; return its exit status. On a terminal it gets every key, including Ctrl-C."""
    args = [os.fspath(arg) for arg in argv]
    if os.isatty(0) and os.isatty(1):
        return os.waitstatus_to_exitcode(pty.spawn(args))
    return subprocess.run(args, check=False).returncode


def kill_group(pid: int) -> None:
    """Kill the process group that `run` or `spawn` made for `pid`, if it still exists."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    GUARD.ended(pid)
