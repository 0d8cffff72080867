# SPDX-License-Identifier: Apache-2.0
"""`tower audit`: all holds on a Tower that is right, and each kind of breakage is found where it is."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.light.services import NO_PASSWORD, add_user, remove_user
from tests.network.home import FOLDER, PYTHON, User, child_of, make_hosts
from tests.network.machines import INTERNET_ADDRESS, Machine, Tower

OPEN_KEY = f"{FOLDER}/hosts/online1/id_ed25519"
HOSTS = ("router", "online1", "online2", "offline1", "offline2")
Key = tuple[str, str, str]
"""Of a check: what it is about, the machine, the machine that is tried."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit said."""

    status: int
    outcomes: dict[Key, str]
    details: dict[Key, str]

    def broken(self) -> set[Key]:
        return {key for key, outcome in self.outcomes.items() if outcome == "broken"}

    def not_tried(self) -> set[Key]:
        return {key for key, outcome in self.outcomes.items() if outcome == "not tried"}


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    """Who knows all hosts, each with its ssh server, and may become root on each."""
    made = make_hosts(machines, HOSTS)
    for name in HOSTS:
        # A resolver that nobody is: offline hosts have none.
        machines[name].write("etc/resolv.conf", "nameserver 192.168.2.1\n" if name.startswith("online") else "")
    return made


@pytest.fixture(autouse=True)
def right(machines: Tower, user: User) -> Iterator[None]:
    """The product's rules, and a server in the Internet."""
    machines.set_firewalls()
    with machines["internet"].inside():
        server = socket.create_server((INTERNET_ADDRESS, 443))
    with server:
        yield


def audit(user: User, *words: str) -> Audited:
    argv = ["audit", "--internet", f"{INTERNET_ADDRESS}:443", "--timeout", "5", "--json", *words]
    done = user.tower(*argv, timeout=120)
    assert done.stdout, done.stderr
    found: Any = json.loads(done.stdout)
    keys = [(row["about"], row["source"], row["target"]) for row in found["checks"]]
    assert len(set(keys)) == len(keys)
    outcomes = dict(zip(keys, (row["outcome"] for row in found["checks"]), strict=True))
    return Audited(done.returncode, outcomes, dict(zip(keys, (row["detail"] for row in found["checks"]), strict=True)))


@pytest.mark.qa("I01")
@pytest.mark.qa("I02")
@pytest.mark.qa("I03")
@pytest.mark.qa("I04")
@pytest.mark.qa("I05")
@pytest.mark.qa("T14")
@pytest.mark.qa("H04")
@pytest.mark.qa("H07")
@pytest.mark.qa("H08")
def test_all_holds_on_a_tower_that_is_right(machines: Tower, user: User) -> None:
    before = left_behind(machines)
    found = audit(user)
    assert found.status == 0, {key: found.details[key] for key in found.broken() | found.not_tried()}
    assert set(found.outcomes.values()) == {"held"}
    ways = {key[1:] for key in found.outcomes if key[0] == "way"}
    everybody = ("thinclient", *HOSTS, "internet")
    assert ways == {pair for pair in itertools.permutations(everybody, 2) if pair[0] != "internet"}
    for about in ("firewall", "listeners", "forwarding"):
        assert {key[1] for key in found.outcomes if key[0] == about} == {"thinclient", *HOSTS}
    assert left_behind(machines) == before


def left_behind(machines: Tower) -> list[str]:
    """What an audit might leave on the machines: programs, rules, sockets, files."""
    found = []
    for machine in machines:
        programs = machine.processes().values()
        found.append("\n".join(sorted(line for line in programs if not line.startswith("sshd"))))
        found.append(machine.run("find", "/tmp", "/run", "/home", "/root", "!", "-type", "d").stdout)
        for command in ("iptables-save", "ip6tables-save"):
            rules = machine.run(command).stdout.splitlines()
            found.append("\n".join(line.partition(" [")[0] for line in rules if not line.startswith("#")))
    return found


