# SPDX-License-Identifier: Apache-2.0
"""What is installed on devices, and by `pip install -e`: the command `tower`, from runtime/ alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.release.reproducible import checkout_files


def test_the_wheel_holds_the_runtime_alone(checkout: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy2(checkout / name, source / name)
    for name in ("runtime", "pipeline"):
        shutil.copytree(checkout / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "lab"))
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(argv, check=True, timeout=120)
    (wheel,) = tmp_path.glob("tower-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    code = {name.removeprefix("tower/") for name in names if name.startswith("tower/")}
    assert {name for name in names if not name.startswith("tower/")} == {name for name in names if ".dist-info/" in name}
    assert code == {
        path.relative_to(checkout / "runtime").as_posix()
        for path in (checkout / "runtime").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".lock"
    }


def test_the_command_of_an_editable_installation() -> None:
    command = Path(sys.prefix) / "bin" / "tower"
    if not command.exists():
        pytest.skip("not run from an environment that the project is installed in")
    done = subprocess.run([command, "version"], cwd="/", capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("tower ")


def test_an_environment_of_ones_own(checkout: Path, tmp_path: Path) -> None:
    """What the README says for who does not want ./ci/doit: a fresh environment, pip, and plain doit."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    for name in checkout_files(checkout):
        if not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, source / name, follow_symlinks=False)
    # The machine's settings of pip hold, and its cache; nothing of the environment that the tests run in does.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env = {**kept, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}"}

    def run(*argv: str, seconds: float = 60) -> str:
        done = subprocess.run(argv, cwd=source, env=env, capture_output=True, text=True, timeout=seconds, check=False)
        assert done.returncode == 0, f"{argv}: exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    run(sys.executable, "-m", "venv", str(venv))
    run(str(venv / "bin" / "pip"), "install", "--quiet", "-e", ".[factory]", seconds=400)
    listed = {line.split()[0] for line in run(str(venv / "bin" / "doit"), "list").splitlines() if line}
    assert {"thinclient", "host", "gc", "explain", "test"} <= listed
    assert run(str(venv / "bin" / "tower"), "version").startswith("tower ")
