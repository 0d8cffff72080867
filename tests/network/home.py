# SPDX-License-Identifier: Apache-2.0
"""The thin client's user: a `~/.local/tower` that knows the machines of the ring as hosts, and `tower` run there."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.light.services import let_in
from tests.network.machines import USER, Machine, Tower

HOME = "/root"
FOLDER = f"{HOME}/.local/tower"
PYTHON = "/usr/bin/python3"
ENVIRONMENT = {
    "HOME": HOME,
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": "/usr/lib/tower",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""What `tower` starts with on the thin client: what its own script sets, and a shell's least."""
_ADD = r"""
import json, sys
from dataclasses import replace
from ipaddress import IPv4Address
from tower.hosts import env, secret
from tower.hosts.env import InstallationType, TowerEnv, Wlan
from tower.base.names import HostName, UserName
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, USER_KEY, WORLD, tower_of_user
tower, keys = tower_of_user(), []
type(tower).check_new = lambda *_, **__: None  # machines come in any order here
for name, address, host_key, user in json.loads(sys.stdin.read()):
    if (tower.folder / "hosts" / name).is_dir():
        tower.remove(name)
    pair = secret.new_key_pair(f"{user}@{name}")
    online = address.startswith("192.168.2.")
    def make(place):
        found = TowerEnv(
            hostname=HostName(name), username=UserName(user), public_key=pair.public, password_hash="$6$salt$" + "a" * 86,
            keyboard_layout="us", keyboard_variant="us", timezone="UTC", lang="C.UTF-8", online=online,
            wlan=Wlan("Home", "0" * 64) if name == "router" else None, address=IPv4Address(address),
            installation_type=InstallationType.INSTALL, color=place.color, alpine_branch="lab",
        )
        return {
            ENV: env.dump(found), USER_KEY: pair.private, f"{USER_KEY}.pub": pair.public.encode() + b"\n",
            f"{HOST_KEY}.pub": host_key.encode() + b"\n", KEY_FILE: b"x" * 512, WORLD: b"",
        }
    tower.add(HostName(name), online=online, make=make)
    keys.append(pair.public)
print(json.dumps(keys))
"""


@dataclass(frozen=True, slots=True)
class User:
    """Who types `tower` on the thin client."""

    machine: Machine

    def python(self, code: str, *, data: str = "", timeout: float = 60) -> str:
        """Run Python there, with the module `tower`; what it prints."""
        return self.machine.run(*self._words(PYTHON, "-c", code), data=data, timeout=timeout).stdout

    def knows(self, *hosts: tuple[str, str, str], user: str = USER) -> list[str]:
        """Make hosts known by name, address and host key, as if they had been provisioned; the public keys they must let in."""
        rows = [(*host, user) for host in hosts]
        keys: list[str] = json.loads(self.python(_ADD, data=json.dumps(rows)))
        return keys

    def argv(self, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command that runs `tower` there."""
        return self.machine.argv(*self._words("tower", *words, env=env))

    def python_argv(self, *words: str) -> list[str]:
        """The command that runs Python there, with the module `tower`."""
        return self.machine.argv(*self._words(PYTHON, *words))

    def _words(self, *words: str, env: Mapping[str, str] | None = None) -> tuple[str, ...]:
        more = {**ENVIRONMENT, **(env or {})}
        return ("env", "-i", *(f"{name}={value}" for name, value in more.items()), *words)

    def tower(
        self, *words: str, data: str | bytes = "", timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `tower` there; whatever its exit status."""
        given = data.encode() if isinstance(data, str) else data
        done = subprocess.run(self.argv(*words, env=env), input=given, capture_output=True, timeout=timeout, check=False)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def json(self, *words: str, status: int | None = 0, timeout: float = 60) -> Any:
        """What `tower ... --json` prints."""
        done = self.tower(*words, "--json", timeout=timeout)
        assert status is None or done.returncode == status, (
            f"tower {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return json.loads(done.stdout)


def make_hosts(tower: Tower, names: Sequence[str]) -> User:
    """Make these machines of the ring, and no others, hosts of the thin client, with the rules of their roles."""
    tower.set_firewalls()
    user = User(tower["thinclient"])
    user.machine.run("rm", "-rf", FOLDER)
    servers = [(name, tower[name].address(), tower[name].sshd().host_key) for name in names]
    for name, key in zip(names, user.knows(*servers), strict=True):
        let_in(tower[name], [key], USER)
    return user


@contextmanager
def unplugged(host: Machine) -> Iterator[None]:
    """No cable."""
    host.run("ip", "link", "set", "eth0", "down")
    try:
        yield
    finally:
        plug_in(host)


def plug_in(host: Machine) -> None:
    """Its network as it was before it was taken down: the kernel then forgets routes."""
    host.run("ip", "link", "set", "eth0", "up")
    if host.plan.gateway:
        host.run("ip", "route", "replace", "default", "via", host.plan.gateway)


def child_of(process: subprocess.Popen[Any]) -> int:
    """The `tower` behind the program that entered the machine: who signals that one signals nobody else."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def talk(argv: list[str], *typed: tuple[bytes, bytes], raw: bool = False) -> tuple[int, bytes]:
    """Run a program on a terminal of its own; type each text when what is before it was shown. Its status, and all it showed.

    With `raw`, type only once the program has set the terminal to pass on every key as it is: ssh shows what the host says
    a moment before it does that, and Ctrl-C would end ssh in this moment.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    shown, left = b"", list(typed)
    ends, ready = time.monotonic() + 30, select.poll()  # `select` takes no number above 1023
    ready.register(terminal, select.POLLIN)
    while time.monotonic() < ends:
        if left and left[0][0] in shown and not (raw and termios.tcgetattr(terminal)[3] & termios.ICANON):
            os.write(terminal, left.pop(0)[1])
        if not ready.poll(200):
            continue
        try:
            data = os.read(terminal, 4096)
        except OSError as error:
            assert error.errno == errno.EIO
            break
        if not data:
            break
        shown += data
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown
