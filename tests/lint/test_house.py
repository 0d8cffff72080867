# SPDX-License-Identifier: Apache-2.0
"""Folders depend downwards only, nothing depends on itself, and the picture of it is the present one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import CHECKOUT

SAME_CLASSES: dict[str, str] = {}
"""Names that two classes of a package may share, each with the reason; none needs to today."""
SAME_MODULES = {
    "__main__": "Python's name for a package that is run",
    **dict.fromkeys(("cli", "commands"), "`python -m pipeline.apk` is a program of its own, with a command line"),
    **dict.fromkeys(("head", "index", "package", "writer"), "the same part of Alpine's format 2 and of format 3 (adb)"),
    **dict.fromkeys(("solve", "version"), "a command, and the module that it shows the result of"),
    "driver": "the protocol of a channel's driver, and Alpine's driver",
    "errors": "the solver's error is a member of the family in base",
    "tarstream": "the reader of tars, and what packages add to it",
}
"""Names that modules of a package may share, each with the reason."""


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", CHECKOUT / "ci" / "house.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("package", ["pipeline", "runtime"])
def test_every_folder_has_its_place(house: ModuleType, package: str) -> None:
    folders = {name.partition(".")[0] for name in house.modules(package)} - {"", "__main__"}
    assert folders == set(house.ORDER[package])


@pytest.mark.parametrize("package", ["pipeline", "runtime"])
def test_folders_use_only_those_before_them(house: ModuleType, package: str) -> None:
    assert house.upward(package) == []


@pytest.mark.parametrize("package", ["pipeline", "runtime"])
def test_no_modules_import_each_other(house: ModuleType, package: str) -> None:
    assert house.circles(package) == []


@pytest.mark.parametrize("package", ["pipeline", "runtime"])
def test_a_class_has_a_name_of_its_own(house: ModuleType, package: str) -> None:
    """One meaning per name: a reader who has met a class knows what its name stands for everywhere in the package."""
    assert {name: where for name, where in house.shared_classes(package).items() if name not in SAME_CLASSES} == {}


def test_a_module_has_a_name_of_its_own(house: ModuleType) -> None:
    shared = {package: house.shared_modules(package) for package in ("pipeline", "runtime")}
    assert {name: where for found in shared.values() for name, where in found.items() if name not in SAME_MODULES} == {}
    unused = set(SAME_MODULES) - {name for found in shared.values() for name in found}
    assert unused == set(), "no modules share these names any more"


def test_names_shared_by_modules_are_found(house: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lint finds a class within a function, and knows a folder's main module and its command."""
    sources = {
        "store": "class Lock: ...", "store.store": "", "cli.store": "", "plan.lock": "def f():\n    class Lock: ...",
        "supply.lock": "", "supply": "",
    }  # fmt: skip
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(house, "modules", lambda _package: {name: tmp_path / name for name in sources})
    assert house.shared_classes("pipeline") == {"Lock": ["plan.lock", "store"]}
    assert house.shared_modules("pipeline") == {"lock": ["plan.lock", "supply.lock"]}


def test_upward_imports_and_circles_are_found(house: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lint finds an upward import and a circle, so its empty lists above mean something."""
    known = {"base.a": frozenset({"cli.b"}), "cli.b": frozenset({"base.a"}), "": frozenset()}
    monkeypatch.setattr(house, "imports", lambda _package: known)
    assert house.upward("pipeline") == ["pipeline: base.a imports cli.b"]
    assert house.circles("pipeline") == ["base.a -> cli.b -> base.a"]


def test_the_picture_is_the_present_one(house: ModuleType) -> None:
    """Made again by: python ci/house.py --write"""
    assert house.written() == house.picture()
