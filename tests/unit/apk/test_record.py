# SPDX-License-Identifier: Apache-2.0
"""Our light `dataclass` means what the standard one means, and keeps the start of the lab's `apk` short."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.apk.format.pkginfo import Dependency, PkgInfo

INFO = PkgInfo("a", "1-r0", "noarch", depends=("b",))


def make_text(text: str) -> object:
    """A text whose type the checker does not see."""
    return text


def test_our_dataclass_behaves_as_the_standard_one() -> None:
    make: Any = Dependency
    assert Dependency("a", "=", "1") == Dependency(name="a", version="1", op="=")
    assert Dependency("a") != Dependency("b")
    assert Dependency("a") != make_text("a")
    assert len({Dependency("a"), Dependency("a"), Dependency("b")}) == 2
    assert repr(Dependency("a")) == "Dependency(name='a', op='', version='', conflict=False)"
    calls: list[Callable[[], object]] = [make, lambda: make("a", name="b"), lambda: make("a", other=1), lambda: make(*"abcde")]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    changes: list[Callable[[], object]] = [
        lambda: setattr(INFO, "name", "b"),
        lambda: setattr(INFO, "other", 1),
        lambda: delattr(INFO, "name"),
    ]
    for change in changes:
        with pytest.raises(AttributeError):
            change()
    assert not hasattr(INFO, "__dict__")


def test_tools_for_standard_dataclasses_work_with_ours() -> None:
    assert dataclasses.replace(INFO, name="b") == PkgInfo("b", "1-r0", "noarch", depends=("b",))
    assert dataclasses.asdict(INFO)["depends"] == ("b",)
    assert [field.name for field in dataclasses.fields(INFO)][:3] == ["name", "version", "arch"]
    assert copy.deepcopy(INFO) == INFO == pickle.loads(pickle.dumps(INFO))
    match INFO:
        case PkgInfo(name, _version, _arch):
            assert name == "a"


def test_reading_imports_little(checkout: Path) -> None:
    """What the lab's `apk` imports to read packages, indexes and its database; -S keeps this machine's own out of it."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import pipeline.apk.format.index, pipeline.apk.format.installed\n"
    code += "print(*sys.modules)"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code, checkout], capture_output=True, text=True, check=True)
    slow = {"inspect", "dataclasses", "typing", "re", "pathlib", "tempfile", "shutil", "tarfile", "subprocess", "cryptography"}
    assert slow & set(run.stdout.split()) == set()
