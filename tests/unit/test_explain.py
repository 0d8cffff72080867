# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import ConfigError
from pipeline.base.paths import Paths
from pipeline.build.factory import Factory
from pipeline.cli import commands
from pipeline.plan.explain import Snapshot, differences
from tests.unit.small import HOST, Driver, make_checkout, make_factory, put, write

ROOT = "stage:root:pc"


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    """A factory in which the root is built."""
    return again(tmp_path, first=True)


def again(root: Path, driver: Driver | None = None, *, first: bool = False) -> Factory:
    """The factory of the next run."""
    made = make_factory(make_checkout(root) if first else Paths(root), driver or Driver())
    made.need_by_name("channel:repository:x86_64")
    if first:
        put(made, ROOT, {"root.tar": "x"})
    return made


def said(factory: Factory, name: str = ROOT) -> list[str]:
    return commands.explain_node(factory, factory.plan.nodes[name]).text


def test_a_stage_that_is_built_is_reported_as_built(factory: Factory) -> None:
    (line,) = said(factory)
    assert line.endswith(": is built")


def test_the_first_time(factory: Factory) -> None:
    (line,) = said(factory, "stage:pack:pc")
    assert "not known yet: channel:keys has to be built first" in line
    factory.need_by_name("channel:keys")
    (line,) = said(factory, "stage:pack:pc")
    assert line.endswith("will be built, for the first time")


def test_the_changed_files_are_named(factory: Factory) -> None:
    root = factory.paths.checkout
    write(root, {"overlay/etc/motd": "bye\n", "overlay/etc/new": ""})
    (root / "overlay/etc/issue").unlink()
    (root / "stages/root/run.sh").chmod(0o755)
    lines = said(again(root))
    assert "will be built; since" in lines[0]
    assert lines[1:] == [
        "  overlay/etc/issue: gone",
        "  overlay/etc/motd: changed",
        "  overlay/etc/new: new",
        "  stages/root/run.sh: is executable now",
    ]


def test_changed_options_and_version(factory: Factory) -> None:
    root = factory.paths.checkout
    write(
        root,
        {
            "pipeline/recipes/host.toml": HOST.replace('"busybox", ', '"toybox", ').replace(
                "world = [", "size = 5, world = [", 1
            ),
            "pyproject.toml": '[project]\nversion = "1.3"\n',
        },
    )
    assert said(again(root))[1:] == [
        "  options: size: 4 -> 5",
        "  options: version: 1.2 -> 1.3",
        "  options: world: toybox is new",
        "  options: world: busybox is gone",
    ]


def test_a_changed_input_names_the_node(factory: Factory) -> None:
    later = again(factory.paths.checkout, Driver(repository_text="other\n"))
    assert said(later)[1:] == ["  input repository: changed (channel:repository:x86_64)"]
    assert "  made of: text: index\n -> other\n" in said(later, "channel:repository:x86_64")


def test_after_a_build_the_reason_of_that_build(factory: Factory) -> None:
    root = factory.paths.checkout
    write(root, {"overlay/etc/motd": "bye\n"})
    later = again(root)
    put(later, ROOT, {"root.tar": "y"})
    lines = said(again(root))
    assert "is built; it differs from" in lines[0]
    assert lines[1:] == ["  overlay/etc/motd: changed"]


def test_an_artifact_that_is_gone(factory: Factory) -> None:
    factory.discard(factory.plan.nodes[ROOT])
    (line,) = said(again(factory.paths.checkout))
    assert "will be built again: its artifact is gone or damaged" in line


def test_a_damaged_memory_is_no_memory(factory: Factory) -> None:
    root = factory.paths.checkout
    (root / "build/last/stage-root-pc.json").write_bytes(b"x" * 64 + b"\n{")
    write(root, {"overlay/etc/motd": "bye\n"})
    (line,) = said(again(root))
    assert line.endswith("for the first time")


def test_an_unknown_stage(factory: Factory) -> None:
    with pytest.raises(ConfigError, match="rot: there is no such stage"):
        commands.explain_all(factory, ["rot"])


def test_words_choose_stages(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    commands.explain_all(factory, ["root"])
    assert [line.split()[0].rstrip(":") for line in capsys.readouterr().out.splitlines()] == ["stage:root:rpi", "stage:root:pc"]
    commands.explain_all(factory, ["stage:root:pc"])
    assert capsys.readouterr().out.startswith("stage:root:pc ")


def test_lists_of_named_things_are_compared_by_name() -> None:
    def shot(rows: list[dict[str, str]]) -> Snapshot:
        return Snapshot("", {"made of": {"packages": rows}}, {})

    before = [{"name": "a", "version": "1"}, {"name": "b", "version": "1"}]
    after = [{"name": "b", "version": "2"}, {"name": "c", "version": "1"}]
    assert differences(shot(before), shot(after), {}) == [
        "made of: packages: a: is gone",
        "made of: packages: b: version: 1 -> 2",
        "made of: packages: c: is new",
    ]


def test_long_lists_are_cut() -> None:
    old, new = Snapshot("", {"options": {"world": []}}, {}), Snapshot("", {"options": {"world": [str(n) for n in range(50)]}}, {})
    lines = differences(old, new, {})
    assert len(lines) == 13
    assert lines[-1].endswith("and 38 more")
