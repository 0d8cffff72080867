# SPDX-License-Identifier: Apache-2.0
"""Folders depend downwards only, nothing depends on itself, and the picture of it is the present one."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from tests.conftest import CHECKOUT


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


def test_what_the_lint_finds(house: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lint finds an upward import and a circle, so its empty lists above mean something."""
    known = {"base.a": frozenset({"cli.b"}), "cli.b": frozenset({"base.a"}), "": frozenset()}
    monkeypatch.setattr(house, "imports", lambda _package: known)
    assert house.upward("pipeline") == ["pipeline: base.a imports cli.b"]
    assert house.circles("pipeline") == ["base.a -> cli.b -> base.a"]


def test_the_picture_is_the_present_one(house: ModuleType) -> None:
    """Made again by: python ci/house.py --write"""
    assert house.written() == house.picture()
