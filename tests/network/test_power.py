# SPDX-License-Identifier: Apache-2.0
"""`tower poweroff` and `tower reboot` on the ring: hosts that end, and start again, by their own init."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.network.home import User, make_hosts, unplugged
from tests.network.machines import Machine, Tower

NAMES = ("router", "online1", "offline1")


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, NAMES)


@pytest.fixture(autouse=True)
def all_on(machines: Tower, user: User) -> Iterator[None]:
    """After each test every machine is on again."""
    yield
    for machine in (machines[name] for name in NAMES):
        if not machine.is_on:
            machines.turn_on(machine)


def boot(user: User, name: str) -> str:
    """The name of the start that a host runs since."""
    found: str = user.json("status", name)["hosts"][0]["boot"]
    return found


def test_all_hosts_go_off_and_the_router_last(machines: Tower, user: User) -> None:
    def ends(name: str) -> float:
        assert not machines[name].wait_until_off(), f"{name} asked to be started again"
        return time.monotonic()

    with ThreadPoolExecutor() as pool:
        ending = {name: pool.submit(ends, name) for name in NAMES}
        found = user.json("poweroff", "--all", "--yes", "--timeout", "40", timeout=120)
        ended = {name: future.result(20) for name, future in ending.items()}
    assert found["all_done"]
    assert [row["host"] for row in found["hosts"]][-1] == "router"
    assert {row["text"] for row in found["hosts"]} == {"off"}
    assert ended["router"] > max(ended["online1"], ended["offline1"])
    down = user.json("status", "--timeout", "5", status=15)
    assert {row["state"] for row in down["hosts"]} == {"down"}


def test_a_host_that_is_off_need_not_be_told(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        found = user.json("poweroff", "offline1", "--yes", "--timeout", "20")
    assert found["hosts"] == [{"host": "offline1", "done": True, "text": "is off already", "seconds": 0.0}]


@contextmanager
def deaf(host: Machine) -> Iterator[None]:
    """A host whose init gets its orders and does nothing about them, until it wakes up."""
    os.kill(host.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(host.pid, signal.SIGCONT)


def has_an_order(host: Machine) -> bool:
    """Whether a signal waits for the host's init, which is what its orders are: to halt, to power off, to reboot."""
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{host.pid}/status").read_text().splitlines())
    orders = sum(1 << (order - 1) for order in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM))
    return int(rows["ShdPnd"], 16) & orders != 0


def test_a_host_that_only_stops_its_ssh_server_is_not_off(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    with deaf(host), ThreadPoolExecutor(1) as pool:
        asking = pool.submit(user.json, "poweroff", "offline1", "--yes", "--timeout", "4", status=15)
        ends = time.monotonic() + 20
        while not has_an_order(host):
            assert time.monotonic() < ends, "no order came"
            time.sleep(0.05)
        host.kill(signal.SIGTERM, "sshd.*listener")
        found = asking.result()
    assert found["hosts"][0]["text"] == "still on after 4 s"
    assert not host.wait_until_off(20)


def test_a_host_is_back_when_it_started_anew(machines: Tower, user: User) -> None:
    before = boot(user, "offline1")
    others = boot(user, "online1")
    with machines.firmware("offline1"):
        found = user.json("reboot", "offline1", "--yes", "--timeout", "60", timeout=90)
    assert (found["all_done"], found["hosts"][0]["text"]) == (True, "back")
    assert uuid.UUID(boot(user, "offline1")) != uuid.UUID(before)
    assert boot(user, "online1") == others


def test_a_host_that_never_went_down_is_not_back(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    with deaf(host):
        found = user.json("reboot", "offline1", "--yes", "--timeout", "3", status=15)
        assert has_an_order(host)
    assert found["hosts"][0]["text"] == "not back after 3 s: it has not gone down"
    assert host.wait_until_off(20), "it starts again"


def test_a_host_that_refuses(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    rules = host.read("etc/doas.conf")
    host.write("etc/doas.conf", "deny :wheel\n", 0o400)
    try:
        found = user.json("poweroff", "offline1", "router", "--yes", "--no-wait", status=15)
    finally:
        host.write("etc/doas.conf", rules, 0o400)
    assert not machines["router"].wait_until_off(20)
    rows = {row["host"]: row for row in found["hosts"]}
    assert rows["offline1"]["text"].startswith("cannot be reached: ")
    assert rows["router"]["text"] == "told"
    assert host.is_on


def test_no_order_is_sent_without_a_yes(machines: Tower, user: User) -> None:
    done = user.tower("poweroff", "--all")
    assert done.returncode == 10
    assert "--yes" in done.stderr
    assert user.tower("poweroff").returncode == 10
    assert user.tower("reboot", "web", "--yes").returncode == 11
    assert all(machines[name].is_on for name in NAMES)