def test_root_opens_the_wires_for_a_user_and_no_more(machines: Tower) -> None:
    """The thin client's user is not root: doas opens the sockets, and the rules are read by it."""
    client = machines["thinclient"]
    add_user(client, "walt", administrator=True)
    rules = client.read("etc/doas.conf")
    code = (
        "import os\nfrom tower.audit import local\nfrom tower.audit.packets import wires\n"
        "with wires(['eth0', 'eth1']) as found:\n    print(os.geteuid() > 0, *found)\nprint(local.firewall().outcome)\n"
    )
    try:
        done = client.run("env", "PYTHONPATH=/usr/lib/tower", PYTHON, "-B", "-c", code, user="walt")
        assert done.stdout == "True eth0 eth1\nheld\n"
        client.write("etc/doas.conf", "deny walt\n", 0o400)
        done = client.run("env", "PYTHONPATH=/usr/lib/tower", PYTHON, "-B", "-c", code, user="walt", check=False)
        assert "root did not open them" in done.stderr
    finally:
        client.write("etc/doas.conf", rules, 0o400)
        remove_user(client, "walt")


def rule(machine: Machine, *words: str, six: bool = False) -> None:
    """A hole in a machine's firewall; the next test's rules close it."""
    machine.run("ip6tables" if six else "iptables", "-I", *words)


def test_holes_into_each_machine_and_out_of_it_ipv4(machines: Tower, user: User) -> None:
    """One audit, a hole in every machine's rules; each is seen in the rules, and by who got through."""
    rule(machines["thinclient"], "INPUT", "-p", "tcp", "--dport", "5900", "-j", "ACCEPT")
    # It answers a stranger, on a port where nobody listens.
    for chain in ("INPUT", "OUTPUT"):
        rule(machines["router"], chain, "-p", "tcp", "-m", "multiport", "--ports", "8080", "-j", "ACCEPT")
    rule(machines["online1"], "OUTPUT", "-d", "192.168.2.201", "-p", "udp", "-j", "ACCEPT")
    rule(machines["offline1"], "OUTPUT", "-d", "192.168.3.100", "-p", "tcp", "--dport", "80", "-j", "ACCEPT")
    # Here both have one: a host gets as far as a program that listens on the thin client.
    for chain in ("INPUT", "OUTPUT"):
        rule(machines["offline2"], chain, "-p", "tcp", "-j", "ACCEPT")
        rule(
            machines["thinclient"],
            chain,
            "-p",
            "tcp",
            "!",
            "--sport",
            "22",
            "-s" if chain == "INPUT" else "-d",
            "192.168.3.201",
            "-j",
            "ACCEPT",
        )
    found = audit(user)
    assert found.status == 1
    rules = {("firewall", name, "") for name in ("thinclient", "router", "online1", "offline1", "offline2")}
    through = {
        ("way", "thinclient", "router"),
        ("way", "online1", "online2"),
        ("way", "offline1", "thinclient"),
        ("way", "offline2", "thinclient"),
        ("way", "offline2", "offline1"),
        ("way", "thinclient", "offline2"),
    }
    assert found.broken() == rules | through, {key: found.details[key] for key in found.broken() ^ (rules | through)}
    assert "--dport 5900" in found.details["firewall", "thinclient", ""]
    assert "arrived here" in found.details["way", "offline1", "thinclient"]
    assert "a program here took its connection" in found.details["way", "offline2", "thinclient"]
    assert not found.not_tried()


def test_holes_into_each_machine_and_out_of_it_ipv6(machines: Tower, user: User) -> None:
    names = ("thinclient", *HOSTS)
    for name in names:
        rule(machines[name], "OUTPUT", "-p", "ipv6-icmp", "-j", "ACCEPT", six=True)
    rule(machines["online2"], "INPUT", "-p", "ipv6-icmp", "-j", "ACCEPT", six=True)
    found = audit(user)
    assert found.status == 1
    assert {key for key in found.broken() if key[0] == "firewall"} == {("firewall", name, "") for name in names}
    wanted = {("way", name, "thinclient") for name in HOSTS} | {("way", "thinclient", "online2")}
    wanted |= {("way", "online1", "online2"), ("way", "offline1", "offline2"), ("way", "router", "online1")}
    assert wanted <= found.broken()
    assert "ipv6-icmp" in found.details["firewall", "online2", ""]


