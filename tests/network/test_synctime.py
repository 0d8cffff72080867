# SPDX-License-Identifier: Apache-2.0
"""`tower synctime` on the ring: offline hosts take the router's time.

All machines of the ring share one kernel, and its clock: `date` is a stand-in on them that is ahead of that clock, or
behind it, by what it was set. What is measured, sent and refused is real.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.network.home import User, make_hosts, unplugged
from tests.network.machines import Machine, Tower

NEAR = 1.0
"""Seconds: what a machine that is busy with other tests takes to start a program."""
NAMES = ("router", "online1", "offline1", "offline2")
# The real clock, in nanoseconds: busybox' own date has no parts of a second, but its adjtimex has.
_NOW = r"""#!/bin/sh
read -r ahead 2>/dev/null </var/ahead || ahead=0
real=$(/bin/busybox adjtimex | awk '$1 == "time.tv_sec:" { s = $2 } $1 == "time.tv_usec:" { printf "%d%06d000", s, $2 }')
now=$((real + ahead))
"""
DATE = f"""{_NOW}
case $1 in
+%N) echo %N ;;
+%s) echo $((now / 1000000000)) ;;
-s) [ "$(id -u)" = 0 ] && echo $((${{2#@}} * 1000000000 - real)) >/var/ahead ;;
esac
"""
ADJTIMEX = rf"""{_NOW}
printf '    status:       64 (UNSYNC)\n'
printf '    time.tv_sec:  %d\n    time.tv_usec: %d\n' $((now / 1000000000)) $((now % 1000000000 / 1000))
"""
# Some busybox' shell knows these programs by itself and looks nowhere else; but functions come first.
SHELL = r"""#!/bin/busybox sh
date() { /bin/date "$@"; }
adjtimex() { /sbin/adjtimex "$@"; }
sh() { /bin/sh "$@"; }
[ "$1" = -c ] || exec /bin/busybox sh "$@"
command=$2
shift 2
[ $# -eq 0 ] || shift
eval "$command"
"""
# As others have it.
LARGE_DATE = DATE.replace("+%N) echo %N", "+%N) printf '%09d\\n' $((now % 1000000000))").replace(
    "+%s)", "+%s.%N) printf '%d.%09d\\n' $((now / 1000000000)) $((now % 1000000000)) ;;\n+%s)"
)


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, NAMES)


@pytest.fixture(autouse=True)
def clocks(machines: Tower, user: User) -> None:
    for name in NAMES:
        machines[name].write("bin/date", DATE, 0o755)
        machines[name].write("sbin/adjtimex", ADJTIMEX, 0o755)
        machines[name].write("bin/sh", SHELL, 0o755)
        set_ahead(machines[name], 0)


def set_ahead(host: Machine, seconds: float) -> None:
    host.write("var/ahead", f"{round(seconds * 1e9)}\n")


def ahead(host: Machine) -> float:
    return int(host.read("var/ahead")) / 1e9


def states(found: dict[str, Any]) -> dict[str, str]:
    return {row["host"]: row["state"] for row in found["hosts"]}


@pytest.mark.qa("H16", simulated="clocks in files: the programs may not set that of the machine that runs the tests")
def test_offline_hosts_take_the_routers_time(machines: Tower, user: User) -> None:
    set_ahead(machines["router"], 100.25)
    set_ahead(machines["offline1"], -86400 * 3)
    set_ahead(machines["offline2"], 3600.7)
    set_ahead(machines["online1"], 5)
    found = user.json("synctime")
    assert states(found) == {"offline1": "set", "offline2": "set"}
    for name in ("offline1", "offline2"):
        assert abs(ahead(machines[name]) - 100.25) < NEAR
    assert ahead(machines["online1"]) == 5
    rows = {row["host"]: row for row in found["hosts"]}
    assert abs(rows["offline2"]["offset"] - 3500.45) < NEAR
    assert abs(rows["offline2"]["left"]) < NEAR


def test_hosts_with_a_large_date(machines: Tower, user: User) -> None:
    """Not busybox': with parts of a second. Nothing else is asked."""
    for name in ("router", "offline1"):
        machines[name].write("bin/date", LARGE_DATE, 0o755)
        machines[name].write("sbin/adjtimex", "#!/bin/sh\nexit 1\n", 0o755)
    set_ahead(machines["offline1"], 7.5)
    assert states(user.json("synctime", "offline1")) == {"offline1": "set"}
    assert abs(ahead(machines["offline1"])) < NEAR


def test_a_clock_that_is_right_is_left_alone(machines: Tower, user: User) -> None:
    set_ahead(machines["offline1"], 0.01)
    found = user.json("synctime")
    assert states(found) == {"offline1": "right", "offline2": "right"}
    assert ahead(machines["offline1"]) == 0.01


def test_a_dry_run_sets_nothing(machines: Tower, user: User) -> None:
    set_ahead(machines["offline1"], -12)
    found = user.json("synctime", "--dry-run")
    assert states(found) == {"offline1": "off", "offline2": "right"}
    assert abs(found["hosts"][0]["offset"] + 12) < found["hosts"][0]["error"] + 0.02
    assert ahead(machines["offline1"]) == -12


@pytest.mark.parametrize("year", [1970, 2099])
def test_a_router_that_says_nonsense_is_not_followed(machines: Tower, user: User, year: int) -> None:
    set_ahead(machines["router"], (year - 1970) * 365.25 * 86400 - time.time() + 1e6)
    done = user.tower("synctime", "--quiet")
    assert done.returncode == 15
    assert str(year) in done.stderr
    assert ahead(machines["offline1"]) == 0


@pytest.mark.parametrize(
    ("said", "reason"),
    [("hello", "its answer is not a time"), ("9" * 3000, "answered more than 2048 bytes, expected a time")],
)
def test_garbage_is_no_time(machines: Tower, user: User, said: str, reason: str) -> None:
    machines["offline1"].write("bin/date", f"#!/bin/sh\necho '{said}'\n", 0o755)
    machines["offline1"].write("sbin/adjtimex", f"#!/bin/sh\necho 'status: {said} tv_'\n", 0o755)
    set_ahead(machines["offline2"], 50)
    found = user.json("synctime", status=15)
    assert states(found) == {"offline1": "failed", "offline2": "set"}
    assert found["hosts"][0]["reason"] == reason


def test_a_host_whose_clock_cannot_be_set_is_reported_as_failed(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    set_ahead(host, 50)
    rules = host.read("etc/doas.conf")
    host.write("etc/doas.conf", "deny :wheel\n", 0o400)
    found = user.json("synctime", "offline1", status=15)
    host.write("etc/doas.conf", rules, 0o400)
    assert states(found) == {"offline1": "failed"}
    assert "could not be set" in found["hosts"][0]["reason"]
    host.write("bin/date", DATE.replace(">/var/ahead", ">/dev/null"), 0o755)
    assert "is still wrong by" in user.json("synctime", "offline1", status=15)["hosts"][0]["reason"]


def test_hosts_that_are_off_are_no_failure_for_cron(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        set_ahead(machines["offline2"], 50)
        done = user.tower("synctime", "--quiet", "--timeout", "2")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert abs(ahead(machines["offline2"])) < NEAR
        assert user.tower("synctime", "--timeout", "2").returncode == 15


def test_synctime_is_refused_for_online_and_unknown_hosts(user: User) -> None:
    assert user.tower("synctime", "online1").returncode == 11
    assert user.tower("synctime", "nobody").returncode == 11
