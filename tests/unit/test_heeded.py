# SPDX-License-Identifier: Apache-2.0
"""A variable that no chosen task would look at is refused; one that is accepted has an effect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from doit import doit_cmd

from pipeline.base.errors import ConfigError
from pipeline.build.factory import Factory
from pipeline.cli import command_line, commands, heeded, tasks
from pipeline.cli.typo import names_of
from pipeline.plan.nodes import Settings
from pipeline.release import lock_audit
from tests.unit.small import Driver, make_checkout, make_factory, put


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return make_factory(make_checkout(tmp_path), Driver(), Settings(target="pc"))


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (["gc"], "target"),
        (["lock"], "target"),
        (["verify:reproducible"], "target"),
        (["release"], "target"),
        (["channel:builder"], "target"),
        (["test"], "target"),
        (["test"], "channel"),
        (["test"], "engine.aarch64"),
        (["qa"], "compress"),
        (["lock"], "file"),
        (["vault:import"], "days"),
        (["host"], "stage"),
        (["host:rpi"], "target"),
        (["stage:root:rpi"], "target"),
        (["boot:host-rpi"], "target"),
        (["gc", "lock"], "version"),
    ],
)
def test_ignored_variables_are_refused(factory: Factory, chosen: Sequence[str], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=pc: {' '.join(chosen)} would ignore it"):
        heeded.check_heeded(chosen, {name: "pc"}, factory.plan)


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        (["audit:lock"], "target"),
        (["audit:elf"], "target"),
        (["explain"], "target"),
        (["replay"], "target"),
        (["host"], "target"),
        (["host:pc"], "target"),
        (["stage:root"], "target"),
        (["stage:root:pc"], "target"),
        (["boot:host-pc"], "target"),
        (["gc", "host"], "target"),
        (["gc"], "compress"),
        (["gc"], "engine.aarch64"),
        (["test"], "json"),
        (["lock", "gc"], "size"),
    ],
)
def test_heeded_variables_are_accepted(factory: Factory, chosen: Sequence[str], name: str) -> None:
    heeded.check_heeded(chosen, {name: "pc"}, factory.plan)


def test_every_command_says_what_it_heeds(factory: Factory) -> None:
    """A new command is in the table, and the table has no other; a new variable is somebody's."""
    made = {name for name in names_of(commands.all_tasks(factory)) if not name.startswith("boot:")}
    assert made == set(heeded._COMMANDS)
    asked = heeded.heeded_by("host", factory.plan).union(*(heeded.heeded_by(name, factory.plan) for name in made))
    assert asked - {command_line.ENGINE} == set(command_line.VARIABLES)


def test_a_refusal_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], factory: Factory
) -> None:
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {"size": "3"})
    reporter = command_line.config(factory)["reporter"](None, {})
    with pytest.raises(SystemExit) as ended:
        reporter.initialize({}, ["host"])
    assert ended.value.code == ConfigError.exit_status
    assert "size=3: host would ignore it" in capsys.readouterr().err


@pytest.mark.parametrize("name", command_line.SWITCHES)
def test_a_switch_is_on_or_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {name: "yes"})
    with pytest.raises(ConfigError, match=f"{name}=yes: unknown"):
        command_line.variables()


def test_explain_and_replay_of_one_target(
    factory: Factory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {node.name for node in tasks.chosen_nodes(factory).values()} == {
        "channel:keys",
        "channel:repository:x86_64",
        "stage:pack:pc",
        "stage:root:pc",
    }
    told: list[object] = []
    monkeypatch.setattr(factory.progress, "result", lambda what, data, lines=(): told.append(data["stage"]))
    commands.explain_all(factory, [])
    commands.explain_all(factory, ["root"])
    assert [name for name in told if "rpi" in str(name) or "aarch64" in str(name)] == []
    assert told[-1] == "stage:root:pc"
    with pytest.raises(ConfigError, match="no such stage"):
        commands.explain_all(factory, ["root:rpi"])
    monkeypatch.setattr(doit_cmd, "_CMDLINE_VARS", {"stage": "root:rpi", "target": "pc"})
    with pytest.raises(ConfigError, match="matches 0 stages"):
        commands.replay(factory)


def test_the_audit_of_one_target_looks_at_no_other(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing for the other target is built, looked at or built again; the replay is told of the target."""
    factory.need_by_name("channel:repository:x86_64")
    factory.need_by_name("channel:keys")
    put(factory, "stage:root:pc", {"root.tar": "x"})
    put(factory, "stage:pack:pc", {"image.img": "x"})
    ran: list[Sequence[str]] = []

    class Done:
        status = 0

        def __init__(self, argv: Sequence[str], **_: object) -> None:
            ran.append(argv)

    monkeypatch.setattr("pipeline.base.proc.run", Done)
    monkeypatch.setattr(lock_audit, "_lay_out", lambda *_: (factory.paths.build / "audit").mkdir(parents=True))
    monkeypatch.setattr(lock_audit, "load_plan", lambda *_: factory.plan)
    monkeypatch.setattr("pipeline.build.workplace.Workplace", lambda *_: factory)
    report = lock_audit.audit_lock(factory, tasks.chosen_nodes(factory))
    assert "replay of stage:pack:pc: the same bytes" in report.lines
    assert not [line for line in report.lines if "rpi" in line or "aarch64" in line]
    assert ran[0][-1] == "target=pc"
