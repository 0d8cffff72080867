# SPDX-License-Identifier: Apache-2.0
"""The solver alone: choices, going back, and the answers the real apk gave for worlds of Alpine 3.19."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.apk.signature import KeyRing
from pipeline.lab.apktool.changes import plan
from pipeline.lab.apktool.explain import explain
from pipeline.lab.apktool.packages import Package, Universe, dependencies
from pipeline.lab.apktool.repository import read_index
from pipeline.lab.apktool.solver import Policy, Unsolvable, solve


def universe(*lines: str) -> Universe:
    """Packages in short: `name-version D:... p:...`, fields parted by ` | `."""
    made = Universe()
    for number, line in enumerate(lines):
        head, *fields = line.split(" | ")
        name, _, version = head.partition(" ")
        made.add(Package("\n".join([f"C:Q1{number:027d}=", f"P:{name}", f"V:{version}", *fields])), 0)
    return made


def names(packages: Universe, world: str, policy: Policy | None = None) -> str:
    chosen = solve(packages, dependencies(world), policy or Policy())
    return " ".join(sorted(package.full_name for package in chosen.values()))


def test_newest_that_fits() -> None:
    packages = universe("a 1", "a 2", "a 3_rc1", "b 1 | D:a<3")
    assert names(packages, "a") == "a-3_rc1"
    assert names(packages, "a b") == "a-3_rc1 b-1"
    assert names(packages, "a~2") == "a-2"
    assert names(packages, "a<2") == "a-1"


def test_goes_back_when_a_choice_leads_nowhere() -> None:
    packages = universe(
        "app 2 | D:lib>=2 tool", "app 1 | D:lib", "lib 1", "lib 2 | D:core=2", "core 1", "core 2", "tool 1 | D:core=1"
    )
    assert names(packages, "app tool") == "app-1 core-1 lib-1 tool-1"


def test_goes_back_over_several_choices() -> None:
    rows = [f"p{n} {v} | D:p{n + 1}={v}" for n in range(6) for v in (1, 2)]
    packages = universe(*rows, "p6 1", "p6 2 | D:missing", "other 1 | D:p3")
    assert names(packages, "p0 other").startswith("other-1 p0-1 p1-1")


def test_conflicts_and_providers() -> None:
    packages = universe("mta 1 | D:smtp", "one 1 | p:smtp=1 | k:10", "two 1 | p:smtp=1 | k:20", "anti 1 | D:!two")
    assert names(packages, "mta") == "mta-1 two-1"
    assert names(packages, "mta anti") == "anti-1 mta-1 one-1"
    assert names(packages, "mta one") == "mta-1 one-1"


def test_versioned_provides_exclude_each_other() -> None:
    packages = universe("one 1 | p:cmd:x=1", "two 1 | p:cmd:x=1", "three 1 | p:cmd:x", "four 1 | p:cmd:x")
    with pytest.raises(Unsolvable) as caught:
        names(packages, "one two")
    text = explain(caught.value.state)
    assert "one-1:\n    conflicts: two-1[cmd:x=1]\n    satisfies: world[one]" in text
    assert names(packages, "three four") == "four-1 three-1"


def test_bare_names_are_not_chosen_by_themselves() -> None:
    packages = universe("app 1 | D:editor", "vi 1 | p:editor", "ed 1 | p:editor")
    with pytest.raises(Unsolvable) as caught:
        names(packages, "app")
    text = explain(caught.value.state)
    assert "editor (virtual):\n    note: please select one of the 'provided by'\n          packages explicitly\n" in text
    assert "    provided by: ed vi\n    required by: app-1[editor]" in text
    assert names(packages, "app vi") == "app-1 vi-1"


def test_cycles_and_self_provides() -> None:
    packages = universe("a 1 | D:b", "b 1 | D:a", "c 1 | D:d | p:d=1")
    assert names(packages, "a c") == "a-1 b-1 c-1"
    chosen = solve(packages, dependencies("a c"), Policy())
    assert len(plan(dependencies("a c"), {}, chosen, packages)) == 3


def test_installed_is_kept_unless_upgrading() -> None:
    packages = universe("a 1", "a 2", "b 2 | D:a")
    old = next(package for package in packages.packages if package.full_name == "a-1")
    old.installed = True
    assert names(packages, "a b") == "a-1 b-2"
    assert names(packages, "a b", Policy(upgrade=True)) == "a-2 b-2"
    assert names(packages, "a b", Policy(upgrade=frozenset("b"))) == "a-1 b-2"


@pytest.mark.parametrize(
    ("world", "expected"),
    [
        ("nothing", "  nothing (no such package):\n    required by: world[nothing]"),
        ("a>9", "  a-2:\n    breaks: world[a>9]"),
        ("b !a", "  a-2:\n    breaks: world[!a]\n    satisfies: b-1[a]"),
        ("broken", "  missing (no such package):\n    required by: broken-1[missing>=3]"),
        ("b c", "  a-2:\n    breaks: c-1[a<2]\n    satisfies: b-1[a]"),
    ],
)
def test_why_not(world: str, expected: str) -> None:
    packages = universe("a 2", "b 1 | D:a", "c 1 | D:a<2", "broken 1 | D:missing>=3")
    with pytest.raises(Unsolvable) as caught:
        names(packages, world)
    assert explain(caught.value.state) == f"unable to select packages:\n{expected}"


def test_same_answers_as_the_real_apk(shared_dir: Path, alpine_keys: KeyRing) -> None:
    alpine = shared_dir / "alpine-v3.19"
    packages = Universe()
    for number, name in enumerate(("main", "community")):
        path = alpine / name / "x86_64/APKINDEX.tar.gz"
        with path.open("rb") as stream:
            packages.add_index(read_index(stream, alpine_keys, str(path))[1], number)
    cases = json.loads((alpine / "solve-cases.json").read_text())
    wrong = []
    for case in cases:
        chosen = solve(packages, dependencies(" ".join(case["world"])), Policy())
        if sorted(package.full_name for package in chosen.values()) != sorted(case["install"]):
            wrong.append(case["world"])
    assert not wrong, f"{len(wrong)} of {len(cases)}"


@pytest.fixture(scope="session")
def alpine_keys(shared_dir: Path) -> KeyRing:
    """Alpine's keys, out of the package alpine-keys."""
    from pipeline.apk.package import read_package

    keys: dict[str, bytes] = {}
    with (shared_dir / "alpine-v3.19/packages/alpine-keys-2.4-r1.apk").open("rb") as stream:
        for entry, content in read_package(stream, None).iter_data():
            if entry.name.endswith(".pub") and entry.kind == "file":
                keys[Path(entry.name).name] = content.read()
    return KeyRing(keys)