def wrong_here(client: Machine, stack: ExitStack) -> None:
    """On the thin client: listeners, a key that others can read, ssh's settings, packets passed on."""
    stack.enter_context(listener(client, socket.SOCK_STREAM))
    stack.enter_context(listener(client, socket.SOCK_DGRAM))
    client.run("chmod", "0644", OPEN_KEY)
    stack.callback(client.run, "chmod", "0600", OPEN_KEY)
    config = client.read("root/.ssh/config")
    client.write("root/.ssh/config", f"StrictHostKeyChecking no\nForwardAgent yes\n{config}", 0o600)
    stack.callback(client.write, "root/.ssh/config", config, 0o600)
    stack.enter_context(forwarding(client))


def wrong_there(machines: Tower, stack: ExitStack) -> None:
    """On hosts: passwords and root let in; a router that takes everybody along; a leak of names; another way out."""
    online, offline, router = machines["online2"], machines["offline1"], machines["router"]
    stack.enter_context(sshd_with(online, "PasswordAuthentication yes", "PermitRootLogin yes"))
    shadow = online.read("etc/shadow")
    online.write("etc/shadow", re.sub("(?m)^root:[^:]*:", f"root:{NO_PASSWORD}:", shadow), 0o640)
    stack.callback(online.write, "etc/shadow", shadow, 0o640)
    online.write("root/.ssh/authorized_keys", machines["thinclient"].read(f"{FOLDER}/hosts/online2/id_ed25519.pub"), 0o600)
    stack.callback(online.run, "rm", "-r", "/root/.ssh")
    rule(router, "FORWARD", "-j", "ACCEPT")
    router.run("iptables", "-t", "nat", "-I", "POSTROUTING", "-o", "wlan0", "-j", "MASQUERADE")
    rule(offline, "OUTPUT", "-p", "udp", "--dport", "53", "-j", "ACCEPT")
    offline.run("ip", "route", "add", "default", "via", "192.168.3.201")
    stack.callback(offline.run, "ip", "route", "del", "default")
    stack.enter_context(forwarding(machines["offline2"]))


def test_faults_of_the_thin_client_and_of_hosts_are_reported(machines: Tower, user: User) -> None:
    with ExitStack() as stack:
        wrong_here(machines["thinclient"], stack)
        wrong_there(machines, stack)
        found = audit(user)
    assert found.status == 1
    wanted = {(about, "thinclient", "") for about in ("listeners", "files", "forwarding")}
    wanted |= {("ssh client", "thinclient", name) for name in HOSTS}
    wanted |= {("login", "online2", ""), ("ssh server", "online2", ""), ("forwarding", "offline2", "")}
    wanted |= {("firewall", "router", ""), ("way", "thinclient", "internet")}
    wanted |= {(about, "offline1", "") for about in ("firewall", "names", "way out")}
    assert wanted <= found.broken(), wanted - found.broken()
    # Whoever may ask for names reaches all with such packets.
    assert {key[:2] for key in found.broken() - wanted} == {("way", "offline1")}
    for part, key in (
        ("tcp port 7777", ("listeners", "thinclient", "")),
        ("udp port 7777", ("listeners", "thinclient", "")),
        (OPEN_KEY, ("files", "thinclient", "")),
        ("lets root in", ("login", "online2", "")),
        ("password", ("login", "online2", "")),
        ("passwordauthentication is yes", ("ssh server", "online2", "")),
    ):
        assert part in found.details[key]


@contextmanager
def forwarding(machine: Machine) -> Iterator[None]:
    for value in "10":
        machine.run("sh", "-c", f"echo {value} >/proc/sys/net/ipv4/ip_forward")
        if value == "1":
            yield


