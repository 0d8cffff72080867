# SPDX-License-Identifier: Apache-2.0
"""The machines themselves: ssh through the product's firewalls, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base.errors import BootError
from pipeline.light.machine import Ran
from tests.network.machines import CHECKOUT, USER, Machine, Tower, missing_tools

KEY = "/root/.ssh/id_ed25519"


@pytest.fixture(scope="module")
def key(machines: Tower) -> str:
    """A key of the thin client; its public half."""
    client = machines["thinclient"]
    client.run("mkdir", "-p", "-m", "0700", "/root/.ssh")
    client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)
    return client.read(f"{KEY}.pub")


def ssh(client: Machine, host: Machine, *argv: str) -> Ran:
    options = [f"-oIdentityFile={KEY}", "-oUserKnownHostsFile=/root/.ssh/known_hosts", "-oStrictHostKeyChecking=yes"]
    limits = ["-oBatchMode=yes", "-oConnectTimeout=10"]
    return client.run("ssh", "-n", "-F", "none", *options, *limits, f"user@{host.address()}", *argv, check=False)


@pytest.mark.parametrize("name", ["router", "online1", "offline1"])
def test_ssh_of_the_thin_client_passes_the_firewalls(machines: Tower, key: str, name: str) -> None:
    machines.set_firewalls()
    client, host = machines["thinclient"], machines[name]
    server = host.sshd(key)
    client.write("root/.ssh/known_hosts", f"{host.address()} {server.host_key}\n")
    done = ssh(client, host, "hostname")
    assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr


def test_tunnels_pass_the_firewall_of_an_offline_host(machines: Tower, key: str) -> None:
    """What `tower install` needs: a port of the host's loopback that ends on the thin client."""
    machines.set_firewalls()
    client, host = machines["thinclient"], machines["offline2"]
    server = host.sshd(key)
    client.write("root/.ssh/known_hosts", f"{host.address()} {server.host_key}\n")
    options = [
        f"-oIdentityFile={KEY}",
        "-oUserKnownHostsFile=/root/.ssh/known_hosts",
        "-oBatchMode=yes",
        "-oExitOnForwardFailure=yes",
    ]
    with client.inside():
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        listener.settimeout(20)
        forward = f"127.0.0.1:8443:127.0.0.1:{listener.getsockname()[1]}"
        argv = client.argv("ssh", "-n", "-F", "none", *options, "-R", forward, f"user@{host.address()}", "nc 127.0.0.1 8443")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as asking:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"hello\n")
            assert asking.communicate(timeout=20)[0] == "hello\n"


def test_a_machine_has_nothing_of_this_one_but_the_kernel(machines: Tower, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("here")
    for machine in machines:
        rows = [row.split() for row in machine.run("cat", "/proc/mounts").stdout.splitlines()]
        assert {row[2] for row in rows} <= {"devpts", "mqueue", "overlay", "proc", "sysfs", "tmpfs"}
        for path in (CHECKOUT, tmp_path, Path(sys.prefix)):
            assert not machine.path(str(path)).exists(), f"{machine.name} has {path}"
        assert list(machine.path("home").iterdir()) == [machine.path(f"home/{USER}")] * machine.plan.is_host
        assert [file for file in machine.path("tmp").iterdir() if not file.name.startswith(".")] == []
        assert {file.name for file in machine.path("dev").iterdir()} - {"log", "mqueue"} == DEVICES


DEVICES = {"fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"}


def test_machines_do_not_change_this_one(machines: Tower) -> None:
    """Its root has devices of its own, and sets nothing of the kernel that both have."""
    host = machines["online1"]
    before = [Path(file).stat().st_mode for file in ("/dev/null", "/dev/tty", "/tmp")]
    host.run("chmod", "0600", "/dev/null", "/dev/tty", "/tmp")
    assert [Path(file).stat().st_mode for file in ("/dev/null", "/dev/tty", "/tmp")] == before
    host.run("chmod", "0666", "/dev/null", "/dev/tty")
    host.run("chmod", "1777", "/tmp")
    for refused in (
        ("mknod", "/root/disk", "b", "8", "0"),
        ("sh", "-c", "echo elsewhere >/proc/sys/kernel/domainname"),
        ("insmod", "/root/none.ko"),
    ):
        done = host.run(*refused, check=False)
        assert done.returncode != 0, refused
    # This one says so, and ends with 0 all the same.
    assert "not permitted" in host.run("date", "-s", "2020-01-01", check=False).stderr
    settings = host.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward")
    assert settings.stdout == "1\n"


def test_the_roots_are_those_of_the_images(machines: Tower) -> None:
    """With the bits of modes that one unpacker or another forgets, and as the product has them."""
    host, client = machines["offline1"], machines["thinclient"]
    for machine, variant in ((host, "host"), (client, "thinclient")):
        assert f"VARIANT_ID={variant}\n" in machine.read("etc/os-release")
        assert f"toweros-{variant}\n" in machine.read("etc/apk/world")
        assert machine.path("usr/bin/doas").stat().st_mode & 0o7777 == 0o4755
        assert machine.path("etc/doas.conf").stat().st_mode & 0o7777 == 0o400
        assert machine.path("var/tmp").stat().st_mode & 0o7777 == 0o1777
    assert host.run("id", "-un", user=USER).stdout == f"{USER}\n"
    assert host.run("doas", "-n", "id", "-un", user=USER).stdout == "root\n"


def test_a_machine_keeps_its_disk_when_it_starts_again(machines: Tower) -> None:
    host = machines["offline2"]
    before = host.sshd().host_key
    for name in ("root/kept", "run/lost", "tmp/lost"):
        host.write(name, "x")
    for power in (True, False):
        if power:
            host.pull_the_plug()
        else:
            host.run("reboot")
            assert host.wait_until_off()
        machines.turn_on(host)
        assert host.read("root/kept") == "x"
        assert not host.path("run/lost").exists()
        assert not host.path("tmp/lost").exists()
        assert host.sshd().host_key == before


def test_a_machine_whose_first_process_is_killed_is_off(machines: Tower) -> None:
    """As after a power cut: it asks for no restart."""
    host = machines["offline2"]
    with pytest.raises(BootError, match="offline2: still on after"):
        host.wait_until_off(0.1)
    os.kill(host.pid, signal.SIGKILL)
    assert not host.wait_until_off(20)
    machines.turn_on(host)
    assert host.is_on


def namespaces() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(str((process / "ns" / "net").readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_whoever_started_the_machines(how: signal.Signals) -> None:
    if missing := missing_tools():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    program = (
        "import time\nfrom tests.network.machines import roots, tower\n"
        "with roots() as shelf, tower(shelf) as made:\n"
        "    print(' '.join(str(one.pid) for one in made), flush=True)\n    time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        pids = owner.stdout.readline().split()
        mine = {str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in pids}
        assert len(mine) == 7
        os.kill(owner.pid, how)
        owner.wait(20)
    ends = time.monotonic() + 20
    while mine & namespaces():
        assert time.monotonic() < ends, "a namespace is still there"
        time.sleep(0.05)
