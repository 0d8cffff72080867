# SPDX-License-Identifier: Apache-2.0
"""Run one stage again to watch it: with its output on the terminal, or with a shell in its sandbox.

The sandbox is that of the build, including inputs, options and capabilities; the outputs are thrown away.
"""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tower.base.ready import readable

from pipeline.base.errors import ConfigError, StageError
from pipeline.base.progress import Screen
from pipeline.base.scratch import temporary_folder
from pipeline.build.execution import StageRun, sandbox_of
from pipeline.sandbox.container import Container, opened
from pipeline.sandbox.stage_run import run_stage
from pipeline.store.artifact import outputs_json

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine

_CHUNK = 1 << 16


def replay(run: StageRun, *, shell: bool) -> None:
    """Run a stage's script again, or a shell in its place. Raises StageError if the script fails."""
    node, place, sandbox = run.node, run.place, sandbox_of(run)
    engine, screen = place.engine_for(node.arch), place.progress
    if shell:
        screen.end("replay")
        screen.say(f"{node.name}: its script is: {' '.join(node.spec.command)}; inputs are in /in and /src, it writes to /out")
        with opened(engine, replace(sandbox, argv=("sh",)), terminal=True) as container:
            _talk(engine, container)
        return
    # On the store's disk: outputs may be large, and /tmp may be in memory.
    place.paths.build.mkdir(parents=True, exist_ok=True)
    with temporary_folder("replay", place.paths.build) as folder:
        made = folder / "out"
        made.mkdir()
        try:
            outputs = run_stage(engine, sandbox, outputs=made, declared=node.spec.outputs, log=screen.output)
        except StageError as error:
            # Its last lines are on the terminal already.
            raise StageError(error.message.splitlines()[0], hint="with shell=1 you get a shell in its place") from error
        finally:
            screen.output.flush()
    for name, record in sorted(outputs.items()):
        screen.say(f"{name}: {record.size} bytes, sha256 {record.sha256[:12]}")
    screen.result("replay", {"stage": node.name, "outputs": outputs_json(outputs)})


def check_terminal(screen: Screen) -> None:
    """Raise ConfigError if a shell would have no terminal, or would have to share it with JSON."""
    if screen.json:
        raise ConfigError("shell=1: a shell takes the terminal, and json=1 keeps it for JSON", hint="leave one of them out")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("shell=1: there is no terminal here", hint="without shell=1 the script runs and its output is shown")


def _talk(engine: Engine, container: Container) -> None:
    """Connect this terminal to the container's until its shell ends."""
    attached = container.attach(stdin=1, stdout=1, stderr=1)
    stream = getattr(attached, "_sock", attached)
    container.start()
    size = os.get_terminal_size(sys.stdout.fileno())
    with suppress(Exception), engine.translated("telling the size of the terminal"):
        engine.api.resize(container.id, height=size.lines, width=size.columns)
    try:
        with _raw(sys.stdin.fileno()):
            _relay(stream)
    finally:
        attached.close()


def _relay(stream: Any) -> None:
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    sources = [stream, keyboard]
    while True:
        ready = readable(sources)
        if stream in ready:
            data = stream.recv(_CHUNK)
            if not data:
                return
            while data:
                data = data[os.write(screen, data) :]
        if keyboard in ready:
            typed = os.read(keyboard, _CHUNK)
            if typed:
                stream.sendall(typed)
            else:
                sources.remove(keyboard)


@contextmanager
def _raw(keyboard: int) -> Iterator[None]:
    """Pass every key to the container, including Ctrl-C; restore the terminal at the end."""
    before = termios.tcgetattr(keyboard)
    try:
        tty.setraw(keyboard)
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
