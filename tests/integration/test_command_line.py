# SPDX-License-Identifier: Apache-2.0
"""What a user types at ./ci/doit and at plain doit: words that name nothing, and a second run with nothing to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping

import pytest

from tests.integration.conftest import Tiny


def plain_doit(tiny: Tiny, *args: str) -> subprocess.CompletedProcess[str]:
    argv = [str(tiny.folder / ".venv" / "bin" / "doit"), *args]
    return subprocess.run(argv, env=tiny.environment, cwd=tiny.folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [("hsot",), ("list", "hsot"), ("run", "hsot"), ("clean", "hsot"), ("compress=none", "hsot")])
def test_a_mistyped_task(tiny: Tiny, words: tuple[str, ...]) -> None:
    said = tiny.doit(*words, status=3)
    assert "hsot: there is no such task" in said
    assert "did you mean host" in said
    assert "./ci/doit list shows all tasks" in said
    assert 'Type "' not in said


def test_a_mistyped_task_of_plain_doit(tiny: Tiny) -> None:
    done = plain_doit(tiny, "hsot")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.splitlines()[0] == "ERROR: hsot: there is no such task"
    assert "did you mean host" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_doit_lists_the_tasks(tiny: Tiny) -> None:
    done = plain_doit(tiny, "list")
    assert done.returncode == 0, done.stderr
    assert {"host", "gc", "test"} <= {line.split()[0] for line in done.stdout.splitlines() if line}


def processor_seconds(tiny: Tiny) -> tuple[float, str]:
    """Seconds of the processor that ./ci/doit takes, its children included, and what it says."""
    before = os.times()
    said = tiny.doit()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system, said


def test_a_second_run_has_nothing_to_do_and_is_quick(tiny: Tiny) -> None:
    """In seconds of the processor, best of three: what else the machine does at the time is not its fault."""
    tiny.doit()
    taken = [processor_seconds(tiny) for _ in range(3)]
    assert all("nothing to do" in said for _, said in taken), taken[0][1]
    assert min(seconds for seconds, _ in taken) < 2


def test_the_next_replay_removes_the_remains_of_a_killed_one(tiny: Tiny) -> None:
    tiny.doit("lock")
    tiny.script("first", "sleep 60")
    killed = tiny.start("replay", "stage=first")
    try:
        deadline = time.monotonic() + 60
        while not (left := list((tiny.folder / "build").glob("tower-replay-*/.owner"))):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    assert left[0].exists()
    tiny.script("first", "cp /src/text/first /out/first")
    tiny.doit("replay", "stage=first")
    assert list((tiny.folder / "build").glob("tower-replay-*")) == []


def is_quick(tiny: Tiny, *words: str, env: Mapping[str, str] | None = None) -> bool:
    """Run ./ci/doit, which has nothing to do; tell whether it knew that from the note of the run before, which then stays."""
    note = tiny.folder / "build/nothing-to-do.json"
    before = note.stat() if note.exists() else None
    said = tiny.doit(*words, env=env)
    assert said.splitlines()[-1].startswith("nothing to do: 3 stages cached ("), said
    return before is not None and note.stat() == before


def settled(tiny: Tiny, *words: str, env: Mapping[str, str] | None = None) -> None:
    """Run with nothing to do until that is known. The times of files are coarse: what has just changed is not trusted."""
    deadline = time.monotonic() + 60
    while not is_quick(tiny, *words, env=env):
        assert time.monotonic() < deadline


def built(said: str) -> list[str]:
    return re.findall(r"^(\w+) .*\b(?:built|done)\b", said, re.MULTILINE)


def test_the_note_of_a_run_gives_the_same_lines_as_the_graph_of_tasks(tiny: Tiny) -> None:
    """By the graph of tasks and from the note of that run: the same lines."""
    tiny.doit()
    by_graph = tiny.doit()
    settled(tiny)
    by_note = tiny.doit()
    assert [line.partition("(")[0] for line in sorted(by_note.splitlines())] == [
        line.partition("(")[0] for line in sorted(by_graph.splitlines())
    ]


def test_each_change_since_the_last_run_is_noticed(tiny: Tiny) -> None:
    tiny.doit()
    settled(tiny)
    source = tiny.folder / "text/second"
    info = source.stat()
    source.write_text("owt\n")
    os.utime(source, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert built(tiny.doit()) == ["second", "third", "host"], "an edit that keeps size and time"
    assert tiny.image == "one\nowt\n"
    settled(tiny)
    other = tiny.folder / "build/other"
    other.write_text("two\n")
    other.replace(source)
    tiny.doit()
    assert tiny.image == "one\ntwo\n", "another file of the same size"
    settled(tiny)
    (artifact,) = (path for path in tiny.artifacts("second") if path.read_text() == "one\ntwo\n")
    artifact.parent.chmod(0o755)
    artifact.unlink()
    assert built(tiny.doit()) == ["second"], "an artifact that is gone"
    settled(tiny)
    (image,) = (tiny.folder / "dist").glob("tiny-*.img.zst")
    image.write_text("xxx\nxxx\n")
    assert built(tiny.doit()) == ["host"], "a finished image that was edited"
    assert tiny.image == "one\ntwo\n"
    settled(tiny)
    (tiny.folder / "dist").rename(tiny.folder / "elsewhere")
    (tiny.folder / "dist").mkdir()
    assert built(tiny.doit()) == ["host"], "another folder of images"
    settled(tiny)
    assert not re.search("^host ", tiny.doit("stage:third"), re.MULTILINE), "another command"
    (tiny.folder / "dist").rename(tiny.folder / "nowhere")
    tiny.doit()
    settled(tiny)
    assert built(tiny.doit(env={"XDG_CACHE_HOME": str(tiny.folder.parent / "other")})) == ["host"], "another environment"
    settled(tiny)
    assert built(tiny.doit("compress=xz"))[-1:] == ["host"], "another option"
