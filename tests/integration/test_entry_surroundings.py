# SPDX-License-Identifier: Apache-2.0
"""ci/doit where a checkout, a user or the environment is unusual: it works, or says at once why it does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.entry import make_machine


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "it's",
        "grün 漢",
        "a,b;c",
        "#1 %41",
        "[x] (y)",
        "~",
        "~root",
        "-i",
        "R&D",
        "back\\slash",
        "a|b",
        "a=b",
        "`id`",
        "*?!",
        "<^>",
    ],
)
def test_a_folder_of_this_name(tmp_path: Path, checkout: Path, name: str) -> None:
    machine = make_machine(tmp_path, checkout, f"{name}/-tower")
    done = machine.doit("list")
    assert (done.stdout, done.returncode) == (f"doit runs {machine.checkout} list\n", 0), done.stderr
    assert machine.doit("list").stderr == "", "once is enough"
    # A script of the environment finds the Python beside it, by a link from elsewhere, too.
    (tmp_path / "link").symlink_to(machine.checkout / ".venv/bin/tool")
    for script in (machine.checkout / ".venv/bin/tool", tmp_path / "link"):
        subprocess.run([script, "word"], env={**machine.environment(), "PATH": os.defpath}, check=True, timeout=60)
    assert machine.noted("python", "tool word\n") + machine.noted("python", "link word\n") == 2


@pytest.mark.parametrize("name", [b"a:b", b'a"b', b"$HOME", b"a{b", b"a}b", b"a\nb", b"end\n", b"\x1b[1m", b"\xff"])
def test_a_folder_that_programs_would_not_find(tmp_path: Path, checkout: Path, name: bytes) -> None:
    machine = make_machine(tmp_path, checkout, os.fsdecode(name))
    done = machine.doit("list")
    assert (done.returncode, done.stdout) == (10, "")
    said = done.stderr.splitlines()
    assert said[0].startswith("ci/doit: error: this checkout cannot be used where it is: ")
    assert said[0].isprintable()
    assert said[1:] == [
        "  its path may have no colon, double quote, dollar sign, brace, line feed or other control character, and must be UTF-8",
        "  hint: move it to another folder",
    ]
    assert not (machine.notes / "python").exists(), "before anything is begun"
    assert sorted(path.name for path in machine.checkout.iterdir()) == ["ci", "pyproject.toml"]


def test_called_by_a_relative_path(tmp_path: Path, checkout: Path) -> None:
    """The folder's name looks like an option, and `cd` would look for it elsewhere."""
    machine = make_machine(tmp_path, checkout, "-i")
    (tmp_path / "elsewhere" / "-i").mkdir(parents=True)
    (tmp_path / "elsewhere" / "ci").mkdir(parents=True)
    env = machine.environment(CDPATH=str(tmp_path / "elsewhere"))
    for folder, argv in (
        (tmp_path, ("--", "-i/ci/doit")),
        (machine.checkout, ("ci/doit",)),
        (machine.checkout / "ci", ("doit",)),
    ):
        done = subprocess.run(
            ["/bin/bash", *argv, "list"], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout == f"doit runs {machine.checkout} list\n", done.stderr