@contextmanager
def listener(machine: Machine, kind: socket.SocketKind) -> Iterator[None]:
    with machine.inside():
        made = socket.socket(socket.AF_INET, kind)
    with made:
        made.bind(("0.0.0.0", 7777))
        if kind == socket.SOCK_STREAM:
            made.listen()
        yield


@contextmanager
def sshd_with(machine: Machine, *lines: str) -> Iterator[None]:
    """Other settings for a while, in front of the product's: sshd takes the first."""
    name = "etc/ssh/sshd_config.d/00-test.conf"
    machine.write(name, "".join(f"{line}\n" for line in lines), 0o600)
    machine.service("sshd", "restart")
    machine.wait_for_listener(22)
    try:
        yield
    finally:
        machine.path(name).unlink()
        machine.service("sshd", "restart")
        machine.wait_for_listener(22)


def test_an_attempt_that_is_impossible_is_reported(machines: Tower, user: User) -> None:
    """A host that is off, no Internet, programs that fail: neither held nor broken, and the exit status is not 0."""
    with ExitStack() as stack:
        for name in ("offline2", "internet"):
            machines[name].run("ip", "link", "set", "eth0", "down")
            stack.callback(machines[name].run, "ip", "link", "set", "eth0", "up")
        stack.enter_context(replaced(machines["online1"], "usr/sbin/iptables-save"))
        stack.enter_context(replaced(machines["offline1"], "bin/busybox"))
        rules = machines["online2"].read("etc/doas.conf")
        machines["online2"].write("etc/doas.conf", "deny user\n", 0o400)
        stack.callback(machines["online2"].write, "etc/doas.conf", rules, 0o400)
        found = audit(user)
    assert found.status == 15
    assert not found.broken(), {key: found.details[key] for key in found.broken()}
    for name in ("offline1", "offline2", "online2"):
        assert {outcome for key, outcome in found.outcomes.items() if key[1] == name} == {"not tried"}
        assert found.outcomes["way", "thinclient", name] == "not tried"
        assert found.outcomes["way", "router", name] == "not tried"
    for name in ("router", "online1", "thinclient"):
        assert found.outcomes["way", name, "internet"] == "not tried"
    assert found.outcomes["firewall", "online1", ""] == "not tried"
    # What can be tried is.
    assert found.outcomes["way", "online1", "thinclient"] == "held"
    assert found.outcomes["way", "thinclient", "online1"] == "held"
    assert found.outcomes["firewall", "router", ""] == "held"


@contextmanager
def replaced(machine: Machine, name: str) -> Iterator[None]:
    """A program that only fails in place of a real one, which may be what the machine's shell is."""
    program = machine.path(name)
    kept = program.with_name(f"{program.name}.real")
    program.rename(kept)
    machine.write(name, "#!/bin/sh\nexit 1\n", 0o755)
    try:
        yield
    finally:
        kept.rename(program)


def asked(machines: Tower) -> str:
    """What runs on a host while it is asked about itself."""
    return "busybox sh -s"


def trying(machines: Tower) -> str:
    """What runs on a host while it tries to reach another one."""
    return f" {machines['online2'].address()}"


@pytest.mark.parametrize("phase", [asked, trying])
def test_an_interrupted_audit_ends_at_once_and_leaves_nothing(machines: Tower, user: User, phase: Callable[[Tower], str]) -> None:
    before = left_behind(machines)
    argv = user.argv("audit", "--internet", f"{INTERNET_ADDRESS}:443")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        ends = time.monotonic() + 60
        while not any(phase(machines) in line for line in machines["online1"].processes().values()):
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < ends, f"{phase.__name__}: online1 does not run {phase(machines)!r}"
        os.kill(child_of(child), signal.SIGINT)
        start = time.monotonic()
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert "stopped" in said
    assert time.monotonic() - start < 8
    # What a host had begun ends by itself.
    ends = time.monotonic() + 30
    while (found := left_behind(machines)) != before:
        assert time.monotonic() < ends, [one for one in found if one not in before]
