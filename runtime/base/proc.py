# SPDX-License-Identifier: Apache-2.0
"""The one place of `tower` that starts programs: argv tuples, a rebuilt environment, a time limit; never a shell.

Errors do not show what a program was given on stdin: it may be a secret.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Final

from tower.base.errors import ToolError, TowerError
from tower.base.ready import readable

_KEPT: Final = ("PATH", "HOME", "USER", "TERM", "TMPDIR", "SSH_AUTH_SOCK", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR")
_SYSTEM: Final = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
_TAIL: Final = 10
_CHUNK: Final = 64 << 10
PIPE: Final = subprocess.PIPE
NULL: Final = subprocess.DEVNULL


class OverrunError(ToolError):
    """A program took too long, or wrote too much, and was ended."""


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a finished program: its exit status and its output."""

    status: int
    stdout: bytes
    stderr: bytes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a child: an allow-list of ours, a fixed locale, system folders in PATH, and `extra`."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    path = kept.get("PATH", os.defpath).split(os.pathsep)
    kept["PATH"] = os.pathsep.join([*path, *(folder for folder in _SYSTEM if folder not in path)])
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def as_root_here() -> tuple[str, ...]:
    """Return the words before a program that run it as root of this machine; empty if we are root."""
    return () if os.geteuid() == 0 else ("doas", "-n", "--")


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float,
    stdin: bytes | int | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    hint: str = "",
    missing: str = "",
    most: int | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Done:
    """Run a program to its end, in a process group of its own; `timeout` is in seconds.

    `stdin` is its input: bytes or a descriptor. With `most`, it is ended when it has written more bytes than that.
    `missing` is the hint if there is no such program, `hint` the one if it fails. `cwd` is its working folder; by default,
    ours.
    Raises ToolError when it is missing, and (with `check`) when it fails; OverrunError, a kind of ToolError, when it takes
    too long or writes too much.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    source = subprocess.PIPE if isinstance(stdin, bytes) else subprocess.DEVNULL if stdin is None else stdin
    child = _start(args, stdin=source, stderr=subprocess.PIPE, env=env, missing=missing, cwd=cwd)
    try:
        fed = stdin if isinstance(stdin, bytes) else b""
        out, err = child.communicate(fed, timeout=timeout) if most is None else _communicate(child, args[0], fed, timeout, most)
    except subprocess.TimeoutExpired:
        raise OverrunError(f"{args[0]}: not finished after {timeout:.0f} s", hint=hint) from None
    finally:
        _end(child)
    done = Done(child.returncode, out, err)
    if check and done.status != 0:
        raise _failed(args[0], done.status, done.stderr or done.stdout, hint)
    return done


def _failed(program: str, status: int, said: bytes, hint: str = "") -> ToolError:
    """Return the error for a program that ended with a status other than 0, with the end of its output."""
    how = f"exit status {status}" if status > 0 else f"ended by signal {-status} ({signal.strsignal(-status)})"
    last = (line.rstrip() for line in said.decode(errors="replace").strip().splitlines()[-_TAIL:])
    return ToolError("\n  ".join([f"{program}: {how}", *last]), hint=hint)


@contextmanager
def reading(argv: Sequence[str | os.PathLike[str]], *, missing: str = "") -> Iterator[IO[bytes]]:
    """Yield the unbuffered output of a running program; at the end of the context the program is ended.

    Raises ToolError if it cannot be started, or if all of its output was read and its exit status is not 0. That error has
    the program's stderr, and replaces a TowerError of the reader, who only saw the output end early.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    with os.fdopen(os.memfd_create("stderr"), "w+b") as said:
        child = _start(args, stdin=subprocess.DEVNULL, stderr=said.fileno(), env=None, missing=missing, bufsize=0)
        assert child.stdout is not None  # noqa: S101  (it is a pipe)
        try:
            try:
                yield child.stdout
            except TowerError:
                # Only if it has ended: a program that still writes did not cause the reader's error.
                if not readable([child.stdout], 0) or child.stdout.read(1) or not child.wait():
                    raise
            else:
                if child.stdout.read(1) or not child.wait():
                    return
            said.seek(0)
            raise _failed(args[0], child.returncode, said.read(_CHUNK)) from None
        finally:
            _end(child)


