# SPDX-License-Identifier: Apache-2.0
"""Stages that fail, are killed, or write where they may not: a clear error, nothing lost, and on it goes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from pipeline.sandbox.engine import LABEL_CHECKOUT, checkout_id
from tests.integration.conftest import Tiny

STAGE_ERROR = 15
INTERRUPTED = 130


def containers(tiny: Tiny) -> list[str]:
    """Containers that the builds of this checkout have in the engine."""
    label = f"{LABEL_CHECKOUT}={checkout_id(tiny.folder)}"
    # docker-py asks for each that it lists; meanwhile a build may have removed one.
    found = docker.from_env().containers.list(all=True, filters={"label": label}, ignore_removed=True)
    return [str(one.id) for one in found]


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def log_of(tiny: Tiny, stage: str) -> str:
    """What the stage's last build wrote."""
    return "".join(path.read_text() for path in (tiny.folder / "build" / "log").glob(f"{stage}.*.log"))


# Lines of a stage's script: it says that it has begun, and goes on when `release` lets it.
HOLD = ("echo begun", "while [ ! -e /out/go ]; do sleep 0.1; done", "rm /out/go", "echo released")


def release(tiny: Tiny) -> None:
    """Let the one stage of this checkout go on that HOLD holds."""
    engine = docker.from_env()
    results = [engine.containers.get(one).exec_run(["touch", "/out/go"]) for one in containers(tiny)]
    assert [result.exit_code for result in results] == [0], results


def test_a_build_and_a_second_one(tiny: Tiny) -> None:
    said = tiny.doit()
    assert tiny.image == "one\ntwo\n"
    for stage in ("first", "second", "third"):
        assert re.search(rf"^{stage} .*\bbuilt\b", said, re.MULTILINE), said
        assert f"{stage} works" in log_of(tiny, stage)
    before = os.times()
    again = tiny.doit()
    after = os.times()
    # Of the processor: what else the machine does at the time is not its fault.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 1.5
    assert "built" not in again.partition("\n")[0]
    assert not containers(tiny)
    # An edit rebuilds what it reaches, and nothing else.
    tiny.write("text/second", "zwei\n")
    edited = tiny.doit()
    assert tiny.image == "one\nzwei\n"
    assert re.search(r"^first .*\bcached\b", edited, re.MULTILINE), edited


def test_a_stage_that_fails(tiny: Tiny) -> None:
    tiny.script(
        "second",
        "seq() { i=1; while [ $i -le 50 ]; do echo line $i; i=$((i + 1)); done; }",
        "seq",
        "echo half > /out/second",
        "exit 7",
    )
    said = tiny.doit(status=STAGE_ERROR)
    assert "stage:second: exit status 7" in said
    assert "line 50" in said
    assert "line 21" in said
    assert "line 20\n" not in said, "the last 30 lines, no more"
    (log,) = re.findall(r"whole log: (\S+)", said)
    (replay,) = re.findall(r"replay: (.+)", said)
    assert "line 1\n" in Path(log).read_text()
    assert "third" not in said.replace("third works", ""), "what waits for it is not tried"
    assert tiny.artifacts("first")
    assert not tiny.artifacts("second")
    assert not tiny.leftovers()
    # The command that was shown runs the script again.
    assert replay.startswith("./ci/doit ")
    assert "line 50" in tiny.doit(*replay.split()[1:], status=STAGE_ERROR)
    # Mended, it goes on where it was.
    tiny.script("second", "cat /in/first/first /src/text/second > /out/second")
    assert re.search(r"^first .*\bcached\b", tiny.doit(), re.MULTILINE)
    assert tiny.image == "one\ntwo\n"


def test_the_other_stages_of_a_failed_run_are_kept(tiny: Tiny) -> None:
    tiny.script("third", "exit 1")
    tiny.doit(status=STAGE_ERROR)
    assert tiny.artifacts("second")
    assert not list((tiny.folder / "dist").iterdir()), "no image of an unfinished build"


def test_a_stage_that_overruns_its_time(tiny: Tiny) -> None:
    declaration = tiny.folder / "stages/second/stage.toml"
    declaration.write_text(declaration.read_text().replace("timeout = 60", "timeout = 2"))
    tiny.script("second", "echo busy", "sleep 60")
    said = tiny.doit(status=STAGE_ERROR)
    assert "stage:second: not finished after 2 s" in said
    assert not containers(tiny)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("echo x > /etc/passwd", "Read-only file system"),
        ("echo x > /in/first/first", "Read-only file system"),
        ("echo x > /stage/run.sh", "Read-only file system"),
        ("echo x > /out/surprise", "surprise"),
        ("mkdir -p /out/a/b; echo x > /out/a/b/c", "a"),
        ("ln -s /etc/passwd /out/link", "link"),
        ("rm /out/second; ln -s ../../../etc/passwd /out/second", "second"),
        ("rm /out/second; mkfifo /out/second", "second"),
        ("rm /out/second", "second"),
        ("rm /out/second; mkdir /out/second", "second"),
    ],
)
def test_a_stage_that_writes_where_it_may_not(tiny: Tiny, line: str, message: str) -> None:
    tiny.script("second", "cat /in/first/first > /out/second", line)
    said = tiny.doit("stage:second", status=STAGE_ERROR)
    assert "stage:second" in said
    assert message in said
    assert not tiny.artifacts("second")
    assert not tiny.leftovers()


def test_a_stage_has_no_network_and_no_privileges(tiny: Tiny) -> None:
    tiny.script(
        "second",
        "ls /sys/class/net > /out/second",
        "while read -r name value; do",
        "case $name in CapEff:|NoNewPrivs:) echo $name $value >> /out/second ;; esac",
        "done < /proc/self/status",
    )
    tiny.doit("stage:second")
    (output,) = tiny.artifacts("second")
    assert output.read_text().split() == ["lo", "CapEff:", "0000000000000000", "NoNewPrivs:", "1"]


def test_a_container_that_is_killed(tiny: Tiny) -> None:
    tiny.script("second", "echo begun", "sleep 60")
    build = tiny.start()
    wait_for(lambda: "begun" in log_of(tiny, "second"))
    for one in containers(tiny):
        docker.from_env().containers.get(one).kill(signal="SIGKILL")
    said, _ = build.communicate(timeout=60)
    assert build.returncode == STAGE_ERROR, said
    assert "signal 9" in said
    assert not containers(tiny)


def test_a_build_that_is_killed(tiny: Tiny) -> None:
    tiny.script("second", "echo begun", "echo half > /out/second", "sleep 60")
    build = tiny.start()
    wait_for(lambda: "begun" in log_of(tiny, "second"))
    os.killpg(build.pid, signal.SIGKILL)
    build.communicate(timeout=60)
    assert containers(tiny), "its container outlives it"
    assert not tiny.artifacts("second")
    tiny.script("second", "cat /in/first/first /src/text/second > /out/second")
    said = tiny.doit()
    assert "that a killed build left" in said
    assert tiny.image == "one\ntwo\n"
    assert not containers(tiny)
    tiny.doit("gc")
    assert not tiny.leftovers()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_that_is_interrupted(tiny: Tiny, number: signal.Signals) -> None:
    tiny.script("second", "echo begun", "sleep 60")
    build = tiny.start()
    wait_for(lambda: "begun" in log_of(tiny, "second"))
    os.kill(build.pid, number)
    said, _ = build.communicate(timeout=30)
    assert build.returncode in {INTERRUPTED, 128 + number}, said
    assert "Traceback" not in said, said
    assert not containers(tiny)
    assert not tiny.leftovers()
    assert tiny.artifacts("first")
