# SPDX-License-Identifier: Apache-2.0
"""`tower poweroff` and `tower reboot` on the ring.

A machine of the ring has no power of its own: `poweroff` and `reboot` are stand-ins there that do what the network and
the thin client see of the real ones. ssh, doas, firewalls, and what is told from what, are real.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.home import User, make_hosts, plug_in, unplugged
from tests.network.machines import Machine, Tower

NAMES = ("router", "online1", "offline1")
# Services end first; a while later the machine is gone from its network.
OFF = """#!/bin/sh
[ "$(id -u)" = 0 ] || exit 1
cat /proc/uptime >/var/told
(sleep 0.3; kill "$(cat /run/sshd.pid)"; sleep 0.7; ip link set eth0 down) >/dev/null 2>&1 &
"""
ON = """#!/bin/sh
[ "$(id -u)" = 0 ] || exit 1
cat /proc/uptime >/var/told
(
	sleep 0.3; kill "$(cat /run/sshd.pid)"; sleep 0.7; ip link set eth0 down; sleep 2
	cat /proc/sys/kernel/random/uuid >/var/boot
	mount --bind /var/boot /proc/sys/kernel/random/boot_id
	ip link set eth0 up; sleep 1; /usr/sbin/sshd
) >/dev/null 2>&1 &
"""


@pytest.fixture(scope="module")
def user(machines: Tower) -> Iterator[User]:
    made = make_hosts(machines, NAMES)
    for name in NAMES:
        machines[name].write("usr/local/bin/poweroff", OFF, 0o755)
        machines[name].write("usr/local/bin/reboot", ON, 0o755)
        machines[name].write("etc/doas.conf", "permit nopass setenv { PATH=/usr/local/bin:/usr/bin:/bin:/sbin } :wheel\n", 0o400)
    yield made
    for name in NAMES:
        for order in ("poweroff", "reboot"):
            (machines[name].root / "usr/local/bin" / order).unlink()


@pytest.fixture(autouse=True)
def all_on(machines: Tower, user: User) -> Iterator[None]:
    """After each test every machine is on again, under its own name of this start."""
    yield
    for name in NAMES:
        host = machines[name]
        plug_in(host)
        host.run("sh", "-c", 'rm -f /var/told; kill -0 "$(cat /run/sshd.pid)" || /usr/sbin/sshd')
        host.run("sh", "-c", "while umount /proc/sys/kernel/random/boot_id 2>/dev/null; do :; done")
        host._wait_for_listener(22)


def told(host: Machine) -> float | None:
    """When the host got its order."""
    path = host.root / "var" / "told"
    return float(path.read_text().split()[0]) if path.exists() else None


def test_all_hosts_go_off_and_the_router_last(machines: Tower, user: User) -> None:
    found = user.json("poweroff", "--all", "--yes", "--timeout", "40", timeout=120)
    assert found["all_done"]
    assert [row["host"] for row in found["hosts"]][-1] == "router"
    assert {row["text"] for row in found["hosts"]} == {"off"}
    times = {name: told(machines[name]) for name in NAMES}
    others = [times["online1"], times["offline1"]]
    assert all(one is not None for one in others)
    assert times["router"] is not None
    assert times["router"] > max(one for one in others if one is not None) + 1
    down = user.json("status", "--timeout", "5", status=15)
    assert {row["state"] for row in down["hosts"]} == {"down"}


def test_a_host_that_is_off_need_not_be_told(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        found = user.json("poweroff", "offline1", "--yes", "--timeout", "20")
    assert found["hosts"] == [{"host": "offline1", "done": True, "text": "is off already", "seconds": 0.0}]


def test_a_host_that_only_stops_its_ssh_server_is_not_off(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    host.write("usr/local/bin/poweroff", '#!/bin/sh\n(sleep 0.3; kill "$(cat /run/sshd.pid)") >/dev/null 2>&1 &\n', 0o755)
    try:
        found = user.json("poweroff", "offline1", "--yes", "--timeout", "4", status=15)
    finally:
        host.write("usr/local/bin/poweroff", OFF, 0o755)
    assert found["hosts"][0]["text"] == "still there after 4 s"


def test_a_host_is_back_when_it_started_anew(machines: Tower, user: User) -> None:
    before = user.json("status", "offline1")["hosts"][0]["boot"]
    found = user.json("reboot", "offline1", "--yes", "--timeout", "60", timeout=90)
    assert (found["all_done"], found["hosts"][0]["text"]) == (True, "back")
    after = user.json("status", "offline1")["hosts"][0]["boot"]
    assert uuid.UUID(after) != uuid.UUID(before)
    assert Path("/proc/sys/kernel/random/boot_id").read_text().strip() == before


def test_a_host_that_never_went_down_is_not_back(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    host.write("usr/local/bin/reboot", "#!/bin/sh\n", 0o755)
    try:
        found = user.json("reboot", "offline1", "--yes", "--timeout", "3", status=15)
    finally:
        host.write("usr/local/bin/reboot", ON, 0o755)
    assert found["hosts"][0]["text"] == "not back after 3 s: it has not gone down"


def test_a_host_that_refuses(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    rules = host.read("etc/doas.conf")
    host.write("etc/doas.conf", "deny :wheel\n", 0o400)
    try:
        found = user.json("poweroff", "offline1", "router", "--yes", "--no-wait", status=15)
    finally:
        host.write("etc/doas.conf", rules, 0o400)
    ends = time.monotonic() + 10
    while "state DOWN" not in machines["router"].run("ip", "link", "show", "eth0").stdout:
        assert time.monotonic() < ends, "the router was not told"
        time.sleep(0.1)
    rows = {row["host"]: row for row in found["hosts"]}
    assert rows["offline1"]["text"].startswith("cannot be told: ")
    assert rows["router"]["text"] == "told"


def test_nobody_is_told_without_a_yes(machines: Tower, user: User) -> None:
    done = user.tower("poweroff", "--all")
    assert done.returncode == 10
    assert "--yes" in done.stderr
    assert user.tower("poweroff").returncode == 10
    assert user.tower("reboot", "web", "--yes").returncode == 11
    assert [told(machines[name]) for name in NAMES] == [None, None, None]
