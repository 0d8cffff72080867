# SPDX-License-Identifier: Apache-2.0
"""`tower install` on the ring: real ssh, the product's firewalls, packages by HTTP through real tunnels, the lab's apk."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.network.home import FOLDER, User, make_hosts
from tests.network.machines import CHECKOUT, INTERNET_ADDRESS, Machine, Tower
from tests.network.mirror import KEY, SERVER, Made, Mirror, use_mirror

NAMES = ("router", "online1", "offline1", "offline2")
ALL = ("thinclient", "online1", "offline1", "offline2")
PROGRAM = "usr/libexec/tower/packages"
JOURNAL = "var/lib/tower/packages"
PACKAGES = {
    "editor": Made(depends=("library",), size=200_000),
    "library": Made(size=100_000),
    "big": Made(size=4_000_000, depends=("library",)),
    "slow": Made(script="sleep 4", depends=("library",)),
    "broken": Made(script="exit 1", depends=("library",)),
    "nosy": Made(script="cat /etc/hosts /etc/apk/repositories >/opt/seen"),
    "other": Made(),
}


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    made = make_hosts(machines, NAMES)
    # The ring's user of the thin client is its root, whom the product's rule does not name.
    made.machine.write("etc/doas.conf", "permit nopass root\n", 0o400)
    return made


@pytest.fixture
def mirror(machines: Tower, user: User, tmp_path: Path) -> Iterator[Mirror]:
    made = Mirror(tmp_path)
    made.publish(PACKAGES, made=1_700_000_000)
    use_mirror(machines, made, ALL)
    for name in ALL:
        lay(machines[name])
    machines["online1"].write("etc/hosts", f"127.0.0.1 localhost\n{INTERNET_ADDRESS} {SERVER}\n")
    user.machine.run("sh", "-c", f"rm -f {FOLDER}/servers {FOLDER}/thinclient.world {FOLDER}/hosts/*/world")
    with made.served(machines["internet"]):
        yield made


def lay(machine: Machine) -> None:
    """The program under test, where the product has it."""
    machine.write(PROGRAM, (CHECKOUT / "overlays" / "common" / PROGRAM).read_text(), 0o755)


def has(machine: Machine, *names: str) -> bool:
    return all((machine.root / "opt" / name).is_file() for name in names)


def state_of(machine: Machine) -> dict[str, str]:
    """All that decides whom the machine asks for what, who may reach it, and what apk is told."""
    files = ("etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf", "etc/apk/repositories", "etc/apk/arch", "etc/apk/world")
    found = {name: machine.read(name) for name in files if (machine.root / name).is_file()}
    for command in ("ip addr", "ip route show table all", "ss -Hltn", "mount", "ls -AR /etc"):
        found[command] = machine.run(*command.split()).stdout
    for command in ("iptables-save", "ip6tables-save"):
        # Without the time, and what the policies have counted.
        found[command] = re.sub(r"^#.*\n|\[[0-9]+:[0-9]+\]$", "", machine.run(command).stdout, flags=re.MULTILINE)
    return found | {"left": left(machine)}


def left(machine: Machine) -> str:
    """What an installation must not leave: files, folders, processes, namespaces of its own."""
    folders = machine.run("sh", "-c", "ls -d /var/lib/tower/* /run/tower-packages* /tmp/tower-???????? 2>/dev/null || true").stdout
    running = [line for line in machine.run("ps", "-eo", "args").stdout.splitlines() if "tower/packages" in line]
    return folders + "".join(running)


def same(before: dict[str, str], after: dict[str, str], *, but: tuple[str, ...] = ()) -> None:
    for name in before:
        if name not in but:
            assert after[name] == before[name], name


def world(user: User, name: str) -> str:
    return user.machine.read(f"{FOLDER}/{name}.world" if name == "thinclient" else f"{FOLDER}/hosts/{name}/world")


@pytest.mark.qa("A01")
@pytest.mark.qa("I06")
@pytest.mark.parametrize("name", ["online1", "offline1", "thinclient"])
def test_a_package_and_what_it_needs(machines: Tower, user: User, mirror: Mirror, name: str) -> None:
    machine, before = machines[name], state_of(machines[name])
    others = {other: state_of(machines[other]) for other in ("thinclient", "router", "offline2") if other != name}
    done = user.tower("install", name, "editor", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hosts"] == {
        name: {"done": True, "steps": ["Installing library (1.0-r0)", "Installing editor (1.0-r0)"]}
    }
    assert has(machine, "editor", "library")
    assert world(user, name) == "editor\n"
    same(before, state_of(machine), but=("etc/apk/world",))
    assert machine.read("etc/apk/world") == "editor\n"
    for other, was in others.items():
        same(was, state_of(machines[other]))
    assert {one.peer for one in mirror.requests} == {machines["router"].address("wlan0")}
    again = user.tower("install", name, "editor", "--yes")
    assert (again.returncode, again.stdout) == (0, f"{name}  editor: there already\n"), again.stderr
