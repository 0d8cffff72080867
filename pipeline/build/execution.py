# SPDX-License-Identifier: Apache-2.0
"""One run of a stage's script: what the sandbox is given for a node of the plan.

The only module between the plan and the container engine; imported when a stage is really run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pipeline.base.canonical import digest_json
from pipeline.base.errors import ConfigError
from pipeline.config.channel import Channel
from pipeline.config.stage import LIBRARY
from pipeline.plan.keys import Keyed, environment_of, options_of, plain
from pipeline.plan.nodes import Settings, StageNode, is_folder
from pipeline.sandbox.stage_run import Sandbox, run_stage
from pipeline.sandbox.transfer import Input
from pipeline.store.artifact import FileRecord

if TYPE_CHECKING:
    from pipeline.build.factory import Factory


def run_node(factory: Factory, node: StageNode, keyed: Keyed, output: Path, log: BinaryIO) -> Mapping[str, FileRecord]:
    """Run the script of `node` in the builder and bring what it made into `output`, checked against stage.toml.

    Returns what is known of the files already, for the store.
    """
    hint = f"whole log: {factory.log_path(node, keyed.key)}\n  replay: {replay_command(factory, node)}"
    return run_stage(
        factory.engine_for(node.arch),
        sandbox_of(factory, node, keyed),
        outputs=output,
        declared=node.spec.outputs,
        log=log,
        hint=hint,
    )


def replay_command(factory: Factory, node: StageNode) -> str:
    """What to type to run just this node's script again, with its output on the terminal."""
    words = [f"./ci/doit replay stage={node.name.removeprefix('stage:')}"]
    return " ".join([*words, *(word for word in factory.plan.settings.words if word not in Settings().words)])


def sandbox_of(factory: Factory, node: StageNode, keyed: Keyed) -> Sandbox:
    """The sandbox that the script of `node` runs in."""
    return Sandbox(
        name=node.name,
        image=factory.builder(node.arch),
        argv=node.spec.command,
        epoch=factory.plan.channel.epoch,
        inputs=tuple(inputs_of(factory, node, keyed)),
        env={
            **environment_of(options_of(node, factory.plan, factory.driver)),
            **other_clock(factory.plan.channel, factory.clock),
        },
        capabilities=node.spec.capabilities,
        secrets={name: factory.driver.signing_key()[1] for name in node.spec.secrets},
        timeout=float(node.spec.timeout),
        architecture=factory.plan.builder_arch(node.arch),
    )


def other_clock(channel: Channel, ahead: str) -> dict[str, str]:
    """Variables that move the clock of programs in the builder by `ahead` seconds (`+86400`); none for ""."""
    if not ahead:
        return {}
    if not channel.faketime:
        raise ConfigError(
            f"clock={ahead}: the builder of {channel.name} has no libfaketime",
            hint=f"{channel.path.name}: `faketime` says where it is",
        )
    return {"LD_PRELOAD": channel.faketime, **shifted(ahead)}


def time_in_sandbox(factory: Factory, ahead: str, scratch: Path) -> int:
    """What the builder's `date` says under `other_clock`: seconds since 1970.

    `scratch` is an empty folder. Raises SandboxError, StageError.
    """
    arch = factory.plan.channel.builder_arch
    sandbox = Sandbox(
        name="clock",
        image=factory.builder(arch),
        argv=("sh", "-c", "date +%s >/out/now"),
        epoch=factory.plan.channel.epoch,
        env=other_clock(factory.plan.channel, ahead),
        architecture=arch,
    )
    with scratch.with_suffix(".log").open("wb") as log:
        run_stage(factory.engine_for(arch), sandbox, outputs=scratch, declared=("now",), log=log)
    return int((scratch / "now").read_text())


def shifted(ahead: str) -> dict[str, str]:
    """What libfaketime is told: waiting goes by the monotonic clock, and what files say of their age is left alone."""
    return {"FAKETIME": ahead, "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}


def inputs_of(factory: Factory, node: StageNode, keyed: Keyed) -> list[Input]:
    """Everything that the script of `node` reads, at the places it knows; sources with the digests of the key."""
    options = {name: plain(value) for name, value in options_of(node, factory.plan, factory.driver).items()}
    found = [Input("/stage-options", {"options.json": json.dumps(options, sort_keys=True, indent=1).encode()})]
    own, library = f"stages/{node.spec.name}", f"stages/{LIBRARY}"
    for path, rows in keyed.trees.items():
        target = {own: "/stage", library: "/stagelib"}.get(path, f"/src/{path}")
        found.append(Input(target, factory.paths.checkout / path, digest_json([list(row) for row in rows])))
    for name, source in node.inputs.items():
        needed = factory.plan.nodes[source]
        if is_folder(needed):
            found.append(Input(f"/in/{name}", factory.driver.aports(), factory.keys.content(source)))
        else:
            found.append(Input(f"/in/{name}", factory.need(needed).artifact))
    return found
