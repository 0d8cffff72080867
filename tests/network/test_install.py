# SPDX-License-Identifier: Apache-2.0
"""`tower install` on the ring: real ssh and firewalls, packages by HTTP through real tunnels, the machines' own apk."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.network.home import FOLDER, User, child_of, make_hosts, unplugged
from tests.network.machines import INTERNET_ADDRESS, Machine, Tower
from tests.network.mirror import SERVER, Made, Mirror, packages, use_mirror, world

NAMES = ("router", "online1", "offline1", "offline2")
ALL = ("thinclient", "online1", "offline1", "offline2")
PROGRAM = "usr/libexec/tower/packages"
JOURNAL = "var/lib/tower/packages"
LEFT, OWN = f"usr/lib/.apk.{'0123456789ab' * 4}", "usr/lib/.apk.notes"
PACKAGES = {
    "editor": Made(depends=("library",), size=200_000),
    "library": Made(size=100_000),
    "big": Made(size=4_000_000, depends=("library",)),
    "slow": Made(script="sleep 4", depends=("library",)),  # sleeps: an installation that is slow
    "broken": Made(script="exit 1", depends=("library",)),
    "nosy": Made(script="cat /etc/hosts >/run/seen; ls /var/cache/apk >>/run/seen; sleep 2"),  # sleeps: the test looks meanwhile
    "other": Made(),
}


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    made = make_hosts(machines, NAMES)
    # The ring's user of the thin client is its root, whom the product's rule does not name.
    made.machine.write("etc/doas.conf", "permit nopass root\n", 0o400)
    return made


@pytest.fixture(scope="module")
def served(machines: Tower, user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    made = Mirror(tmp_path_factory.mktemp("mirror"))
    made.publish(PACKAGES, made=1_700_000_000)
    use_mirror(machines, made, ALL)
    machines["online1"].write("etc/hosts", f"127.0.0.1 localhost\n{INTERNET_ADDRESS} {SERVER}\n")
    with made.served(machines["internet"]):
        yield made


@pytest.fixture
def mirror(machines: Tower, user: User, served: Mirror) -> Mirror:
    """The server without faults; nothing is installed on offline1, and nothing noted."""
    served.requests.clear()
    served.flip.clear()
    served.cut.clear()
    served.pace = 0.0
    user.machine.run("sh", "-c", f"rm -f {FOLDER}/servers {FOLDER}/thinclient.world {FOLDER}/hosts/*/world")
    user.machine.write("etc/apk/repositories", f"http://{SERVER}/main\n")
    use_mirror(machines, served, ["offline1"])
    machines["offline1"].run("rm", "-f", "/run/seen")
    return served


def has(machine: Machine, *names: str) -> bool:
    return all(machine.path(f"opt/{name}").is_file() for name in names)


_STATE = """
for file in resolv.conf hosts nsswitch.conf apk/repositories apk/arch; do echo "==== $file"; cat "/etc/$file" 2>&1; done
for family in iptables ip6tables; do echo "==== $family"; $family-save; done
echo "==== addresses"; ip addr; ip route show table all
echo "==== listeners"; netstat -ltn
echo "==== mounts"; cat /proc/mounts
echo "==== etc"; ls -AR /etc
echo "==== left"; ls -d /var/lib/tower/* /run/tower-packages.?????? /tmp/tower-???????? 2>/dev/null
true
"""
APK = "(^|/)apk "
_OURS = f"^/bin/sh /usr/libexec/tower/packages|^ssh |^doas|{APK}"


def state_of(machine: Machine) -> dict[str, str]:
    """All that decides whom the machine asks for what, who may reach it, what apk is told; and what must not be left."""
    parts = machine.run("sh", "-c", _STATE).stdout.split("==== ")[1:]
    found = dict(part.split("\n", 1) for part in parts)
    # An interface that was pulled and plugged in again has its routes in another order, and the other end another number.
    found["addresses"] = "\n".join(sorted(re.sub("@if[0-9]+", "", found["addresses"]).splitlines()))
    # Said of a disk that was new when it was mounted.
    found["mounts"] = found["mounts"].replace(",uuid=on", "")
    for family in ("iptables", "ip6tables"):
        # Without the time, and what the policies have counted.
        found[family] = re.sub(r"^#.*\n|\[[0-9]+:[0-9]+\]$", "", found[family], flags=re.MULTILINE)
    found["left"] += "".join(f"{line}\n" for line in machine.processes().values() if re.search(_OURS, line))
    return found


def same(before: dict[str, str], machine: Machine) -> None:
    after = state_of(machine)
    for name, value in before.items():
        assert after[name] == value, f"{machine.name}: {name}"


def wait_until_idle(machine: Machine, seconds: float = 30) -> None:
    """Wait until no installation runs on the machine."""
    ends = time.monotonic() + seconds
    while left := machine.running(f"packages add|{APK}"):
        assert time.monotonic() < ends, left
        time.sleep(0.1)


def untouched(machine: Machine, before: dict[str, str], *, files: bool = True) -> None:
    """Check that no package came or went. A killed apk may leave files that it has not recorded."""
    wait_until_idle(machine)
    same(before, machine)
    assert (world(machine), packages(machine)) == ([], set())
    assert not (files and list(machine.path("opt").glob("*")))


@contextmanager
def installing(user: User, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A `tower install` that runs; its steps are lines of stderr."""
    argv = user.argv("install", "--tunnel", *words, "--yes", env={"PYTHONUNBUFFERED": "1"})
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def wait_for(running: subprocess.Popen[str], text: str) -> None:
    """Until it says so."""
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if text in line:
            return
    raise AssertionError(f"{text!r} was not said: {''.join(said)}")


def noted(user: User, name: str) -> str:
    """What the thin client has noted that a machine has."""
    file = user.machine.path(f"{FOLDER}/{name}.world" if name == "thinclient" else f"{FOLDER}/hosts/{name}/world")
    return file.read_text() if file.exists() else ""


@pytest.mark.qa("A01")
@pytest.mark.qa("I06")
@pytest.mark.parametrize("name", ["online1", "offline1", "thinclient"])
def test_a_package_and_what_it_needs(machines: Tower, user: User, mirror: Mirror, name: str) -> None:
    machine, before = machines[name], state_of(machines[name])
    others = {other: state_of(machines[other]) for other in ("thinclient", "router", "offline2") if other != name}
    done = user.tower("install", "--tunnel", name, "editor", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hosts"] == {
        name: {"done": True, "steps": ["Installing library (1.0-r0)", "Installing editor (1.0-r0)"]}
    }
    assert has(machine, "editor", "library")
    assert noted(user, name) == "editor\n"
    same(before, machine)
    assert (world(machine), packages(machine)) == (["editor"], {"editor", "library"})
    for other, was in others.items():
        same(was, machines[other])
    assert {one.peer for one in mirror.requests} == {machines["router"].address("wlan0")}
    again = user.tower("install", "--tunnel", name, "editor", "--yes")
    assert (again.returncode, again.stdout) == (0, f"{name}  editor: already installed\n"), again.stderr


def test_only_apk_sees_the_tunnel(machines: Tower, user: User, mirror: Mirror) -> None:
    host, before = machines["offline1"], state_of(machines["offline1"])
    with installing(user, "offline1", "nosy") as running:
        wait_for(running, "Executing nosy")
        during = state_of(host)
        assert running.wait(30) == 0
    for name in ("hosts", "resolv.conf", "apk/repositories", "iptables", "ip6tables", "mounts", "etc"):
        assert during[name] == before[name], name
    assert during["listeners"].count("127.0.0.1:") == 1
    seen = host.read("run/seen")
    assert f"127.0.0.1\t{SERVER}\n" in seen
    assert "APKINDEX" in seen
    assert not list(host.path("var/cache/apk").glob("APKINDEX*"))
    same(before, host)


def test_dry_runs_list_the_steps_and_refused_requests_change_nothing(machines: Tower, user: User, mirror: Mirror) -> None:
    host, before = machines["offline1"], state_of(machines["offline1"])
    done = user.tower("install", "--tunnel", "offline1", "editor", "other>=1", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)["hosts"]["offline1"]["steps"]
    assert sorted(steps) == [f"Installing {name} (1.0-r0)" for name in ("editor", "library", "other")]
    untouched(host, before)
    asked = user.tower("install", "--tunnel", "offline1", "editor")
    assert (asked.returncode, "add --yes" in asked.stderr) == (10, True)
    untouched(host, before)
    for words in (["-U"], ["--", "--allow-untrusted"], ["/tmp/x.apk"], ["a b"], ["x.apk"]):
        assert user.tower("install", "--tunnel", "offline1", *words).returncode in (2, 10), words
    missing = user.tower("install", "--tunnel", "offline1", "nothing", "--yes")
    assert missing.returncode == 18, missing.stderr
    assert "nothing (no such package)" in missing.stderr
    untouched(host, before)
    assert noted(user, "offline1") == ""


def test_the_program_of_the_host_takes_no_options_for_apk(machines: Tower, mirror: Mirror) -> None:
    host, before = machines["offline1"], state_of(machines["offline1"])
    for words in (["--allow-untrusted", "x"], ["-X", "http://x"], ["/tmp/x.apk"], ["a b"], ["$(id)"], []):
        assert host.run(f"/{PROGRAM}", "add", *words, data=".\ngo\n", check=False).returncode == 2, words
    for lines in ("name a b\n", "name \n", "name ../x\n", "repositories x\n", "repository http://x\n", ""):
        assert host.run(f"/{PROGRAM}", "add", "other", data=lines, check=False).returncode == 2, lines
    untouched(host, before)


def test_a_server_that_nobody_knows_here(machines: Tower, user: User, mirror: Mirror) -> None:
    """A host that was taken over must not choose where its way out leads."""
    user.machine.write("etc/apk/repositories", "http://elsewhere.test/main\n")
    refused = user.tower("install", "--tunnel", "offline1", "other", "--yes")
    assert (refused.returncode, f"--server {SERVER}:80" in refused.stderr) == (10, True), refused.stderr
    assert not mirror.requests
    assert user.tower("install", "--tunnel", "offline1", "other", "--yes", "--server", f"{SERVER}:80").returncode == 0
    assert user.tower("install", "--tunnel", "offline1", "editor", "--yes").returncode == 0


def test_several_machines_of_which_one_is_off(machines: Tower, user: User, mirror: Mirror) -> None:
    with unplugged(machines["offline1"]):
        done = user.tower("install", "--tunnel", "offline1,offline2,thinclient", "editor", "--yes", "--json")
    assert done.returncode == 15, done.stderr
    hosts = json.loads(done.stdout)["hosts"]
    assert [hosts[name]["done"] for name in ("offline1", "offline2", "thinclient")] == [False, True, True]
    assert has(machines["offline2"], "editor", "library")
    assert has(user.machine, "editor", "library")
    assert (noted(user, "offline1"), noted(user, "offline2"), noted(user, "thinclient")) == ("", "editor\n", "editor\n")


def test_reinstall_installs_all_packages_noted_for_a_host(machines: Tower, user: User, mirror: Mirror) -> None:
    """By the way that it would come if the user asked for it: a bundle, for an offline host."""
    assert user.tower("install", "--tunnel", "offline1", "other>=1", "editor", "--yes").returncode == 0
    assert user.tower("install", "--tunnel", "offline1", "other", "--yes").returncode == 0
    assert noted(user, "offline1") == "editor\nother\n"
    use_mirror(machines, mirror, ["offline1"])
    code = "from tower.install.install import reinstall\n"
    code += "from tower.hosts.registry import tower_of_user; from tower.base.view import View\n"
    code += "report = reinstall(tower_of_user(), 'offline1', View())\n"
    user.python(f"{code}assert report.sent > 0, report", timeout=60)
    assert has(machines["offline1"], "editor", "library", "other")


@pytest.mark.parametrize("how", ["no router", "bad package", "cut", "script", "disk", "journal"])
def test_an_installation_that_fails_is_undone(machines: Tower, user: User, mirror: Mirror, how: str) -> None:
    host, before = machines["offline1"], state_of(machines["offline1"])
    package, said, status = "big", "", 18
    with ExitStack() as stack:
        if how == "no router":
            stack.enter_context(unplugged(machines["router"]))
            said, status = "router: nothing answers", 15
        elif how == "bad package":
            mirror.flip.add("big-1.0-r0.apk")
            said = "undone: big"
        elif how == "cut":
            mirror.cut["big-1.0-r0.apk"] = 1_000_000
            said = "undone: big"
        elif how == "script":
            package, said = "broken", "undone: broken"
        else:
            folder = "/opt" if how == "disk" else "/var/lib/tower"
            host.run("mkdir", "-p", folder)
            host.run("mount", "-t", "tmpfs", "-o", "size=1m", "small", folder)
            stack.callback(host.run, "umount", folder)
            said = "undone: big" if how == "disk" else "no room on the disk"
        done = user.tower("install", "--tunnel", "offline1", package, "--yes")
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert "hint: " in done.stderr
    host.run("sh", "-c", "rmdir /opt /var/lib/tower 2>/dev/null || true")
    host.run("mkdir", "-p", "/opt")
    untouched(host, before)
    assert noted(user, "offline1") == ""
    mirror.flip.clear()
    if how in ("cut", "disk"):
        assert user.tower("install", "--tunnel", "offline1", "big", "--yes").returncode == 0
        assert has(host, "big", "library")


# Where a `tower install` is when it says so; `big` comes slowly, the script of `slow` takes its time.
STEPS = {
    "connecting to the router": "big",
    "[http": "big",  # apk has read the index there
    "(2/2) Installing big": "big",
    "Executing slow": "slow",
}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("step", STEPS)
def test_a_tower_that_is_killed(machines: Tower, user: User, mirror: Mirror, step: str, how: signal.Signals) -> None:
    """A killed `tower` closes its tunnels. apk is not stopped halfway: it ends, and its changes are undone or recorded."""
    host, before, package = machines["offline1"], state_of(machines["offline1"]), STEPS[step]
    own = state_of(user.machine)
    mirror.pace = 0.1
    with installing(user, "offline1", package) as running:
        wait_for(running, step)
        if "Installing" in step:
            wait_for(running, step)  # the first was what it would do
        os.kill(child_of(running), how)
        running.wait(20)
        assert running.returncode in (-how, 128 + how)
    mirror.pace = 0
    wait_until_idle(host)
    # Whatever comes next puts it in order; here a command that is about something else.
    done = user.tower("run", "offline1", "true")
    assert done.returncode == 0, done.stderr
    if package == "slow":
        assert "finished without us: slow" in done.stderr
        assert has(host, "slow", "library")
        assert noted(user, "offline1") == "slow\n"
        same(before, host)
    else:
        untouched(host, before)
        assert noted(user, "offline1") == ""
    left = {**own, "left": re.sub(r"/tmp/tower-\S+\n", "", own["left"])}
    now = state_of(user.machine)
    now["left"] = re.sub(r"/tmp/tower-\S+\n", "", now["left"])
    assert now == left


@pytest.mark.parametrize("what", ["program", "apk", "power"])
def test_a_host_that_is_killed(machines: Tower, user: User, mirror: Mirror, what: str) -> None:
    """Its program, its apk, or all at once by a power cut, while apk lays a package down."""
    host, before = machines["offline1"], state_of(machines["offline1"])
    mirror.pace = 0.05
    words = {"program": "^/bin/sh /usr/libexec/tower/packages", "apk": APK}
    # As apk 3 leaves them; and a file that only looks like one of them.
    for name in (LEFT, OWN):
        host.write(name, "x")
    with installing(user, "offline1", "big") as running:
        wait_for(running, "(2/2) Installing big")
        wait_for(running, "(2/2) Installing big")
        if what == "power":
            host.pull_the_plug()
            machines.turn_on(host)
        else:
            host.kill(signal.SIGKILL, words[what])
        assert running.wait(60) == (15 if what == "power" else 18)
    mirror.pace = 0
    if what != "apk":
        assert JOURNAL in state_of(host)["left"]
        wait_until_idle(host)
        if what == "power":
            # Of the default runlevel; a machine of the ring leaves it out.
            host.service("tower-packages", "start")
            assert JOURNAL not in state_of(host)["left"]
            machines.set_firewalls()
        else:
            assert "undone: big" in user.tower("run", "offline1", "true").stderr
    untouched(host, before, files=False)
    assert not host.path(LEFT).exists()
    assert host.path(OWN).exists()
    assert user.tower("install", "--tunnel", "offline1", "big", "--yes").returncode == 0
    assert has(host, "big", "library")


def test_a_cable_that_is_pulled(machines: Tower, user: User, mirror: Mirror) -> None:
    host, before = machines["offline1"], state_of(machines["offline1"])
    mirror.pace = 0.5
    with installing(user, "offline1", "big") as running:
        wait_for(running, "(2/2) Installing big")
        wait_for(running, "(2/2) Installing big")
        with unplugged(host):
            assert running.wait(60) == 15
            assert running.stderr is not None
            assert "the connection broke" in running.stderr.read()
    mirror.pace = 0
    # The host's own end of the connection takes longer to notice, or the next command tells it.
    host.kill(signal.SIGTERM, "^sshd(-session)?: user")
    wait_until_idle(host)
    assert user.tower("install", "--tunnel", "offline1", "big", "--yes").returncode == 0
    assert has(host, "big", "library")
    same(before, host)


def test_two_at_once(machines: Tower, user: User, mirror: Mirror) -> None:
    before = state_of(machines["offline1"])
    with installing(user, "offline1", "slow") as first:
        wait_for(first, "Executing slow")
        # It waits a little for the other, and is neither a repair nor in the way.
        assert user.tower("run", "offline1", "true").stderr == ""
        second = user.tower("install", "--tunnel", "offline1", "other", "--yes")
        assert first.wait(30) == 0
    assert second.returncode == 0, second.stderr
    assert noted(user, "offline1") == "other\nslow\n"
    same(before, machines["offline1"])
