# SPDX-License-Identifier: Apache-2.0
"""`engine.ARCH=`: the stages of an architecture run on an engine of their own, here a second dockerd on this machine."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from pipeline.sandbox.engine import LABEL_CHECKOUT, checkout_id
from tests.integration.conftest import Tiny
from tests.integration.engines import DOCKER, OwnEngine

NOWHERE = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"}
_START_SECONDS = 60
_SANDBOX_ERROR = 14


@pytest.fixture(scope="module")
def far_engine() -> Iterator[OwnEngine]:
    made = OwnEngine(DOCKER)
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture
def far(far_engine: OwnEngine) -> str:
    return far_engine.address


def context(folder: Path, name: str, address: str) -> dict[str, str]:
    """The environment in which Docker knows a context of this name."""
    meta = folder / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    data: dict[str, object] = {"Name": name, "Metadata": {}, "Endpoints": {"docker": {"Host": address, "SkipTLSVerify": False}}}
    (meta / "meta.json").write_text(json.dumps(data))
    return {"DOCKER_CONFIG": str(folder)}


def of_arm(tiny: Tiny, *, native: bool) -> None:
    """Make the tiny image one for aarch64; its stages run busybox of this machine all the same."""
    channel = tiny.folder / "pipeline/channels/lab.toml"
    line = 'native_builders = ["aarch64"]\n' if native else ""
    channel.write_text(channel.read_text().replace('["x86_64"]', '["x86_64", "aarch64"]') + line)
    recipe = tiny.folder / "pipeline/recipes/host.toml"
    recipe.write_text(recipe.read_text().replace('arch = "x86_64"', 'arch = "aarch64"'))


def test_all_stages_elsewhere(tiny: Tiny, far: str) -> None:
    """The usual engine is not there at all: lock, builder, inputs, scripts and outputs do without it."""
    said = tiny.doit(f"engine.x86_64={far}", env=NOWHERE)
    assert "done: 3 built, 0 cached" in said
    assert tiny.image == "one\ntwo\n"
    client = docker.DockerClient(base_url=far)
    label: dict[str, Any] = {"label": f"{LABEL_CHECKOUT}={checkout_id(tiny.folder)}"}
    assert client.images.list(filters=label), "the builder is there"
    assert not client.containers.list(all=True, filters=label, ignore_removed=True)
    assert not client.volumes.list(filters=label)
    client.close()
    # Where it was built is no part of a key: the same builder there and here gives the same.
    assert "nothing to do: 3 stages cached" in tiny.doit(env=NOWHERE)


def test_a_context(tiny: Tiny, far: str, tmp_path: Path) -> None:
    """By the name of a Docker context, in the channel's file; what the command line says goes before it."""
    of_arm(tiny, native=False)
    known = {**NOWHERE, **context(tmp_path / "config", "box", far)}
    channel = tiny.folder / "pipeline/channels/lab.toml"
    channel.write_text(channel.read_text() + '[engines]\naarch64 = "box"\n')
    tiny.doit(env=known)
    assert tiny.image == "one\ntwo\n"
    tiny.script("third", "true")
    said = tiny.doit("engine.aarch64=bos", env=known, status=_SANDBOX_ERROR)
    assert "engine.aarch64=bos: there is no Docker context of this name" in said
    assert "hint: docker context ls" in said
    said = tiny.doit("engine.aarch64=", env=known, status=_SANDBOX_ERROR)
    assert "no container engine at unix:///nonexistent/docker.sock" in said


def test_an_engine_of_the_wrong_architecture(tiny: Tiny, far: str) -> None:
    of_arm(tiny, native=True)
    said = tiny.doit(f"engine.aarch64={far}", env=NOWHERE, status=_SANDBOX_ERROR)
    assert f"engine.aarch64: the container engine at {far} is of architecture x86_64, not aarch64" in said


@pytest.mark.parametrize(
    ("word", "status", "message"),
    [
        ("engine.x86_64=unix:///nonexistent/far.sock", 14, "no container engine at unix:///nonexistent/far.sock"),
        ("engine.x86_64=tcp://127.0.0.1:1", 14, "the container engine at tcp://127.0.0.1:1 is not running"),
        ("engine.x86_64=ssh://box", 14, "does not speak ssh:// to an engine"),
        ("engine.armv7=box", 10, "engine.armv7=box: channel lab has no such architecture"),
    ],
)
def test_no_such_engine(tiny: Tiny, word: str, status: int, message: str) -> None:
    said = tiny.doit(word, status=status)
    assert message in said
    assert "hint: " in said


def test_the_engine_is_killed_in_the_middle_of_a_stage(tiny: Tiny, far_engine: OwnEngine) -> None:
    word = f"engine.x86_64={far_engine.address}"
    tiny.script("second", "echo begun", "echo half > /out/second", "sleep 600")
    build = tiny.start(word, env=NOWHERE)
    deadline = time.monotonic() + _START_SECONDS
    while "begun" not in "".join(log.read_text() for log in (tiny.folder / "build" / "log").glob("second.*")):
        assert build.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    far_engine.kill()
    said, _ = build.communicate(timeout=60)
    assert build.returncode == _SANDBOX_ERROR, said
    assert "Traceback" not in said, said
    assert f"the container engine at {far_engine.address}" in said
    assert tiny.artifacts("first"), "what was finished is kept"
    assert not tiny.artifacts("second")
    assert not tiny.leftovers()
    far_engine.start()
    tiny.script("second", "cat /in/first/first /src/text/second > /out/second")
    said = tiny.doit(word, env=NOWHERE)
    assert "that a killed build left" in said
    assert tiny.image == "one\ntwo\n"
    client = docker.DockerClient(base_url=far_engine.address)
    label: dict[str, Any] = {"label": f"{LABEL_CHECKOUT}={checkout_id(tiny.folder)}"}
    assert not client.containers.list(all=True, filters=label, ignore_removed=True)
    assert not client.volumes.list(filters=label)
    client.close()
