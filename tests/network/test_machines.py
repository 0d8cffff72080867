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

from tests.network.machines import CHECKOUT, Machine, Tower, missing_tools

KEY = "/root/.ssh/id_ed25519"


@pytest.fixture(scope="module")
def key(machines: Tower) -> str:
    """A key of the thin client; its public half."""
    client = machines["thinclient"]
    client.run("mkdir", "-p", "-m", "0700", "/root/.ssh")
    client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY)
    return client.read(f"{KEY}.pub")


def ssh(client: Machine, host: Machine, *argv: str) -> subprocess.CompletedProcess[str]:
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
    host.write("home/user/ask", "import socket\nprint(socket.create_connection(('127.0.0.1', 8443), 10).recv(9).decode())\n")
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
        argv = client.argv("ssh", "-n", "-F", "none", *options, "-R", forward, f"user@{host.address()}", "python3", "ask")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as asking:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"hello")
            assert asking.communicate(timeout=20)[0] == "hello\n"


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
        "import time\nfrom tests.network.machines import tower\n"
        "with tower() as made:\n    made['router'].sshd('x')\n"
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
