# SPDX-License-Identifier: Apache-2.0
"""ci/doit where a checkout, a user or the environment is unusual: it works, or says at once why it does not."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.entry import ENGINE, Machine, doit_without_engine, make_machine

_NOBODY = 65534
_NAMELESS = 54321
"""A number that the system has no name and no home for."""


@pytest.fixture
def machine(tmp_path: Path, checkout: Path) -> Machine:
    return make_machine(tmp_path, checkout)


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


@pytest.mark.parametrize(
    "name", ["PYTHONHOME", "PYTHONSAFEPATH", "PYTHONINSPECT", "PIP_TARGET", "PIP_USER", "PIP_PREFIX", "PIP_ROOT"]
)
def test_a_setting_that_is_for_other_programs(machine: Machine, name: str) -> None:
    machine.program(
        "python3",
        f'#!/bin/bash\necho "${{{name}-none}} $*" >> "$NOTES/seen"\n'
        + (machine.path / "python3").read_text().removeprefix("#!/bin/bash\n"),
    )
    assert machine.doit("list", env={name: "/nonexistent"}).returncode == 0
    seen = (machine.notes / "seen").read_text().splitlines()
    mattered = [line for line in seen if "install" in line] if name.startswith("PIP_") else seen
    assert mattered
    assert [line for line in mattered if not line.startswith("none ")] == []


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_an_unusable_home_is_replaced_by_the_systems_entry(machine: Machine, home: str | None) -> None:
    assert machine.doit("list", env={} if home is None else {"HOME": home}).returncode == 0
    known = subprocess.run(["getent", "passwd", str(os.getuid())], capture_output=True, text=True, check=True).stdout.split(":")[
        5
    ]
    assert (machine.notes / "found").read_text().split()[0] == known


def test_a_user_without_a_name(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    machine.give(_NAMELESS)
    done = machine.doit("list", user=_NAMELESS)
    assert (done.returncode, done.stdout) == (0, f"doit runs {machine.checkout} list\n"), done.stderr
    # pip would keep downloads in a folder called ~.
    assert machine.noted("python", "install --no-cache-dir") == 2
    assert (machine.notes / "found").read_text().split()[0] == "none", "and not the root of all files, which is nobody's home"


def test_an_engine_that_is_not_open_to_a_user_without_a_name(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes a mount namespace")
    machine.give(_NAMELESS)
    server = "import os, socket; socket.socket(socket.AF_UNIX).bind('/run/docker.sock'); os.chmod('/run/docker.sock', 0o600)"
    refused = doit_without_engine(machine, "host", user=_NAMELESS, first=f'/usr/bin/python3 -c "{server}"')
    assert refused.returncode == 14
    assert (
        f"the Docker engine at /var/run/docker.sock is not open to {_NAMELESS}\n  hint: as root: usermod -aG docker {_NAMELESS}, "
        in refused.stderr
    )
    assert "cannot find name" not in refused.stderr


def test_a_checkout_of_somebody_else(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    machine.give(_NOBODY)
    os.chown(machine.checkout, 0, 0)
    refused = machine.doit("list", user=_NOBODY)
    assert refused.returncode == 16
    assert f"ci/doit: error: this checkout cannot be written to: {machine.checkout}\n" in refused.stderr
    assert "hint: look at the message above; make a clone of your own" in refused.stderr


def test_a_umask_that_keeps_things_from_others(machine: Machine) -> None:
    """The umask holds for the user's files; installed packages and the engine stay readable for everybody."""
    if os.geteuid() != 0:
        pytest.skip("only root makes a mount namespace")
    (machine.path / "gpgv").unlink()
    machine.program("apt-get", f'#!/bin/bash\numask >> "$NOTES/umask"\ncp "{machine.path}/xz" "{machine.path}/gpgv"\n')
    machine.program("dockerd", '#!/bin/bash\numask >> "$NOTES/umask"\n' + ENGINE.replace("REAL", "/usr/bin/python3"))
    done = doit_without_engine(machine, "run", alone=True, umask=0o077)
    os.kill(int((machine.notes / "engine").read_text()), signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert (machine.notes / "umask").read_text().split() == ["0022"] * 3
    assert (machine.notes / "found").read_text().split()[1] == "0077"
