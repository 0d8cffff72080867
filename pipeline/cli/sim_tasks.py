# SPDX-License-Identifier: Apache-2.0
"""The tasks of `doit sim`. Their functions (sim.py) load light machines and the engine, so they are loaded when one runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline.build.factory import Factory
from pipeline.cli.report import TaskRow
from pipeline.cli.tasks import Task, task
from pipeline.light.parts import NEEDED


def all_tasks(factory: Factory) -> Iterator[Task]:
    """Yield the tasks of `doit sim`."""
    # Before anything is built for it.
    yield task("_sim-possible", partial(_run, "check", factory), doc="check that a Tower can run on this machine")
    needs = ["_sim-possible", *(name for name in NEEDED if name in factory.plan.nodes)]
    doc = "start a Tower of light machines that keeps running (machines=light)"
    yield task("sim", partial(_run, "begin", factory), doc=doc, row=TaskRow("sim"), needs=needs)
    yield task("sim:status", partial(_run, "status", factory), doc="list the machines of the running Tower")
    doc = "open a session on a machine of the Tower, or run a command there: MACHINE [COMMAND...]"
    yield task("sim:ssh", partial(_run, "ssh", factory), doc=doc, arguments=True)
    doc = "take a picture of a machine's screen: thinclient [FILE.png]"
    yield task("sim:screen", partial(_run, "show", factory), doc=doc, arguments=True)
    yield task("sim:stop", partial(_run, "stop", factory), doc="end the running Tower")


def _run(name: str, *given: object) -> None:
    from pipeline.cli import sim

    getattr(sim, name)(*given)
