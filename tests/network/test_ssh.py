# SPDX-License-Identifier: Apache-2.0
"""Connections and tunnels of `tower` on the ring: what goes through them, how they end, and what each failure is called."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.light.services import let_in
from tests.network.home import HOME, User, child_of, make_hosts, unplugged
from tests.network.machines import INTERNET_ADDRESS, USER, Machine, Tower
from tests.network.test_status import login_shell, sshd_stopped
from tests.unit.runtime.test_stanza import LINES

NAMES = ("router", "online1", "offline1")
_HEAD = """
import json, os, socket, sys, time
from pathlib import Path
from tower.base import errors
from tower.base.errors import TowerError
from tower.hosts.registry import tower_of_user
from tower.ssh.sessions import connect
tower = tower_of_user()
def host(name): return tower.host(name)
def told(action):
    try:
        return action()
    except TowerError as error:
        return [type(error).__name__, error.message, error.hint]
def listening(port):
    hear = "set -o pipefail; nc -w 9 127.0.0.1 $0 </dev/null | { head -c 8; cat >/dev/null; }"
    return ["sh", "-c", hear, str(port)]
def heard(port):
    with socket.create_connection(("127.0.0.1", port), 10) as one:
        one.settimeout(10)
        return one.recv(8).decode()
"""


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    return make_hosts(machines, NAMES)


def ask(user: User, body: str, **values: object) -> Any:
    """Run Python on the thin client that prints JSON."""
    return json.loads(user.python(f"{_HEAD}values = json.loads(sys.stdin.read())\n{body}", data=json.dumps(values)))


def connecting(user: User, name: str) -> list[str]:
    """What becomes of connecting to a host: its name, or the error's class, its message, its hint."""
    body = """
def action():
    with connect(tower, host(values["name"]), timeout=2) as session:
        return session.run(["hostname"], timeout=10).stdout.decode().split()
print(json.dumps(told(action)))
"""
    found: list[str] = ask(user, body, name=name)
    return found


def sockets(user: User) -> list[Path]:
    """Folders of connections."""
    return list((user.machine.root / "tmp").glob("tower-????????"))


def listeners(machine: Machine) -> list[int]:
    """Ports of its 127.0.0.1 that something listens on."""
    return [port for address, port in machine.listeners() if address == "127.0.0.1"]


def sshs(machine: Machine) -> list[str]:
    """The ssh that run there, and what runs for them."""
    return [line for line in machine.processes().values() if line.startswith(("ssh ", f"sshd-session: {USER}", f"sshd: {USER}"))]


def until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)


@contextmanager
def speaking(machine: Machine, address: str, port: int, words: bytes, *, stays: bool = False) -> Iterator[None]:
    """A server on a machine that greets everybody with the same words, and then ends the connection or stays silent."""
    with machine.inside():
        listener = socket.create_server((address, port))
    taken: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            one.sendall(words)
            taken.append(one)
            if not stays:
                one.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for one in taken:
            one.close()


def test_settings_for_all_machines_do_not_apply_to_hosts(user: User) -> None:
    """Neither does it break `ssh <host>`, nor lead from the host back to here."""
    config = f"{HOME}/.ssh/config"
    before = user.machine.read(config)
    user.machine.write(config, f"{before}Host *\n{LINES}", 0o600)
    try:
        done = user.machine.run("ssh", "-n", "offline1", "hostname; netstat -ltn | sed 1,2d")
    finally:
        user.machine.write(config, before, 0o600)
    name, *listening = done.stdout.splitlines()
    assert name == "offline1"
    assert [line.split()[3] for line in listening if not line.split()[3].endswith(":22")] == []
    assert len(listening) == 1


