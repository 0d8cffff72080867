# SPDX-License-Identifier: Apache-2.0
"""`doit sim`: a Tower of simulated machines that keeps running until you stop it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.base import proc
from pipeline.base.canonical import JsonValue
from pipeline.base.errors import ConfigError, FactoryError
from pipeline.build.factory import Factory
from pipeline.cli.command_line import variables
from pipeline.light.roots import RootName, root_of
from pipeline.sim import running, screen, start
from pipeline.sim.plans import THIN_CLIENT

_KINDS = ("light",)


def check(factory: Factory) -> None:
    """Check that a Tower can run on this machine. Raises ConfigError for unknown kinds of machines, ToolError."""
    kind = variables().get("machines", _KINDS[0])
    if kind not in _KINDS:
        raise ConfigError(f"machines={kind}: there are no such machines", hint=f"one of: {', '.join(_KINDS)}")
    if not running.is_held(running.folder_of(factory.paths)):
        start.check_possible()


def begin(factory: Factory) -> None:
    """Start a Tower unless one runs, and list its machines (`doit sim`). Raises BootError if it does not come up."""
    folder = running.folder_of(factory.paths)
    if running.read(folder) is None:
        roots = {name.value: root_of(name, factory) for name in RootName}
        # A channel whose mirror is elsewhere has none that the simulated Internet could serve.
        mirror = factory.driver.mirror
        start.start(folder, factory.paths.checkout, roots, mirror.folder if mirror else None, factory.progress.say)
    else:
        factory.progress.say("sim: a Tower is already running")
    _list(factory, running.need(folder))
    if not factory.progress.json:
        factory.progress.say("sim: ./ci/doit sim:ssh thinclient, then tower status; ./ci/doit sim:stop ends it")


def status(factory: Factory) -> None:
    """List the machines of the running Tower (`doit sim:status`). Raises BootError if there is none."""
    _list(factory, running.need(running.folder_of(factory.paths)))


def _list(factory: Factory, found: running.TowerState) -> None:
    for row in found.machines:
        shown = f"{row.name:<12} {row.role or 'elsewhere':<12} {'on' if row.on else 'off':<4} {', '.join(row.addresses)}"
        data: dict[str, JsonValue] = {"machine": row.name, "role": row.role, "on": row.on}
        data |= {"addresses": list(row.addresses), "pid": row.pid}
        factory.progress.result("sim", {"kind": found.kind, **data}, [shown])


def ssh(factory: Factory, words: Sequence[str]) -> None:
    """Run a session or a command on a machine, on this terminal (`doit sim:ssh MACHINE [COMMAND...]`).

    Raises FactoryError, with the command's exit status, if that is not 0.
    """
    argv = start.words_of(running.need(running.folder_of(factory.paths)), words)
    if status := proc.on_terminal(argv):
        raise FactoryError(f"sim:ssh: {words[0]}: exit status {status}")


def show(factory: Factory, words: Sequence[str]) -> None:
    """Write a picture of the thin client's desktop as PNG, after starting the desktop (`doit sim:screen thinclient [FILE]`).

    Raises ConfigError if that machine has no screen or the file cannot be written, BootError if no desktop starts.
    """
    folder = running.folder_of(factory.paths)
    found = running.need(folder)
    if not words or len(words) > 2:
        raise ConfigError("sim:screen: the machine is missing", hint=f"./ci/doit sim:screen {THIN_CLIENT} [FILE.png]")
    row = found.row(words[0])
    if row.name != THIN_CLIENT:
        raise ConfigError(f"sim:screen: {row.name} has no screen", hint=f"./ci/doit sim:screen {THIN_CLIENT}")
    if not screen.session(row.pid):
        factory.progress.say("sim: starting the desktop")
        screen.start_desktop(row.pid)
    path = Path(words[1]) if len(words) > 1 else folder / "screen.png"
    data = screen.picture(row.pid)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"sim:screen: {path}: {error.strerror}", hint="name another file") from error
    factory.progress.result("sim:screen", {"file": str(path)}, [str(path)])


def stop(factory: Factory) -> None:
    """End the running Tower, if there is one, and remove everything of it (`doit sim:stop`)."""
    was_there = running.stop(running.folder_of(factory.paths))
    factory.progress.say("sim: the Tower has ended" if was_there else "sim: no Tower is running")
    factory.progress.result("sim:stop", {"was_running": was_there})
