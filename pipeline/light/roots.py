# SPDX-License-Identifier: Apache-2.0
"""The roots of light machines: one file each, a file system or an archive, made of artifacts of the store.

A host's root is that of its image. The thin client's root is made here from the packages that the installer installs and
the medium's settings, without what starts a machine, and without a user.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from pipeline.base.canonical import Digest, JsonValue, digest_bytes, digest_json
from pipeline.base.errors import BootError
from pipeline.build.workplace import Workplace
from pipeline.light.parts import HOST, THINCLIENT
from pipeline.sandbox.spec import CAPABILITIES, Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from pipeline.store.artifact import Artifact

_SCRIPT: Final = Path(__file__).with_name("thinclient.sh")
_SCRIPT_SECONDS: Final = 300


class RootName(StrEnum):
    """The names of all roots."""

    HOST = "host"
    THINCLIENT = "thinclient"
    """An installed one, without the packages that start a machine and unlock its disk."""


def root_of(name: RootName, place: Workplace) -> Path:
    """Return the file that holds a root: `*.ext4` or `*.tar`. Raises BootError if the store lacks one of `NEEDED`."""
    if name is RootName.HOST:
        return _found(place, HOST)[HOST].path / "root.ext4"
    return _thinclient(place).path / "root.tar"


def _found(place: Workplace, *names: str) -> Mapping[str, Artifact]:
    """Return the artifacts of nodes of the plan. Raises BootError for those that are not built."""
    nodes = {name: place.plan.nodes.get(name) for name in names}
    found = {name: place.find(node) if node is not None else None for name, node in nodes.items()}
    there = {name: artifact for name, artifact in found.items() if artifact is not None}
    if missing := sorted(set(names) - set(there)):
        raise BootError(f"{', '.join(missing)}: not built yet", hint=f"./ci/doit {' '.join(missing)}")
    return there


def _thinclient(place: Workplace) -> Artifact:
    """Return the artifact of the thin client's root; the store keeps it under a key of its inputs, like that of a stage."""
    inputs = _found(place, *THINCLIENT.values())
    script = _SCRIPT.read_bytes()
    document: JsonValue = {
        "what": "root of a light thin client",
        "builder": place.driver.builder_key(place.lock(), place.plan.channel.builder_arch),
        "inputs": {name: artifact.key for name, artifact in inputs.items()},
        "script": digest_bytes(script),
    }
    key = digest_json(document)
    artifact = place.store.lookup(key)
    return artifact or _made(place, key, document, inputs, script)


def _made(place: Workplace, key: Digest, document: JsonValue, inputs: Mapping[str, Artifact], script: bytes) -> Artifact:
    sandbox = Sandbox(
        name="light-thinclient",
        image=place.builder(),
        argv=("sh", "/src/thinclient.sh"),
        epoch=place.plan.channel.epoch,
        inputs=(
            Input("/src", {_SCRIPT.name: script}),
            *(Input(target, inputs[name]) for target, name in THINCLIENT.items()),
        ),
        env={"TOWER_BRANCH": place.plan.channel.branch},
        capabilities=tuple(sorted(CAPABILITIES)),
        timeout=_SCRIPT_SECONDS,
    )
    with place.store.building(key, document) as work:
        if work.existing is not None:
            return work.existing
        started = time.monotonic()
        with place.log(f"light-thinclient.{key[:12]}") as log:
            outputs = run_stage(place.engine, sandbox, outputs=work.path, declared=("root.tar",), log=log)
        return work.commit(time.monotonic() - started, outputs)
