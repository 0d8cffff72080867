# SPDX-License-Identifier: Apache-2.0
"""What apk 2.14.4 and apk 3.0.8 said, read by all who read apk: thin client, host side of the talk, the factory's stage."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tower.base.errors import PackageError, ValueRefusedError
from tower.base.view import View
from tower.cli.commands.install import _rows
from tower.hosts.registry import Tower
from tower.install.apk import Talk
from tower.install.apkindex import Index, Package
from tower.install.apkwords import parse_progress, parse_step, read_plan, says_verified
from tower.install.bundle_install import _install
from tower.install.choose import Choice, copy_of
from tower.install.install import Installation
from tower.install.outcome import Outcome
from tower.install.repository import HostState, Repository

from tests.conftest import CHECKOUT
from tests.unit.apkwords.scenarios import SCENARIOS, read

HERE = Path(__file__).parent
SAID = {version: read((HERE / f"said-{version}.txt").read_text()) for version in ("2.14.4", "3.0.8")}

PLANS: dict[str, Sequence[str]] = {
    "many": [f"Installing part{number:02d} (1.0-r0)" for number in range(1, 13)],
    "hundred": [f"Installing part{number:02d} (1.0-r0)" for number in range(1, 103)],
    "tagged": ["Installing library (1.0-r0)", "Installing foo@edge (1.0-r0)"],
    "tagged_and_limited": ["Installing foo@edge (2.0-r0)"],
    "pinned": ["Updating pinning foo@testing (1.0-r0)"],
    "hash": ["Installing odd (1.2b_rc1_p2-r0)", "Installing sedutil (2022.12.27~7a0cda7f-r2)"],
    "upgraded": ["Upgrading foo (1.0-r0 -> 1.2_git20240101~0f1e2d-r0)"],
    "upgraded_with_tag": ["Upgrading foo@edge (1.0-r0 -> 2.0-r0)"],
    "downgraded": ["Downgrading foo (2.0-r0 -> 1.0-r0)"],
    "replaced": ["Replacing foo (1.0-r0 -> 1.0-r0)", "Replacing other (1.0-r0 -> 1.0-r0)"],
    "reinstalled": ["Reinstalling foo (1.0-r0)"],
    "unavailable": ["[APK unavailable, skipped] Reinstalling foo (1.0-r0)"],
    "purged": ["Purging foo (1.0-r0)", "Installing rival (1.0-r0)"],
    "virtual": ["Purging .tools (1.0)", "Installing other (1.0-r0)"],
    "verbose": ["Installing library (1.0-r0)", "Installing foo (1.0-r0)"],
    "nothing": [],
}
NO_PLANS = {"unknown_tag", "refused", "no_package", "read", "read_in_part", "cached", "scripts", "quiet"} | {
    "file_of_that_name",
    "undone",
    "words",
}
# apk 2 does not know versions with a hash as such, only as some package's.
CASES = [
    pytest.param(version, name, id=f"{name}-{version}")
    for version in SAID
    for name in PLANS
    if (version, name) != ("2.14.4", "upgraded")
]
ODD = {
    "another verb": ["(1/1) Frobnicating nano (8.0-r0)", "OK: 1 MiB in 2 packages"],
    "no version": ["(1/1) Installing nano", "OK: 1 MiB in 2 packages"],
    "a step without a count": ["Installing nano (8.0-r0)", "OK: 1 MiB in 2 packages"],
    "a step that is missing": ["(1/3) Installing a (1)", "(3/3) Installing c (1)", "OK: 1 MiB in 2 packages"],
    "the last step is missing": ["(1/2) Installing a (1)", "OK: 1 MiB in 2 packages"],
    "another count": ["(1/2) Installing a (1)", "(2/3) Installing b (1)", "OK: 1 MiB in 2 packages"],
    "a step that comes twice": ["(1/1) Installing a (1)", "(1/1) Installing a (1)", "OK: 1 MiB in 2 packages"],
    "another language": ["(1/1) Installation von nano (8.0-r0)", "OK: 1 MiB in 2 packages"],
    "indented": ["  (1/1) Installing nano (8.0-r0)", "OK: 1 MiB in 2 packages"],
    "something else": ["nano will be installed", "OK: 1 MiB in 2 packages"],
    "one good and one odd": ["(1/1) Installing a (1)", "and two more"],
    "nothing": [],
    "only warnings": ["WARNING: opening x: No such file or directory"],
    "another summary": ["done: 3 packages"],
    "what is not ASCII": ["(1/1) Installing n\N{LATIN SMALL LETTER A WITH ACUTE}no (8.0-r0)"],
}


def test_every_situation_is_looked_at() -> None:
    for said in SAID.values():
        assert set(said) == set(SCENARIOS) == set(PLANS) | NO_PLANS


@pytest.mark.parametrize(("version", "name"), CASES)
def test_a_plan(version: str, name: str) -> None:
    plan = read_plan(SAID[version][name])
    assert [step.text for step in plan.steps] == list(PLANS[name])
    assert plan.doubt == ""
    for step in plan.steps:
        assert step.name in step.text
        assert step.version == step.text.rstrip(")").rpartition("(")[2].rpartition(" ")[2]
        assert step.tag == ("edge" if "@edge" in step.text else "testing" if "@testing" in step.text else "")


@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_unknown_output_raises_doubt(said: list[str]) -> None:
    assert read_plan(said).doubt


@pytest.mark.parametrize("version", SAID)
def test_an_invalid_plan_is_ignored(version: str) -> None:
    for name in ("refused", "no_package", "unknown_tag", "quiet"):
        plan = read_plan(SAID[version][name])
        assert plan.doubt
        assert not plan.steps


@pytest.mark.parametrize("version", SAID)
def test_progress(version: str) -> None:
    lines = SAID[version]["scripts"]
    amounts = [amount for line in lines if (amount := parse_progress(line)) is not None]
    assert len(amounts) >= 5
    assert amounts == sorted(amounts)
    assert amounts[-1][0] == amounts[-1][1]
    # Neither steps nor what scripts say is taken for it.
    assert sum("/" in line for line in lines) > len(amounts)


@pytest.mark.parametrize("version", SAID)
def test_packages_are_undone_where_a_tag_is_wanted(version: str) -> None:
    """By an empty list of repositories nothing would be; by one that has the tag, all is as it was."""
    *said, after = SAID[version]["undone"]
    assert "missing repository tags" in "".join(said)
    start = next(number for number, line in enumerate(said) if line.startswith("(1/2)"))
    assert [step.text for step in read_plan(said[start:]).steps] == ["Purging new (1.0-r0)", "Purging more (1.0-r0)"]
    assert after == "as before"


def test_the_answers_of_verify_are_understood() -> None:
    assert says_verified("x.apk: 0 - OK")  # apk 2
    assert says_verified("x.apk: OK")  # apk 3
    for line in ("x.apk: 2 - UNTRUSTED signature", "x.apk: UNTRUSTED signature", "x.apk: BAD", "", "OK", "x.apk: NOT OK"):
        assert not says_verified(line), line


@dataclass
class FakePlace:
    """A machine whose `packages` says what it is told to; its words are real ones, its network is a pipe."""

    lines: Sequence[str]
    folder: Path
    name: str = "web"
    online: bool = True
    went: bool = False

    @property
    def world(self) -> Path:
        return self.folder / "world"

    def repositories(self) -> str:
        return ""

    def alive(self) -> bool:
        return True

    @contextmanager
    def lead(self, port: int) -> Iterator[int]:
        yield port

    @contextmanager
    def start(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        code = "import sys\nfor line in sys.argv[1:]: print('apk', line)\nprint('tower planned', flush=True)\n"
        code += "while sys.stdin.readline().strip() != '.': pass\n"
        code += "print(*(['tower installed x'] if sys.stdin.readline() == 'go\\n' else []), flush=True)\n"
        code += "print('WENT', file=sys.stderr) if sys.stdin.readline() == 'kept\\n' else None"
        pipe = subprocess.PIPE
        argv = [sys.executable, "-S", "-c", code, *self.lines]
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as child:
            yield child
            assert child.stdin is not None
            assert child.stderr is not None
            child.stdin.close()
            self.went = b"WENT" in child.stderr.read()


@pytest.mark.parametrize(("version", "name"), CASES)
def test_a_talk_reads_the_same_plan(version: str, name: str, tmp_path: Path) -> None:
    place = FakePlace([*SAID[version]["read"], *SAID[version][name]], tmp_path)
    with place.start([]) as child:
        talk = Talk("web", child, place.alive, lambda _: None, lambda *_: None, lambda _: None)
        talk.ask([])
        assert talk.steps == list(PLANS[name])
        assert talk.plan.doubt == ""


@pytest.mark.parametrize(("version", "name"), CASES)
def test_nothing_is_installed_without_a_question(version: str, name: str, tower: Tower, tmp_path: Path) -> None:
    place = FakePlace(SAID[version][name], tmp_path)
    if PLANS[name]:
        with pytest.raises(ValueRefusedError, match="no terminal to confirm on"):
            Installation(tower, View(), ("x",)).on(place)
        assert not place.went
    assert Installation(tower, View(), ("x",), yes=True).on(place) == tuple(PLANS[name])
    assert place.went


@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_nothing_is_installed_that_was_not_understood(
    said: list[str], tower: Tower, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = FakePlace(said, tmp_path)
    with pytest.raises(PackageError, match=r"its apk .*does not understand") as caught:
        Installation(tower, View(), ("x",), yes=True).on(place)
    assert "without --yes" in caught.value.hint
    with pytest.raises(ValueRefusedError, match="no terminal to confirm on"):
        Installation(tower, View(), ("x",)).on(place)
    assert not place.went
    steps = Installation(tower, View(), ("x",), dry_run=True).on(place)
    assert "does not understand" in capsys.readouterr().err
    assert not place.went
    # Whoever is asked may say yes; that it was there already is never said.
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True, readline=lambda *_: "y\n"))
    assert Installation(tower, View(), ("x",)).on(place) == steps
    assert place.went
    assert "install anyway? [y/N]" in capsys.readouterr().err
    assert "already" not in str(_rows(Outcome(("x",), {"web": steps}), dry_run=False, json=False))


def test_steps_undone_before_are_not_part_of_the_plan(tmp_path: Path) -> None:
    place = FakePlace([], tmp_path)
    with place.start([]) as child:
        talk = Talk("web", child, place.alive, lambda _: None, lambda *_: None, lambda _: None)
        talk.plan.hear("something odd")
        talk._said = iter(["apk (1/1) Purging a (1)", "tower undone a", "apk (1/1) Installing b (1)", "tower planned"])
        talk.ask([])
        assert talk.steps == ["Installing b (1)"]
        assert talk.plan.doubt == ""


def test_lines_of_scripts_are_not_taken_for_steps(tmp_path: Path) -> None:
    lines = SAID["2.14.4"]["scripts"]
    assert any(parse_step(line) and "nothing" in line for line in lines), "scripts say what apk says"
    with FakePlace(SAID["2.14.4"]["tagged"], tmp_path).start([]) as child:
        shown: list[str] = []
        told: list[tuple[int, int]] = []
        talk = Talk("web", child, lambda: True, shown.append, lambda done, total: told.append((done, total)), lambda _: None)
        talk.ask([])
        talk._said = iter([*(f"apk {line}" for line in lines), "tower installed x"])
        talk.go()
        assert talk.steps == list(PLANS["tagged"])
        assert told == [amount for line in lines if (amount := parse_progress(line)) is not None]
        assert shown[2 + 1 :] == [f"web: {line}" for line in lines if parse_progress(line) is None]


def _state() -> HostState:
    repositories = (Repository("http", "a.test", 80, "/main", ""), Repository("http", "a.test", 80, "/edge", "@edge"))
    return HostState("x86_64", repositories, (), {}, b"", b"", "0" * 64, 0)


def _choose(lines: Sequence[str], indexes: Sequence[Index], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """What the thin client makes of it: its apk is a program that says those lines."""
    program = tmp_path / "bin" / "apk"
    program.parent.mkdir()
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    program.write_text(f"#!/bin/sh\nls -a >{tmp_path}/seen\nexec cat {tmp_path}/lines\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with copy_of(_state(), "web") as copy:
        return copy.choose(["foo"], indexes)


@pytest.mark.parametrize(("version", "name"), CASES)
def test_the_thin_client_chooses_by_it(
    version: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    names = re.findall(r"ing ([^ @(]+)(?:@\w+)? \((?:\S+ -> )?(\S+)\)", "\n".join(PLANS[name]))
    packages = {(name, new): Package(name, new, "0" * 40, 1, 1) for name, new in names}
    choice = _choose(SAID[version][name], [Index(0, {}), Index(0, packages)], tmp_path, monkeypatch)
    assert choice.steps == tuple(sorted(PLANS[name]))
    needed = [step for step in PLANS[name] if not step.startswith(("Purging", "Updating", "[APK"))]
    assert len(choice.packages) == len(needed)
    assert {number for number, _ in choice.packages} <= {1}
    # No file could be taken for a word: apk was not called where the user happens to be.
    assert not [line for line in (tmp_path / "seen").read_text().split() if "." in line.strip(".")]


@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_the_thin_client_chooses_nothing_that_it_does_not_understand(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    with pytest.raises(PackageError, match=r"this machine's apk .*does not understand") as caught:
        _choose(said, [], tmp_path, monkeypatch)
    assert "--tunnel" in caught.value.hint


def test_a_record_that_cannot_be_used_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    index = Index(0, {}, {("foo", "1.0-r0"): "C: is not a checksum: 'Q9'"})
    with pytest.raises(PackageError, match=r"apk chooses foo 1\.0-r0, whose record .* C: is not a checksum"):
        _choose(["(1/1) Installing foo (1.0-r0)"], [index], tmp_path, monkeypatch)


@pytest.mark.parametrize("said", ODD.values(), ids=ODD)
def test_a_bundle_is_not_installed_by_a_plan_with_unknown_lines(said: list[str], tmp_path: Path) -> None:
    place = FakePlace(said, tmp_path)
    steps = tuple(step.text for line in said if (step := parse_step(line)) is not None)
    host = SimpleNamespace(name="web", file=lambda name: tmp_path / name)
    session = SimpleNamespace(host=host, popen=place.start, alive=place.alive)
    job: Any = SimpleNamespace(session=session, host=host, choice=Choice(tuple(sorted(steps)), ()))
    with pytest.raises(PackageError, match="does not understand"):
        _install(job, ["x"], View())
    assert not place.went


def _pending() -> Any:
    spec = importlib.util.spec_from_file_location("pending", CHECKOUT / "stages/host-system/pending.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pending"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version", SAID)
def test_the_factory_reads_the_order_of_installation(version: str) -> None:
    pending = _pending()
    for name in ("many", "tagged", "hash", "hundred"):
        steps = read_plan(SAID[version][name]).steps
        packages = {f"{step.name}-{step.version}": f"{step.name}-{step.version}" for step in reversed(steps)}
        text = "\n".join(SAID[version][name])
        assert pending.in_order(packages, [text]) == [f"{step.name}-{step.version}" for step in steps]
    with pytest.raises(SystemExit, match="differ in: part12"):
        pending.in_order({f"part{number:02d}-1.0-r0": "" for number in range(1, 12)}, ["\n".join(SAID[version]["many"])])
