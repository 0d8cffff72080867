# SPDX-License-Identifier: Apache-2.0
"""json=1: stdout holds JSON objects, a line each, and nothing else, whatever the command and however it ends."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.integration.conftest import Tiny

Events = list[dict[str, Any]]
_LIMIT = 180


def run(tiny: Tiny, *words: str, status: int = 0) -> Events:
    """The events of a run of the real command; all other words are on stderr."""
    done = subprocess.run(
        tiny.command("json=1", *words),
        env=tiny.environment,
        cwd=tiny.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert done.returncode == status, f"{words}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(isinstance(event, dict) and event["event"] in ("task", "result", "error", "end") for event in events)
    return events


def result(tiny: Tiny, *words: str, status: int = 0) -> dict[str, Any]:
    """The one result of a command, which ends with the events of its task and of the run."""
    events = run(tiny, *words, status=status)
    command = words[0]
    found = [event for event in events if event["event"] == "result"]
    assert [event["command"] for event in found] == [command]
    assert events[-1]["event"] == "end"
    assert next(event for event in events if event["event"] == "task" and event["name"] == command)["state"] == (
        "failed" if status else "done"
    )
    return found[0]


def test_results(tiny: Tiny) -> None:
    assert result(tiny, "lock")["changes"] == ["first lock: 0 files"]
    assert len(result(tiny, "builder")["key"]) == 64
    events = run(tiny)
    assert [event["state"] for event in events if event["event"] == "task" and event["name"] == "third"] == ["built"]
    assert events[-1] | {"seconds": 0} == {
        "event": "end", "interrupted": False, "failed": [], "built": 3, "pulled": 0, "cached": 0, "seconds": 0,
    }  # fmt: skip
    tiny.write("text/first", "another line\n")
    stages = {event["stage"]: event for event in run(tiny, "explain") if event["event"] == "result"}
    assert (stages["stage:first"]["state"], stages["stage:third"]["state"]) == ("unbuilt", "unknown")
    assert stages["stage:first"]["differences"] == ["text/first: changed"]
    run(tiny)
    assert result(tiny, "replay", "stage=first")["outputs"]["first"]["size"] == len("another line\n")
    found = result(tiny, "gc", "size=0")
    assert (len(found["removed"]) > 0, found["freed"] > 0) == (True, True)
    assert result(tiny, "vault:export", f"file={tiny.folder}/vault.tar")["files"] == 0
    assert result(tiny, "vault:import", f"file={tiny.folder}/vault.tar")["files"] == 0
    assert result(tiny, "vault:gc")["removed"] == 0
    assert run(tiny, "fetch")[-1]["event"] == "end"


def test_results_of_what_builds_again(tiny: Tiny) -> None:
    assert result(tiny, "audit:lock")["uncovered"] == 0
    found = result(tiny, "verify:reproducible")
    assert (found["differing"], found["compared"] > 3) == (0, True)


def test_results_of_tests(tiny: Tiny) -> None:
    tiny.write("test_one.py", "def test_right():\n    print('loud')\n\n\ndef test_wrong():\n    assert 1 == 2\n")
    found = result(tiny, "test", "test_one.py", status=1)
    assert (found["exit_status"], found["tests"], found["failures"]) == (1, 2, 1)
    found = result(tiny, "test", "-k", "right", "test_one.py")
    assert (found["exit_status"], found["tests"], found["failures"]) == (0, 1, 0)


ERRORS = (
    (("explain", "nothing"), 10, "there is no such stage"),
    (("gc", "size=much"), 10, "size=much"),
    (("replay", "stage=none"), 10, "matches 0 stages"),
    (("replay", "stage=first", "shell=1"), 10, "json=1 keeps it"),
    (("release",), 10, "version= is missing"),
    (("attest",), 10, "key= is missing"),
    (("verify:release", "dir=x"), 10, "no key to trust"),
    (("verify:release", "dir=x", "key=y"), 10, "key=:"),
    (("cache:push",), 10, "cache= is missing"),
    (("audit:elf",), 15, "is not built"),
    (("boot:host-pc",), 15, "exit status 3"),
    (("vault:export",), 10, "which file?"),
    (("target=none",), 10, "there is no such target"),
    (("unknown=1",), 10, "there is no such variable"),
)


def test_errors(tiny: Tiny) -> None:
    tiny.script("third", "echo loud", "exit 3")
    for words, status, said in ERRORS:
        events = run(tiny, *words, status=status)
        (failed,) = (event for event in events if event.get("exit_status"))
        assert failed["exit_status"] == status, words
        assert said in failed["error"], words
