# SPDX-License-Identifier: Apache-2.0
"""One run of a stage's script: the sandbox for a node of the plan.

This is the only module between the plan and the container engine; it is imported when a stage is really run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.base.canonical import digest_json
from pipeline.base.errors import ConfigError
from pipeline.config.channel import Channel
from pipeline.config.stage import LIBRARY
from pipeline.plan.keys import Keyed, environment_of, options_of, plain
from pipeline.plan.nodes import Settings, StageNode, is_folder
from pipeline.sandbox.container import ImageGoneError
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from pipeline.store.artifact import Artifact, FileRecord

if TYPE_CHECKING:
    from pipeline.build.workplace import Workplace


@dataclass(frozen=True, slots=True)
class StageRun:
    """A stage that is about to run; all of its inputs are built."""

    place: Workplace
    node: StageNode
    keyed: Keyed
    artifacts: Mapping[str, Artifact]
    """The artifacts of other nodes that it reads, by the names of its inputs."""
    clock: str = ""
    """Seconds added to the clock that its programs see (`+86400`); not part of any key."""


def run_node(run: StageRun, output: Path, log: BinaryIO, log_path: Path) -> Mapping[str, FileRecord]:
    """Run the stage's script in the builder, and bring its outputs into `output`, checked against stage.toml.

    `log` takes the script's output; `log_path`, where that is kept, is named in errors. Returns the records of files that
    are known already, for the store. Raises StageError, SandboxError, DamagedError.
    """
    hint = f"whole log: {log_path}\n  replay: {replay_command(run.place, run.node)}"
    engine = run.place.engine_for(run.node.arch)

    def run_it() -> Mapping[str, FileRecord]:
        return run_stage(engine, sandbox_of(run), outputs=output, declared=run.node.spec.outputs, log=log, hint=hint)

    try:
        return run_it()
    except ImageGoneError as error:
        # Between two stages nothing holds the builder: another checkout's build, or a cleaning of the engine, removed it.
        run.place.progress.say(f"{error.message}; it is made again")
        run.place.forget_builder(run.node.arch)
        return run_it()


def replay_command(place: Workplace, node: StageNode) -> str:
    """Return the command that runs just this node's script again, with its output on the terminal."""
    words = [f"./ci/doit replay stage={node.name.removeprefix('stage:')}"]
    return " ".join([*words, *(word for word in place.plan.settings.words if word not in Settings().words)])


def sandbox_of(run: StageRun) -> Sandbox:
    """Return the sandbox for the stage's script; make the builder if it is missing."""
    place, node = run.place, run.node
    return Sandbox(
        name=node.name,
        image=place.builder(node.arch),
        argv=node.spec.command,
        epoch=place.plan.channel.epoch,
        inputs=tuple(inputs_of(run)),
        env={
            **environment_of(options_of(node, place.plan, place.driver, place.lock)),
            **other_clock(place.plan.channel, run.clock),
        },
        capabilities=node.spec.capabilities,
        secrets={name: place.driver.signing_key()[1] for name in node.spec.secrets},
        timeout=float(node.spec.timeout),
        architecture=place.plan.builder_arch(node.arch),
    )


def other_clock(channel: Channel, ahead: str) -> dict[str, str]:
    """Return variables that move the clock of programs in the builder by `ahead` seconds (`+86400`); none for "".

    Raises ConfigError.
    """
    if not ahead:
        return {}
    if not channel.faketime:
        raise ConfigError(
            f"clock={ahead}: the builder of {channel.name} has no libfaketime",
            hint=f"{channel.path.name}: `faketime` says where it is",
        )
    return {"LD_PRELOAD": channel.faketime, **shifted(ahead)}


def time_in_sandbox(place: Workplace, ahead: str, scratch: Path) -> int:
    """Return the time of the builder's `date` under `other_clock`: seconds since 1970.

    `scratch` is an empty folder. Raises SandboxError, StageError.
    """
    arch = place.plan.channel.builder_arch
    sandbox = Sandbox(
        name="clock",
        image=place.builder(arch),
        argv=("sh", "-c", "date +%s >/out/now"),
        epoch=place.plan.channel.epoch,
        env=other_clock(place.plan.channel, ahead),
        architecture=arch,
    )
    with scratch.with_suffix(".log").open("wb") as log:
        run_stage(place.engine_for(arch), sandbox, outputs=scratch, declared=("now",), log=log)
    return int((scratch / "now").read_text())


def shifted(ahead: str) -> dict[str, str]:
    """Return libfaketime's settings: waiting uses the monotonic clock, and times of files are not changed."""
    return {"FAKETIME": ahead, "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}


def inputs_of(run: StageRun) -> list[Input]:
    """Return everything that the script reads, with its places in the sandbox; sources with the digests of the key."""
    place, node = run.place, run.node
    options = {name: plain(value) for name, value in options_of(node, place.plan, place.driver, place.lock).items()}
    found = [Input("/stage-options", {"options.json": json.dumps(options, sort_keys=True, indent=1).encode()})]
    own, library = f"stages/{node.spec.name}", f"stages/{LIBRARY}"
    for path, rows in run.keyed.trees.items():
        target = {own: "/stage", library: "/stagelib"}.get(path, f"/src/{path}")
        found.append(Input(target, place.paths.checkout / path, digest_json([list(row) for row in rows])))
    for name, source in node.inputs.items():
        if is_folder(place.plan.nodes[source]):
            found.append(Input(f"/in/{name}", place.driver.aports(), place.keys.content(source)))
        else:
            found.append(Input(f"/in/{name}", run.artifacts[name]))
    return found
