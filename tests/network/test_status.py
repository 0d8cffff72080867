# SPDX-License-Identifier: Apache-2.0
"""`tower status` on the ring: hosts that are up, and each way of not being up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.light.services import set_shell, start_ssh_server
from tests.network.home import User, child_of, make_hosts, talk, unplugged
from tests.network.machines import USER, Machine, Tower

NAMES = ("router", "online1", "offline1")


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, NAMES)


def rows(user: User, *words: str, status: int = 0) -> dict[str, dict[str, Any]]:
    return {row["host"]: row for row in user.json("status", *words, status=status)["hosts"]}


@pytest.mark.qa("H03")
def test_all_hosts_are_up(machines: Tower, user: User) -> None:
    found = user.json("status")
    assert found["all_up"] is True
    assert [row["host"] for row in found["hosts"]] == ["router", "offline1", "online1"]
    for row in found["hosts"]:
        assert (row["state"], row["reason"]) == ("up", "")
        assert row["boot"] == machines[row["host"]].read("proc/sys/kernel/random/boot_id").strip()
        assert abs(row["uptime"] - float(Path("/proc/uptime").read_text().split()[0])) < 30
        assert 0 < row["memory_used"] < row["memory"]
        assert 0 < row["disk_used"] < row["disk"]


def test_version_and_packages_of_a_host(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    before = host.read("etc/os-release")
    host.write("etc/os-release", 'NAME="TowerOS"\nVERSION_ID=1.2.3\nPRETTY_NAME="TowerOS host 1.2.3 (lab)"\n')
    host.write("lib/apk/db/installed", "C:Q1x\nP:musl\nV:1\n\nC:Q1y\nP:busybox\nV:2\n\n")
    row = rows(user, "offline1")["offline1"]
    host.write("etc/os-release", before)
    assert (row["version"], row["system"], row["packages"]) == ("1.2.3", "TowerOS host 1.2.3 (lab)", 2)


def test_the_table_for_people(user: User) -> None:
    done = user.tower("status")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["host", "network", "state"]
    up = [["router", "router", "up"], ["offline1", "offline", "up"], ["online1", "online", "up"]]
    assert [line.split()[:3] for line in lines[1:4]] == up


@contextmanager
def sshd_stopped(host: Machine, how: signal.Signals) -> Iterator[None]:
    """The server that takes connections, ended or kept from running."""
    number = host.read("run/sshd.pid").strip()
    host.run("kill", "-s", how.name.removeprefix("SIG"), number)
    ends = time.monotonic() + 20
    while how is not signal.SIGSTOP and 22 in {port for _, port in host.listeners()}:
        assert time.monotonic() < ends, f"{host.name}: its ssh server is still there"
        time.sleep(0.02)
    try:
        yield
    finally:
        if how is signal.SIGSTOP:
            host.run("kill", "-s", "CONT", number)
        else:
            start_ssh_server(host)


def test_the_table_on_a_terminal_is_filled_as_hosts_answer(machines: Tower, user: User) -> None:
    with sshd_stopped(machines["offline1"], signal.SIGSTOP):
        status, shown = talk(user.argv("status", "--timeout", "2", env={"TERM": "xterm"}))
    assert status == 15
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert text.index("asked ...") < text.index(" up    ") < text.index("strange")
    assert "offline1: the machine at 192.168.3.200 accepts the connection" in " ".join(text.split())


def one_is(user: User, state: str, reason: str) -> None:
    """offline1 is not up, the others are, and it did not take longer than it may."""
    start = time.monotonic()
    found = rows(user, "--timeout", "2", status=15)
    assert time.monotonic() - start < 8
    assert (found["offline1"]["state"], found["router"]["state"], found["online1"]["state"]) == (state, "up", "up")
    assert reason in found["offline1"]["reason"], found["offline1"]["reason"]
    assert "memory" not in found["offline1"]


@pytest.mark.qa("H03")
def test_a_host_that_is_off(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        one_is(user, "down", "nothing answers at 192.168.3.200")


def test_a_host_without_its_ssh_server(machines: Tower, user: User) -> None:
    with sshd_stopped(machines["offline1"], signal.SIGTERM):
        one_is(user, "down", "its ssh server is not")


def test_a_host_that_hangs(machines: Tower, user: User) -> None:
    with sshd_stopped(machines["offline1"], signal.SIGSTOP):
        one_is(user, "strange", "accepts the connection but is silent")


def test_a_host_that_hangs_after_the_login(machines: Tower, user: User) -> None:
    with login_shell(machines["offline1"], "#!/bin/sh\nexec sleep 60\n"):
        one_is(user, "strange", "did not answer within 2 s")


def test_a_host_that_refuses_the_key(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    keys = host.read("home/user/.ssh/authorized_keys")
    host.write("home/user/.ssh/authorized_keys", "", 0o600)
    try:
        one_is(user, "strange", "does not accept the key")
    finally:
        host.write("home/user/.ssh/authorized_keys", keys, 0o600)


def test_another_machine_at_the_hosts_address(machines: Tower, user: User) -> None:
    known = Path(f"/proc/{user.machine.pid}/root/root/.local/tower/known_hosts")
    before = known.read_text()
    other = next(line.split(" ", 1)[1] for line in before.splitlines() if line.startswith("router "))
    known.write_text(re.sub(r"^offline1 .*$", f"offline1 {other}", before, flags=re.MULTILINE))
    try:
        one_is(user, "strange", "another host key")
    finally:
        known.write_text(before)


@contextmanager
def login_shell(host: Machine, program: str) -> Iterator[None]:
    host.write("usr/local/bin/odd-shell", program, 0o755)
    set_shell(host, USER, "/usr/local/bin/odd-shell")
    try:
        yield
    finally:
        set_shell(host, USER, "/bin/sh")


@pytest.mark.parametrize(
    "program",
    [
        "#!/bin/sh\necho hello\n",
        "#!/bin/sh\nprintf 'tower-status 1\\nuptime 1.0\\nend\\n'\n",
        "#!/bin/sh\nprintf 'tower-status 1\\nsystem \\033[2J\\nend\\n'\n",
        "#!/bin/sh\nexec cat /dev/zero\n",
        "#!/bin/sh\nprintf 'tower-status 1\\nboot'\n",
    ],
    ids=["talk", "little", "escape", "flood", "cut"],
)
def test_a_host_that_answers_garbage(machines: Tower, user: User, program: str) -> None:
    with login_shell(machines["offline1"], program):
        one_is(user, "strange", "its answer")


def test_watching_follows_a_host_down_and_up(machines: Tower, user: User) -> None:
    argv = user.argv("status", "--watch", "--interval", "0.3", "--timeout", "2", "--json", "offline1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as watching:
        assert watching.stdout is not None

        def wait_for(state: str) -> None:
            ends = time.monotonic() + 30
            assert watching.stdout is not None
            while json.loads(watching.stdout.readline())["hosts"][0]["state"] != state:
                assert time.monotonic() < ends

        try:
            wait_for("up")
            wait_for("up")
            before = sshs(machines["thinclient"])
            with unplugged(machines["offline1"]):
                wait_for("strange")  # the open connection is silent
                wait_for("down")
            wait_for("up")
            assert before == 1, "a watch keeps one connection"
        finally:
            os.kill(child_of(watching), signal.SIGINT)
        assert watching.wait(20) == 0
    assert sshs(machines["thinclient"]) == 0


def sshs(machine: Machine) -> int:
    """How many ssh run there."""
    return len(machine.run("sh", "-c", "grep -l '^ssh' /proc/[0-9]*/comm || true").stdout.split())
