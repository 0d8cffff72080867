# SPDX-License-Identifier: Apache-2.0
"""Podman, as root and rootless, and rootless Docker do what the usual engine does, from the builder's import on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import StageError
from pipeline.sandbox.engine import Engine
from pipeline.sandbox.place import find_place
from pipeline.sandbox.spec import Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input
from tests.integration.conftest import Tiny
from tests.integration.engines import DOCKER_ROOTLESS, PODMAN, PODMAN_ROOTLESS, OwnEngine
from tests.integration.sandbox.conftest import busybox_tar, left_in

_SCRIPT = """
env | sort | grep -E '^(TERM|container|HOME|TOWER_A)='
stat -c '%n %a %u %g %Y %s' /in /in/a /in/a/x /src /src/tree /src/tree/run
/src/tree/run; sha256sum </run/secrets/key
grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status
touch /work/x; chown 1:2 /work/x; stat -c %u:%g /work/x
for place in /in/x /src/tree/run /run/secrets/key /etc/x /x; do (echo >$place) 2>/dev/null && echo $place; done
nc -w 3 192.0.2.1 80 </dev/null 2>&1 || cp /in/a/x /out/x
"""
_SEEN = f"""
HOME=/tmp/home
TERM=dumb
TOWER_A=1
container=oci
/in 755 0 0 1000000000
/in/a 755 0 0 1000000000
/in/a/x 644 0 0 1000000000 5
/src 755 0 0 1000000000
/src/tree 755 0 0 1000000000
/src/tree/run 755 0 0 1000000000 23
it runs
{digest_bytes(b"sesame")}  -
CapBnd:\t0000000000000001
NoNewPrivs:\t1
Seccomp:\t2
1:2
nc: can't connect to remote host (192.0.2.1): Network is unreachable
"""


@pytest.fixture(scope="module", params=[PODMAN, PODMAN_ROOTLESS, DOCKER_ROOTLESS])
def own(request: pytest.FixtureRequest) -> Iterator[OwnEngine]:
    made = OwnEngine(request.param)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def test_a_whole_build(tiny: Tiny, own: OwnEngine) -> None:
    here = {"DOCKER_HOST": own.address}
    assert "done: 3 built, 0 cached" in tiny.doit(env=here)
    assert tiny.image == "one\ntwo\n"
    assert "nothing to do: 3 stages cached" in tiny.doit(env=here)
    said = tiny.doit("verify:reproducible", env=here)
    assert "compared, 0 differ" in said
    engine = Engine(tiny.folder, place=find_place(own.address, "engine.x86_64"))
    assert own.kind.partition("-")[0].capitalize() in engine.ping()
    assert left_in(engine) == []


def test_a_stage_sees_what_it_sees_on_the_usual_engine(own: OwnEngine, tmp_path: Path) -> None:
    engine = Engine(tmp_path, place=find_place(own.address, "engine.x86_64"))
    image = engine.import_image([busybox_tar()], "localhost/tower-test-kinds:one", labels={"tower.builder": "one"})
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "run").write_text("#!/bin/sh\necho it runs\n")
    (tmp_path / "tree" / "run").chmod(0o700)
    sandbox = Sandbox(
        "test", image, ("sh", "-c", _SCRIPT), epoch=1_000_000_000, env={"TOWER_A": "1"}, capabilities=("CHOWN",), timeout=60,
        inputs=(Input("/in/a", {"x": b"bytes"}), Input("/src/tree", tmp_path / "tree")), secrets={"key": b"sesame"},
    )  # fmt: skip
    log, outputs = io.BytesIO(), tmp_path / "out"
    outputs.mkdir()
    found = run_stage(engine, sandbox, outputs=outputs, declared=("x",), log=log)
    # The size of a folder is the file system's.
    said = [line.removesuffix(" 4096") for line in log.getvalue().decode().splitlines()]
    assert said == _SEEN.strip().splitlines()
    assert found["x"].sha256 == digest_bytes(b"bytes")
    missing = Sandbox("test", image, ("/stage/missing",), epoch=0)
    with pytest.raises(StageError, match=r"its command is not in the builder.*/stage/missing"):
        run_stage(engine, missing, outputs=outputs, declared=(), log=log)
    assert left_in(engine) == []
    assert engine.remove_images("tower.builder", keep=["localhost/tower-test-kinds:one"]) == 0
    assert engine.remove_images("tower.builder", name="localhost/tower-test-kinds") == 1
    assert engine.find_image("localhost/tower-test-kinds:one") is None
