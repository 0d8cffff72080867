# SPDX-License-Identifier: Apache-2.0
"""The task graph, for doit. `./ci/doit list` shows what there is; pipeline/cli/tasks.py makes every task.

Variables: channel=lab, target=rpi|pc, compress=zstd|xz|none, apk-format=2|3, engine.ARCH=CONTEXT|ADDRESS,
cache=HOST/REPOSITORY, cache-key=KEY, json=1.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from pipeline.cli import command_line, commands, tasks, typo

FACTORY = command_line.open_factory(Path(__file__).resolve().parent)
DOIT_CONFIG = command_line.config(FACTORY)


def task_thinclient() -> Iterator[tasks.Task]:
    """Build the ISO of the thin client"""
    yield from tasks.image_tasks(FACTORY, "thinclient", "build the ISO of the thin client")


def task_host() -> Iterator[tasks.Task]:
    """Build the disk images of the hosts"""
    yield from tasks.image_tasks(FACTORY, "host", "build the disk images of hosts (target= chooses one)")


def task_stages() -> Iterator[tasks.Task]:
    """One stage and what it needs"""
    yield from tasks.stage_tasks(FACTORY)


def task_channel() -> Iterator[tasks.Task]:
    """What the channel gives"""
    yield from tasks.channel_tasks(FACTORY)


def task_commands() -> Iterator[tasks.Task]:
    """Commands beside building"""
    yield from commands.all_tasks(FACTORY)


typo.explain_unknown(lambda: chain(task_thinclient(), task_host(), task_stages(), task_channel(), task_commands()))