@contextmanager
def running(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    missing: str = "",
) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a running program, with unbuffered pipes where PIPE is given; at the end of the context it is ended.

    Raises ToolError if it cannot be started.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    child = _start(args, stdin=stdin, stdout=stdout, stderr=stderr, env=env, missing=missing, bufsize=0)
    try:
        yield child
    finally:
        _end(child)


@contextmanager
def attached(argv: Sequence[str | os.PathLike[str]], *, missing: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Yield a program with our own terminal, input and output, in our process group; it is ended with the context.

    Raises ToolError if it cannot be started.
    """
    args = tuple(os.fspath(arg) for arg in argv)
    child = _start(args, stdin=None, stdout=None, stderr=None, env=None, missing=missing, own=False)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def detached(argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a program that may outlive us, in a session of its own, without output; its input ends with us. Raises ToolError."""
    args = tuple(os.fspath(arg) for arg in argv)
    null = subprocess.DEVNULL
    return _start(args, stdin=subprocess.PIPE, stdout=null, stderr=null, env=env, missing="")


def ended(child: subprocess.Popen[bytes], timeout: float) -> int:
    """Return the exit status of a program that has done its work; kill it if it does not end within `timeout` seconds."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(timeout)
    _kill_group(child)
    return int(child.returncode)


def _communicate(child: subprocess.Popen[bytes], name: str, fed: bytes, timeout: float, most: int) -> tuple[bytes, bytes]:
    """Do as Popen.communicate, but limit the output of the program."""
    assert child.stdout is not None  # noqa: S101  (they are pipes)
    assert child.stderr is not None  # noqa: S101
    end = time.monotonic() + timeout
    found = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    left = memoryview(fed)
    with selectors.DefaultSelector() as selector:
        for handle in found:
            selector.register(handle, selectors.EVENT_READ)
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            rest = end - time.monotonic()
            if rest <= 0:
                raise subprocess.TimeoutExpired(child.args, timeout)
            for key, _ in selector.select(rest):
                if key.fd in found:
                    data = os.read(key.fd, _CHUNK)
                    found[key.fd] += data
                    finished = not data
                else:
                    left = _feed(key.fd, left)
                    finished = not left
                if finished:
                    selector.unregister(key.fileobj)
                    if child.stdin is key.fileobj:
                        child.stdin.close()
                if sum(map(len, found.values())) > most:
                    raise OverrunError(f"{name}: wrote more than {most} bytes")
    child.wait(max(0.1, end - time.monotonic()))
    return bytes(found[child.stdout.fileno()]), bytes(found[child.stderr.fileno()])


def _feed(handle: int, left: memoryview) -> memoryview:
    """Write as much as fits; return the rest. It is dropped if the program reads no more."""
    try:
        return left[os.write(handle, left[:_CHUNK]) :]
    except BlockingIOError:
        return left
    except BrokenPipeError:
        return left[:0]


def _start(
    args: tuple[str, ...],
    *,
    stdin: int | None,
    stderr: int | None,
    env: Mapping[str, str] | None,
    missing: str,
    stdout: int | None = subprocess.PIPE,
    bufsize: int = -1,
    own: bool = True,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            args,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environment(env),
            start_new_session=own,
            bufsize=bufsize,
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise ToolError(
            f"{args[0]}: no such program on this machine", hint=missing or "install the package that has it"
        ) from error
    except OSError as error:
        raise ToolError(f"{args[0]}: could not be started: {error.strerror}") from error


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a program: kill its processes, and close our ends of its pipes."""
    _kill_group(child)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            with suppress(OSError):  # input that it has not read
                pipe.close()


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the process group that `_start` made, if it still runs, and collect the exit status."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
