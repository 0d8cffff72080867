# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from doit import doit_cmd

from pipeline.base.errors import ConfigError, LockError, StoreError
from pipeline.build.factory import Factory
from pipeline.cli import command_line, commands, tasks
from pipeline.cli.report import TaskRow
from pipeline.plan.nodes import Settings
from tests.unit.small import Driver, make_checkout, make_factory, put


def named(made: list[tasks.Task]) -> dict[str, tasks.Task]:
    """The tasks by the names that doit gives them."""
    return {f"{row['basename']}:{row['name']}" if row.get("name") else row["basename"]: row for row in made}


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return make_factory(make_checkout(tmp_path), Driver())


def fresh(task: tasks.Task) -> Any:
    (answer,) = task["uptodate"]
    return answer()


def test_stage_tasks(factory: Factory) -> None:
    made = named(list(tasks.stage_tasks(factory)))
    assert list(made) == ["stage:root", "stage:root:rpi", "stage:root:pc", "stage:pack", "stage:pack:rpi", "stage:pack:pc"]
    assert made["stage:root:pc"]["task_dep"] == ["channel:repository:x86_64", "channel:builder"]
    assert set(made["stage:pack:pc"]["task_dep"]) == {"stage:root:pc", "channel:keys", "channel:builder"}


def test_only_the_store_decides(factory: Factory) -> None:
    made = named(list(tasks.stage_tasks(factory)))["stage:root:pc"]
    assert not fresh(made)
    factory.need_by_name("channel:repository:x86_64")
    put(factory, "stage:root:pc", {"root.tar": "x"})
    assert fresh(made)
    row = made["meta"]["row"]
    assert (row.state, row.name, row.target, row.counted) == ("cached", "root", "pc", True)
    assert len(row.key) == 64
    made["clean"][0][0]()
    assert not fresh(made)


def test_a_damaged_artifact_is_not_fresh(factory: Factory) -> None:
    factory.need_by_name("channel:repository:x86_64")
    put(factory, "stage:root:pc", {"root.tar": "x"})
    artifact = factory.find(factory.plan.nodes["stage:root:pc"])
    assert artifact is not None
    path = artifact.file("root.tar")
    path.chmod(0o644)
    path.write_text("y")
    assert not fresh(named(list(tasks.stage_tasks(factory)))["stage:root:pc"])


def test_channel_tasks(factory: Factory) -> None:
    made = named(list(tasks.channel_tasks(factory)))
    assert {"channel:lock", "channel:fetch", "channel:builder", "channel:keys", "channel:repository:x86_64"} <= set(made)
    assert fresh(made["channel:lock"])
    assert not fresh(made["channel:fetch"])
    row = made["channel:repository:x86_64"]["meta"]["row"]
    assert made["channel:repository:x86_64"]["actions"][0]() is None
    assert row.state == "built"
    assert fresh(made["channel:repository:x86_64"])


def test_images_that_target_leaves(tmp_path: Path) -> None:
    paths = make_checkout(tmp_path)
    factory = make_factory(paths, Driver(), Settings(target="rpi"))
    made = named(list(tasks.image_tasks(factory, "host", "hosts")))
    assert list(made) == ["host", "host:rpi"]
    assert [image.target for image in tasks.chosen_images(make_factory(paths, Driver()))] == ["rpi", "pc"]


def test_expected_errors_have_no_traceback() -> None:
    def act() -> None:
        raise ConfigError("no", hint="do")

    row = TaskRow("x")
    made = tasks.task("x", act, doc="", row=row)
    result = made["actions"][0]()
    assert isinstance(result, tasks.FailedTask)
    assert result.error is row.error
    assert str(result.error) == "no\n  hint: do"


def test_an_error_while_asking_means_not_fresh() -> None:
    def ask() -> bool:
        raise LockError("no lock")

    row = TaskRow("x")
    assert fresh(tasks.task("x", None, doc="", row=row, fresh=ask)) is False
    assert isinstance(row.error, LockError)


def test_words_and_options_reach_the_action() -> None:
    got: list[list[str]] = []
    made = tasks.task("test", lambda words: got.append(list(words)), doc="", arguments=True)
    made["actions"][0](arguments=["a", "b"], k="expr", x=True, v=False, m="")
    made["actions"][0](arguments=None)
    assert got == [["-k", "expr", "-x", "a", "b"], []]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chanel": "lab"}, "chanel=lab: there is no such variable"),
        ({"compress": "rar"}, "compress=rar: unknown"),
        ({"target": "mac"}, "target=mac: there is no such target"),
        ({"channel": "x"}, "channel=x: there is no such channel"),
    ],
)
def test_wrong_words_end_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str], message: str
) -> None:
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", given)
    paths = make_checkout(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command_line.open_factory(paths.checkout)
    assert ended.value.code == ConfigError.exit_status
    assert message in capsys.readouterr().err


def test_the_command_line_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {"target": "pc", "compress": "xz", "json": "1"})
    factory = command_line.open_factory(make_checkout(tmp_path).checkout)
    assert factory.plan.settings == Settings(target="pc", compress="xz")
    assert factory.progress.json
    found = command_line.config(factory)
    assert found["dep_file"] == ":memory:"
    assert found["reporter"].desc == "one JSON object a task"
    assert found["default_tasks"] == ["host"]


def test_replay_without_exactly_one_stage_is_refused(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, message in (({}, "which stage"), ({"stage": "root"}, "matches 2 stages"), ({"stage": "x"}, "matches 0 stages")):
        monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", given)
        with pytest.raises(ConfigError, match=message):
            commands.replay(factory)


def test_gc_keeps_the_plan(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    factory.need_by_name("channel:repository:x86_64")
    put(factory, "stage:root:pc", {"root.tar": "x"})
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {"size": "0"})
    commands.collect(factory)
    assert factory.find(factory.plan.nodes["stage:root:pc"]) is not None
    for size in ("much", "-1", "inf", "nan"):
        monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {"size": size})
        with pytest.raises(ConfigError, match=f"size={size}: not a number"):
            commands.collect(factory)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "bytes free"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "build/log"), "build/log: Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "build"), "build: Read-only file system"),
    ],
)
def test_the_disks_refusal_is_reported(error: OSError, said: str) -> None:
    def act() -> None:
        raise error

    def fresh() -> bool:
        raise error

    for made in (tasks.task("x", act, doc="x"), tasks.task("x", lambda words: act(), doc="x", arguments=True)):
        failed = made["actions"][0](*([[]] if "pos_arg" in made else []))
        assert isinstance(failed, tasks.FailedTask)
        assert isinstance(failed.error, StoreError)
        assert said in failed.error.message
    asked = tasks.task("x", act, doc="x", fresh=fresh)
    assert asked["uptodate"][0]() is False
