# SPDX-License-Identifier: Apache-2.0
"""ci/doit on machines that lack something: each is a PATH of our own with real tools and pretended ones."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.entry import ENGINE, Machine, doit_without_engine, make_machine

_NOBODY = 65534


@pytest.fixture
def machine(tmp_path: Path, checkout: Path) -> Machine:
    return make_machine(tmp_path, checkout)


def test_makes_what_it_needs_once_and_is_quiet_then(machine: Machine) -> None:
    first = machine.doit("list", "-q")
    assert first.stdout == f"doit runs {machine.checkout} list -q\n"
    assert first.stderr == "ci/doit: making .venv from ci/requirements.txt (Python 3.11.0)\n"
    second = machine.doit("list", "-q")
    assert (second.stdout, second.stderr, second.returncode) == (first.stdout, "", 0)
    assert machine.noted("python", "-m venv") == 1
    assert machine.noted("python", "--require-hashes") == 1


def test_scripts_name_the_place_where_the_environment_ended_up(tmp_path: Path, checkout: Path) -> None:
    machine = make_machine(tmp_path, checkout, "checkout")
    machine.doit("list")
    assert (machine.checkout / ".venv/bin/tool").read_text() == f"#!{machine.checkout}/.venv/bin/python\n"


def test_is_quick_when_nothing_is_missing(machine: Machine) -> None:
    """In seconds of the processor: what else the machine does at the time is not its fault."""
    machine.doit("list")
    seconds = []
    for _ in range(5):
        before = os.times()
        machine.doit("run", DOCKER_HOST="")
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert statistics.median(seconds) < 0.2


@pytest.mark.parametrize("name", ["ci/requirements.txt", "pyproject.toml"])
def test_an_edit_makes_the_environment_again(machine: Machine, name: str) -> None:
    machine.doit("list")
    with (machine.checkout / name).open("a") as file:
        file.write("# edited\n")
    assert "making .venv" in machine.doit("list").stderr
    assert machine.doit("list").stderr == ""


def test_a_moved_checkout_makes_the_environment_again(machine: Machine) -> None:
    machine.doit("list")
    moved = Machine(machine.checkout.rename(machine.checkout.with_name("moved")), machine.path, machine.notes)
    assert "making .venv" in moved.doit("list").stderr


def test_two_at_once_prepare_once(machine: Machine) -> None:
    argv = ("/bin/bash", str(machine.checkout / "ci" / "doit"), "list")
    both = [
        subprocess.Popen(
            argv, env=machine.environment(PIP_SECONDS="1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("doit runs" in out for out, _ in said)
    assert machine.noted("python", "--require-hashes") == 1
    assert sum("waiting for another" in err for _, err in said) == 1


def test_a_killed_preparation_is_repeated(machine: Machine) -> None:
    machine.doit("list")
    (machine.checkout / "pyproject.toml").write_text("[project]\nname='x'\n")
    argv = ("/bin/bash", str(machine.checkout / "ci" / "doit"), "list")
    killed = subprocess.Popen(argv, env=machine.environment(PIP_SECONDS="60"), start_new_session=True)
    deadline = time.monotonic() + 20
    while machine.noted("python", "--require-hashes") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert (machine.checkout / ".venv/bin/python").exists(), "the old environment is as it was"
    again = machine.doit("list")
    assert "doit runs" in again.stdout
    assert sorted(path.name for path in machine.checkout.glob(".venv*")) == [".venv"]


def test_no_package_index(machine: Machine) -> None:
    refused = machine.doit("list", PIP_STATUS="1")
    assert refused.returncode == 19
    assert "Python packages of ci/requirements.txt could not be installed" in refused.stderr
    assert not list(machine.checkout.glob(".venv*"))


def test_python_is_too_old(machine: Machine) -> None:
    machine.program("python3", '#!/bin/bash\n[ "$1" = -V ] && echo "Python 3.9.2"; [ "$1" = -V ]\n')
    machine.program("apt-get", "#!/bin/bash\n")
    refused = machine.doit("list")
    assert refused.returncode == 19
    assert "Python 3.11 or later is needed; python3 here is Python 3.9.2" in refused.stderr


def test_installs_what_is_missing_and_says_so_first(machine: Machine) -> None:
    (machine.path / "zstd").unlink()
    (machine.path / "gpgv").unlink()
    machine.program(
        "apt-get",
        f"""#!/bin/bash
        cd {machine.path} && echo "$DEBIAN_FRONTEND $*" >> "$NOTES/apt"
        case "$*" in *install*) echo "apt-get speaks"; cp xz zstd; cp xz gpgv ;; esac
        """,
    )
    done = machine.doit("list")
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0] == "ci/doit: installing system packages: gpgv zstd"
    assert said[1] == "apt-get speaks", "and to stderr: stdout is data"
    assert machine.noted("apt", "install --no-install-recommends gpgv zstd") == 1
    assert machine.noted("apt", "noninteractive") == 2
    assert machine.doit("list").stderr == ""


def test_tools_of_the_tests_are_for_the_tests(machine: Machine) -> None:
    (machine.path / "apt-get").unlink()
    assert "lacks apt" in machine.doit("list").stderr
    for words in (("-n", "2", "boot:host"), ("audit:elf",)):
        wanted = machine.doit(*words).stderr
        assert all(name in wanted for name in ("qemu-system-arm", "qemu-system-x86", "squashfs-tools", "shellcheck"))


def test_tools_of_light_machines_are_for_sim(machine: Machine) -> None:
    (machine.path / "apt-get").unlink()
    wanted = machine.doit("sim", "machines=light").stderr
    assert "util-linux" in wanted
    assert "shellcheck" not in wanted
    assert "util-linux" not in machine.doit("list").stderr


def test_no_package_manager(machine: Machine) -> None:
    (machine.path / "apt-get").unlink()
    (machine.path / "zstd").unlink()
    refused = machine.doit("list")
    assert refused.returncode == 19
    assert "this machine lacks apt zstd" in refused.stderr
    assert "there is no apt-get here" in refused.stderr


def test_not_root(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    machine.give(_NOBODY)
    (machine.path / "zstd").unlink()
    refused = machine.doit("list", user=_NOBODY)
    assert refused.returncode == 19
    assert "hint: as root: apt-get install --no-install-recommends zstd" in refused.stderr
    machine.program("sudo", '#!/bin/bash\n[ "$1" = -n ] || exit 1\nshift\nexec "$@"\n')
    machine.program("apt-get", f"#!/bin/bash\necho $* >> $NOTES/apt\ncp {machine.path}/xz $NOTES/zstd\n")
    assert machine.doit("list", user=_NOBODY, PATH=f"{machine.path}:{machine.notes}").returncode == 0
    assert machine.noted("apt", "-y -o DPkg::Lock::Timeout=600 install") == 1


@pytest.fixture
def _namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes a mount namespace")


@pytest.mark.usefixtures("_namespaces")
def test_starts_the_engine_and_leaves_it(machine: Machine) -> None:
    machine.program("dockerd", ENGINE.replace("REAL", "/usr/bin/python3"))
    done = doit_without_engine(machine, "run")
    engine = int((machine.notes / "engine").read_text())
    try:
        assert done.returncode == 0, done.stderr
        assert "starting the Docker engine (log: build/log/dockerd.log)" in done.stderr
        assert "doit runs" in done.stdout
        assert "level=info" in (machine.checkout / "build/log/dockerd.log").read_text()
        os.kill(engine, 0)
    finally:
        os.kill(engine, signal.SIGKILL)


@pytest.mark.usefixtures("_namespaces")
def test_the_engine_cannot_start(machine: Machine) -> None:
    machine.program("dockerd", "#!/bin/bash\necho 'failed to start daemon: no overlay here' >&2\nexit 1\n")
    done = doit_without_engine(machine, "run")
    assert done.returncode == 14
    assert "could not be started" in done.stderr
    assert "no overlay here" in done.stderr
    assert "doit runs" not in done.stdout
    # What only looks needs no engine.
    assert doit_without_engine(machine, "list").returncode == 0
    assert doit_without_engine(machine, "channel=lab", "list").returncode == 0


@pytest.mark.usefixtures("_namespaces")
def test_an_engine_is_installed_for_what_needs_one(machine: Machine) -> None:
    (machine.path / "dockerd").unlink()
    # Programs of this machine stay out of sight: its own engine would do.
    machine.program("apt-get", '#!/bin/bash\necho "$*" >> "$NOTES/apt"\n')
    for words in (("list",), ("explain",), ("channel=lab", "gc"), ("help",)):
        done = doit_without_engine(machine, *words, alone=True)
        assert done.returncode == 0, done.stderr
        assert "docker" not in done.stderr
    assert not (machine.notes / "apt").exists()
    refused = doit_without_engine(machine, "host", alone=True)
    assert refused.stderr.count("installing system packages: docker.io") >= 1
    assert machine.noted("apt", "install --no-install-recommends docker.io") >= 1
    assert refused.returncode != 0
    assert "doit runs" not in refused.stdout


@pytest.mark.usefixtures("_namespaces")
def test_no_engine_and_not_root(machine: Machine) -> None:
    machine.give(_NOBODY)
    refused = doit_without_engine(machine, "host", alone=True, user=_NOBODY)
    assert refused.returncode == 14
    assert "no Docker engine answers at /var/run/docker.sock" in refused.stderr
    assert "hint: start it (as root: dockerd" in refused.stderr
    (machine.path / "dockerd").unlink()
    refused = doit_without_engine(machine, "host", alone=True, user=_NOBODY)
    assert refused.returncode == 19
    assert "hint: as root: apt-get install --no-install-recommends docker.io" in refused.stderr
