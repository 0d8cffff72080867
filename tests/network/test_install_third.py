# SPDX-License-Identifier: Apache-2.0
"""`tower install` from a repository of apk's third format, by each way, with the machines' own apk 3.

A package for all architectures is in it: the index lists it as `noarch`, and its file is in the folder of that name.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.network.home import FOLDER, User, make_hosts
from tests.network.machines import INTERNET_ADDRESS, Machine, Tower
from tests.network.mirror import SERVER, Made, Mirror, packages, use_mirror, world

NAMES = ("router", "online1", "offline1")
ALL = ("thinclient", "online1", "offline1")
STEPS = ["Installing fonts (1.0-r0)", "Installing library (1.0-r0)", "Installing editor (1.0-r0)"]
PACKAGES = {
    "editor": Made(depends=("library",), size=200_000),
    "fonts": Made(size=100_000, arch="noarch"),
    "library": Made(size=100_000, depends=("fonts",), script="touch /opt/library.ran"),
}


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    made = make_hosts(machines, NAMES)
    made.machine.write("etc/doas.conf", "permit nopass root\n", 0o400)
    return made


@pytest.fixture(scope="module")
def served(machines: Tower, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    made = Mirror(tmp_path_factory.mktemp("mirror"), third=True)
    made.publish(PACKAGES, made=1_700_000_000)
    machines["online1"].write("etc/hosts", f"127.0.0.1 localhost\n{INTERNET_ADDRESS} {SERVER}\n")
    with made.served(machines["internet"]):
        yield made


@pytest.fixture
def mirror(machines: Tower, user: User, served: Mirror) -> Mirror:
    """The server without faults; nothing of it is installed or noted."""
    served.requests.clear()
    served.flip.clear()
    served.cut.clear()
    use_mirror(machines, served, ALL)
    user.machine.run("sh", "-c", f"rm -rf {FOLDER}/servers {FOLDER}/thinclient.world {FOLDER}/hosts/*/world")
    return served


def install(user: User, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return user.tower("install", name, "editor", *words, "--yes", "--json")


def has_all(machine: Machine) -> bool:
    return all(machine.path(f"opt/{name}").is_file() for name in (*PACKAGES, "library.ran"))


@pytest.mark.parametrize(
    ("name", "way"), [("online1", ""), ("offline1", "--tunnel"), ("thinclient", "--tunnel"), ("offline1", "--bundle")]
)
def test_each_way_brings_the_same(machines: Tower, user: User, mirror: Mirror, name: str, way: str) -> None:
    """Directly, through tunnels and in a bundle: packages come from where apk looks for them; a second run changes nothing."""
    machine = machines[name]
    done = install(user, name, *([way] if way else []))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["hosts"][name]
    assert (found["done"], sorted(found["steps"])) == (True, sorted(STEPS))
    assert has_all(machine)
    assert (world(machine), packages(machine)) == (["editor"], set(PACKAGES))
    paths = [one.path for one in mirror.requests]
    wanted = ["/main/noarch/fonts-1.0-r0.apk", *(f"/main/x86_64/{one}-1.0-r0.apk" for one in ("editor", "library"))]
    assert sorted(path for path in paths if path.endswith(".apk")) == sorted(wanted)
    assert "/main/x86_64/Packages.adb" in paths
    assert all(one.status in (200, 206) for one in mirror.requests), mirror.requests
    if name != "online1" or way:
        assert {one.peer for one in mirror.requests} == {machines["router"].address("wlan0")}
    again = install(user, name, *([way] if way else []))
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["hosts"][name]["steps"] == []


@pytest.mark.parametrize("package", ["editor", "fonts"])
def test_a_changed_package_is_refused_and_undone(machines: Tower, user: User, mirror: Mirror, package: str) -> None:
    """The host's apk finds the bit; what it had installed before is removed, and the same command then brings all."""
    host = machines["offline1"]
    mirror.flip.add(f"{package}-1.0-r0.apk")
    done = install(user, "offline1", "--tunnel")
    assert done.returncode == 18, done.stderr
    assert "undone: editor" in done.stderr
    assert (world(host), packages(host)) == ([], set())
    mirror.flip.clear()
    done = install(user, "offline1", "--tunnel")
    assert done.returncode == 0, done.stderr
    assert has_all(host)


def test_a_download_that_breaks_is_undone(machines: Tower, user: User, mirror: Mirror) -> None:
    host = machines["offline1"]
    mirror.cut["editor-1.0-r0.apk"] = 70_000
    done = install(user, "offline1", "--tunnel")
    assert done.returncode == 18, done.stderr
    assert (world(host), packages(host)) == ([], set())
    assert install(user, "offline1", "--tunnel").returncode == 0
    assert has_all(host)