def test_words_and_files_arrive_unchanged_and_limits_hold(machines: Tower, user: User) -> None:
    words = ["", " ", "a b", "$HOME", "`id`", "*", "'", '"', "\\", "\n", "-n", "--", "é", ";|&<>(){}[]!#~", "x" * 5000]
    body = """
with connect(tower, host("offline1")) as session:
    found = {}
    found["words"] = session.run(["printf", "%s\\\\0", *values["words"]], timeout=20).stdout.decode().split("\\0")[:-1]
    found["env"] = session.run(["sh", "-c", 'echo "$A"'], env={"A": "it's $HOME"}, timeout=20).stdout.decode()
    found["user"] = session.run(["id", "-un"], timeout=20).stdout.decode()
    found["root"] = session.root(["sh", "-c", 'id -un; echo "$A"'], env={"A": "b c"}, timeout=20).stdout.decode()
    found["stdin"] = session.run(["sha256sum"], stdin=b"x" * 3_000_000, timeout=20).stdout.decode()[:8]
    found["status"] = session.run(["sh", "-c", "exit 255"], timeout=20, check=False).status
    found["fails"] = told(lambda: session.run(["sh", "-c", "printf 'n\\\\033[31mo' >&2; exit 3"], timeout=20))
    found["hangs"] = told(lambda: session.run(["sleep", "60"], timeout=0.5))
    found["floods"] = told(lambda: session.run(["yes"], timeout=20, most=100_000))
    session.put(b"one", "/home/user/f", 0o640)
    session.put(Path("/usr/bin/ssh"), "/home/user/a b", 0o600)
    look = "cat f; stat -c %a f; sha256sum <'a b'; stat -c %U 'a b'"
    found["put"] = session.run(["sh", "-c", look], timeout=20).stdout.decode()
    session.put(b"two", "/home/user/f", root=True)
    look = "cd /home/user; cat f; stat -c %U:%a f; ls -A"
    found["root put"] = session.root(["sh", "-c", look], timeout=20).stdout.decode()
    found["no room"] = told(lambda: session.put(b"x" * 200_000, "/mnt/small/f", root=True))
    found["left"] = session.root(["ls", "-A", "/mnt/small"], timeout=20).stdout.decode()
    print(json.dumps(found))
"""
    machines["offline1"].run("mkdir", "-p", "/mnt/small")
    machines["offline1"].run("mount", "-t", "tmpfs", "-o", "size=64k", "small", "/mnt/small")
    found = ask(user, body, words=words)
    machines["offline1"].run("umount", "/mnt/small")
    assert found["words"] == words
    assert (found["env"], found["user"], found["root"]) == ("it's $HOME\n", "user\n", "root\nb c\n")
    assert (found["status"], found["stdin"]) == (255, "e55b8bdf")
    assert found["fails"][:2] == ["RemoteError", "offline1: sh: exit status 3\n  n?[31mo"]
    assert found["hangs"][0] == "HangsError"
    assert found["floods"][0] == "GarbageError"
    digest = hashlib.sha256(user.machine.path("usr/bin/ssh").read_bytes()).hexdigest()
    assert found["put"] == f"one640\n{digest}  -\nuser\n"
    assert found["root put"].startswith("tworoot:600\n")
    assert "f." not in found["root put"]
    assert found["no room"][0] == "RemoteError", found["no room"]
    assert found["left"] == ""
    assert not sockets(user)


def test_a_host_that_is_off(machines: Tower, user: User) -> None:
    with unplugged(machines["offline1"]):
        kind, message, hint = connecting(user, "offline1")
    assert kind == "DownError"
    assert message.startswith("offline1: nothing answers at 192.168.3.200")
    assert "offline network" in hint


@pytest.mark.parametrize(
    ("how", "kind"), [(signal.SIGTERM, "RefusedError"), (signal.SIGSTOP, "HangsError")], ids=["stopped", "frozen"]
)
def test_an_ssh_server_that_does_not_run(machines: Tower, user: User, how: signal.Signals, kind: str) -> None:
    with sshd_stopped(machines["offline1"], how):
        assert connecting(user, "offline1")[0] == kind


