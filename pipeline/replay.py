# SPDX-License-Identifier: Apache-2.0
"""Runs a stage again for a person: the same sandbox, but with a terminal, and a shell instead of the stage if wanted.

What it makes goes into a folder of the caller's choice and never into the store.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.container import Container, opened
from pipeline.engine import Engine
from pipeline.errors import SandboxError
from pipeline.receive import receive
from pipeline.sandbox import Sandbox, container_state, fetch_outputs, run_stage

_SHELL = ("/bin/sh", "-i")


def replay_logged(engine: Engine, sandbox: Sandbox, outputs: Path) -> None:
    """Run the stage with its output on stderr; whatever it leaves in /out goes to `outputs`. Raises as `run_stage`."""
    outputs.mkdir(parents=True, exist_ok=True)
    run_stage(engine, sandbox, outputs=outputs, declared=None, log=sys.stderr.buffer)


def replay_shell(engine: Engine, sandbox: Sandbox, outputs: Path) -> int:
    """Open a shell in the sandbox of the stage, before the stage has run; the shell's exit status.

    The stage's own command is in $TOWER_STAGE; what is in /out at the end goes to `outputs`.
    Raises SandboxError if there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SandboxError("a shell in the sandbox needs a terminal", hint="without one the stage itself can be replayed")
    outputs.mkdir(parents=True, exist_ok=True)
    env = {**sandbox.env, "TOWER_STAGE": " ".join(sandbox.argv), "TERM": os.environ.get("TERM", "dumb")}
    with opened(engine, replace(sandbox, argv=_SHELL, env=env), terminal=True) as container:
        status = _talk(engine, container)
        receive(fetch_outputs(engine, container), outputs, declared=None, max_bytes=sandbox.limits.output_bytes)
        return status


def _talk(engine: Engine, container: Container) -> int:
    """Join our terminal to the container's until its shell ends."""
    with engine.translated("attaching to a container"):
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        attached: Any = engine.api.attach_socket(container.id, params=params)
    with socket.socket(fileno=os.dup(attached.fileno())) as line, _raw_terminal(sys.stdin.fileno()):
        line.setblocking(True)
        container.start()
        with _following_size(engine, container):
            _join(engine, line, sys.stdin.fileno(), sys.stdout.fileno())
    with suppress(OSError):
        attached.close()
    return int(container_state(engine, container)["ExitCode"])


def _join(engine: Engine, line: socket.socket, source: int, sink: int) -> None:
    sources = [line.fileno(), source]
    while True:
        engine.check()
        ready, _, _ = select.select(sources, [], [], 1)
        if line.fileno() in ready:
            data = line.recv(1 << 16)
            if not data:
                return
            os.write(sink, data)
        if source in ready:
            data = os.read(source, 1 << 12)
            if data:
                line.sendall(data)
            else:
                sources.remove(source)


@contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _following_size(engine: Engine, container: Container) -> Iterator[None]:
    """Keep the container's terminal as large as ours."""

    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        with suppress(SandboxError), engine.translated("resizing a terminal"):
            engine.api.resize(container.id, size.lines, size.columns)

    resize()
    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
