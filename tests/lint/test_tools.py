# SPDX-License-Identifier: Apache-2.0
"""Formatters, type checker, spelling: what they say of the whole checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

_STAND_INS = ("pipeline", "channels", "lab", "packages")


def check(argv: Sequence[str | Path], checkout: Path, **extra: str) -> None:
    """Run a tool; its complaints are the failure."""
    done = subprocess.run(argv, cwd=checkout, env={**os.environ, **extra}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, argv[:6]))}\n{done.stdout}{done.stderr}", pytrace=False)


def module(name: str, *args: str) -> list[str]:
    return [sys.executable, "-m", name, *args]


def test_ruff_check(checkout: Path) -> None:
    check(module("ruff", "check", "--quiet", "."), checkout)


def test_ruff_format(checkout: Path) -> None:
    check(module("ruff", "format", "--check", "--quiet", "--diff", "."), checkout)


@pytest.fixture(scope="module")
def named_runtime(checkout: Path) -> None:
    """A place where runtime/ has the name that it is installed by; pyproject.toml tells mypy of it."""
    link = checkout / "build" / "mypy" / "tower"
    link.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        link.symlink_to(checkout / "runtime", target_is_directory=True)


@pytest.mark.usefixtures("named_runtime")
def test_mypy(checkout: Path) -> None:
    check(module("mypy", "--no-error-summary", "-p", "pipeline", "-p", "tower", "-p", "tests"), checkout)


def test_mypy_of_programs(checkout: Path, files: tuple[Path, ...]) -> None:
    """Stages and the lab's stand-ins are programs, not modules of the factory: each is checked for itself."""
    library = checkout / "stages" / "lib"
    wanted: set[tuple[str, ...]] = set()
    for path in files:
        below = path.relative_to(checkout).parts
        if path.suffix != ".py" or path.is_relative_to(library) or not (below[0] == "stages" or below[:3] == _STAND_INS):
            continue
        own = (path.parent / "__init__.py").is_file()
        wanted.add((str(path.parent.parent), "-p", path.parent.name) if own else (str(path.parent), str(path)))
    for folder, *what in sorted(wanted):
        check(module("mypy", "--no-error-summary", *what), checkout, MYPYPATH=folder)


def test_codespell(checkout: Path, texts: dict[Path, str]) -> None:
    check(module("codespell_lib", *(str(path) for path in texts if path.name != "requirements.txt")), checkout)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("bash", ("--shell=bash",)),
        ("sh", ("--shell=sh",)),
        # OpenRC reads the variables that a service sets, and sources the file from a shell of its own.
        ("openrc", ("--shell=sh", "--exclude=SC2034,SC1008")),
        ("sourced", ("--shell=sh", "--exclude=SC2034")),
    ],
)
def test_shellcheck(checkout: Path, shell_files: dict[str, list[Path]], kind: str, options: tuple[str, ...]) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    if shell_files[kind]:
        check(["shellcheck", *options, *shell_files[kind]], checkout)