@pytest.mark.parametrize(
    ("words", "stays", "kind"),
    [
        (b"", True, "HangsError"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", True, "HangsError"),
        (b"", False, "LostError"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 2000, False, "GarbageError"),
        (b"SSH-1.5-old\r\n", True, "GarbageError"),
        (b"SSH-2.0-x\r\n" + b"\xff" * 5000, True, "GarbageError"),
    ],
    ids=["silent", "greets", "hangs up", "http", "old", "noise"],
)
def test_something_else_on_the_port_of_ssh(machines: Tower, user: User, words: bytes, stays: bool, kind: str) -> None:
    host = machines["offline1"]
    with sshd_stopped(host, signal.SIGTERM), speaking(host, host.address(), 22, words, stays=stays):
        found = connecting(user, "offline1")
    assert found[0] == kind, found
    assert found[2], "there is a hint"


def test_a_host_that_refuses_the_key(machines: Tower, user: User) -> None:
    keys = machines["offline1"].read("home/user/.ssh/authorized_keys")
    let_in(machines["offline1"], [], USER)
    assert connecting(user, "offline1")[0] == "KeyRefusedError"
    let_in(machines["offline1"], keys.splitlines(), USER)


def test_a_host_with_another_key(machines: Tower, user: User) -> None:
    host = machines["offline1"]
    old = host.read("etc/ssh/ssh_host_ed25519_key")
    host.run("rm", "/etc/ssh/ssh_host_ed25519_key")
    host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/ssh/ssh_host_ed25519_key")
    with sshd_stopped(host, signal.SIGTERM):
        pass
    found = connecting(user, "offline1")
    host.write("etc/ssh/ssh_host_ed25519_key", old, 0o600)
    with sshd_stopped(host, signal.SIGTERM):
        pass
    assert found[0] == "HostKeyError"
    assert "do not use it" in found[2]
    assert connecting(user, "offline1") == ["offline1"]


@pytest.mark.parametrize("program", ["echo hello", "exec cat /dev/zero", "printf tower-read", "exec sleep 60"])
def test_a_login_that_answers_otherwise(machines: Tower, user: User, program: str) -> None:
    with login_shell(machines["offline1"], f"#!/bin/sh\n{program}\n"):
        kind, message, _ = connecting(user, "offline1")
    assert kind == ("HangsError" if "sleep" in program else "GarbageError"), message
    assert message.isprintable()
    assert len(message) < 200


def test_a_tunnel_each_way(machines: Tower, user: User) -> None:
    """What `tower install` needs, and nothing past it: see the product's settings of sshd."""
    host, router = machines["offline1"], machines["router"]
    body = """
found = {}
with connect(tower, host("offline1")) as session, connect(tower, host("router")) as router:
    with router.forward("198.51.100.7", 80) as here, session.reverse(here) as there:
        found["here"], found["there"] = here, there
        words = listening(there)
        found["heard"] = [heard(here), session.run(words, timeout=20).stdout.decode().strip()]
        found["ports"] = session.run(["netstat", "-ltn"], timeout=20).stdout.decode()
        found["same"] = told(lambda: session.reverse(here, host_port=there).__enter__())
        found["taken there"] = told(lambda: session.reverse(here, host_port=22).__enter__())
        found["taken here"] = told(lambda: router.forward("198.51.100.7", 80, local_port=here).__enter__())
        found["no name"] = told(lambda: router.forward("-oProxyCommand=x", 80).__enter__())
    found["closed"] = told(lambda: session.run(words, timeout=20, check=False).status)
    found["past"] = []
    for one, target, port in ((session, "192.168.3.201", 22), (session, "198.51.100.7", 80), (router, "198.51.100.7", 22),
                              (router, "192.168.2.200", 22)):
        with one.forward(target, port) as here:
            try:
                found["past"].append(heard(here))
            except OSError as error:
                found["past"].append(str(error))
    with session.forward("127.0.0.1", 22) as here:
        found["own"] = heard(here)
print(json.dumps(found))
"""
    own = speaking(host, "127.0.0.1", 22, b"SSH-2.0-own")
    with speaking(machines["internet"], INTERNET_ADDRESS, 80, b"packages"), own:
        found = ask(user, body)
    assert found["heard"] == ["packages", "packages"]
    assert f"127.0.0.1:{found['there']} " in found["ports"]
    assert f"0.0.0.0:{found['there']} " not in found["ports"]
    for name in ("same", "taken there", "taken here"):
        assert found[name][0] == "PortTakenError", name
        assert found[name][2]
    assert found["no name"][0] == "ValueRefusedError"
    assert found["closed"] == 1
    assert found["past"] == [""] * 4
    assert found["own"].startswith("SSH-2.0")
    assert listeners(host) == listeners(router) == listeners(user.machine) == []


def test_a_connection_that_broke_while_idle_is_made_again_with_its_tunnels(machines: Tower, user: User) -> None:
    body = """
import subprocess
found = {}
with connect(tower, host("offline1")) as session:
    with session.forward("127.0.0.1", 22) as here, session.reverse(here) as there:
        found["before"] = [session.alive(), heard(here)[:3]]
        subprocess.run(["kill", "-9", str(session._master.pid)])
        session._master.wait()
        found["broken"] = session.alive()
        found["after"] = [session.run(["echo", "again"], timeout=20).stdout.decode(), session.alive(), heard(here)[:3]]
        words = listening(there)
        found["there"] = session.run(words, timeout=20).stdout.decode()
print(json.dumps(found))
"""
    with speaking(machines["offline1"], "127.0.0.1", 22, b"SSH-2.0-own"):
        found = ask(user, body)
    assert found["before"] == [True, "SSH"]
    assert found["broken"] is False
    assert found["after"] == ["again\n", True, "SSH"]
    assert found["there"].startswith("SSH-2.0")


def test_a_connection_that_breaks_under_a_command(machines: Tower, user: User) -> None:
    body = """
with connect(tower, host("offline1")) as session:
    print(json.dumps(told(lambda: session.run(["sh", "-c", 'kill -9 "$(ps -o ppid= -p $PPID)" $PPID; sleep 60'], timeout=50))))
"""
    start = time.monotonic()
    kind, message, hint = ask(user, body)
    assert kind == "LostError", message
    assert "offline1" in hint
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_tower_that_is_killed_takes_all_along(machines: Tower, user: User, how: signal.Signals) -> None:
    body = """
from tower.cli.main import _stop_at_signals
_stop_at_signals()
with connect(tower, host("offline1")) as session, session.forward("127.0.0.1", 22) as here, session.reverse(here) as there:
    print(there, file=sys.stderr, flush=True)
    session.run(["sleep", "90"], timeout=80)
"""
    host, before = machines["offline1"], sockets(user)
    argv = user.python_argv("-c", _HEAD + body)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stderr is not None
        running.stderr.readline()
        until(lambda: bool(host.running("sleep 90")))
        assert len(listeners(user.machine)) == len(listeners(host)) == 1
        os.kill(child_of(running), how)
        running.wait(20)
    until(lambda: not (sshs(host) or sshs(user.machine) or listeners(host) or listeners(user.machine)))
    if how is signal.SIGKILL:
        # Its folder is swept away by the next one, once it is old enough not to be one in the making.
        old = [folder for folder in sockets(user) if folder not in before]
        assert len(old) == 1
        os.utime(old[0], (0, 0))
        assert connecting(user, "offline1") == ["offline1"]
    assert sockets(user) == before


@pytest.mark.parametrize(
    ("name", "leads"),
    [("offline1", "127.0.0.1:* localhost:*"), ("router", "127.0.0.1:* localhost:* *:80 *:443")],
)
def test_the_ssh_server_of_a_host_has_the_intended_restrictions(machines: Tower, user: User, name: str, leads: str) -> None:
    """By the server itself: its settings for a connection of the thin client's."""
    host = machines[name]
    about = f"user=user,host=thinclient,addr=192.168.2.100,laddr={host.address()},lport=22"
    said = host.run("/usr/sbin/sshd", "-T", "-C", about).stdout.splitlines()
    wanted = {
        "permitopen": leads,
        "permitlisten": "127.0.0.1:* localhost:*",
        "gatewayports": "no",
        "allowtcpforwarding": "yes",
        "allowstreamlocalforwarding": "no",
        "allowagentforwarding": "no",
        "x11forwarding": "no",
        "permittunnel": "no",
        "permitrootlogin": "no",
        "passwordauthentication": "no",
        "kbdinteractiveauthentication": "no",
    }
    found = dict(line.split(" ", 1) for line in said)
    assert {setting: found[setting] for setting in wanted} == wanted
