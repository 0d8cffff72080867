# SPDX-License-Identifier: Apache-2.0
"""One light machine: a root from the shelf with changes in memory, running in namespaces of its own.

It shares only the kernel with this machine: file systems, /dev, processes, network and host name are its own, and its
root user may not set the clock, load modules or make devices. That keeps programs that expect a machine of their own
from doing harm; it is not a security boundary.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from pipeline.base import proc
from pipeline.base.errors import BootError, ToolError
from pipeline.light.cage import Caged, caged
from pipeline.light.shelf import PLACE, Shelf
from pipeline.light.switches import in_network_of

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_START: Final = Path(__file__).with_name("start.sh")
TAKEN: Final = "-mac_admin,-mac_override,-mknod,-sys_module,-sys_rawio,-sys_time,-syslog,-wake_alarm"
"""Capabilities that machines do not have, since they act on this machine's kernel; as setpriv writes them."""
_MOST_LINKS: Final = 40
BROUGHT: Final = "/opt/brought"
"""The folder of programs that a test adds."""


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a program that ran inside."""

    returncode: int
    stdout: str
    stderr: str


def inside(pid: int, argv: Sequence[str]) -> list[str]:
    """Return the command that runs `argv` as root on the machine whose first process has this process ID here."""
    return ["setpriv", f"--bounding-set={TAKEN}", "nsenter", f"--target={pid}", "--all", "--root", "--wd", "--", *argv]


def command(pid: int, argv: Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None) -> list[str]:
    """Return the command that runs `argv` there as root, or as a user in their home.

    Its environment is `env`, a PATH and a locale.
    """
    words = argv if user is None else ("su", "-s", "/bin/sh", "-c", 'cd; exec "$@"', "--", user, "sh", *argv)
    given = {"PATH": PATH, "LC_ALL": "C.UTF-8", **(env or {})}
    return ["env", "-i", *(f"{name}={value}" for name, value in given.items()), *inside(pid, words)]


@dataclass(slots=True)
class Box:
    """A machine: its root, its disk, and its processes while it is on."""

    name: str
    shelf: Shelf
    tree: str
    """The name of its root on the shelf."""
    disk: str
    """The folder on the shelf that keeps its changes."""
    services: tuple[str, ...]
    """Services that start in addition to its runlevels. `-` alone starts nothing at all."""
    stack: ExitStack
    cage: Caged | None = field(default=None, init=False)
    pid: int = field(default=0, init=False)
    """The process ID of its first process on this machine."""

    def turn_on(self) -> None:
        """Begin to start the machine: call `wait_until_made`, plug in its cables (`switches.plug_in`) and call `boot` next."""
        argv = ["sh", str(_START), f"{PLACE}/{self.tree}", self.disk, self.name, TAKEN, *self.services]
        self.cage = caged(self.stack, argv, ["--net", "--mount", "--pid", "--uts", "--ipc"], within=self.shelf.pid)

    def wait_until_made(self) -> None:
        """Wait until its file systems and its network exist; nothing else runs yet."""
        self.pid = self._on.first()

    def boot(self) -> None:
        """Let its init run."""
        self._on.input.write(b"\n")
        self._on.input.flush()

    def wait_until_up(self, seconds: float = 60) -> None:
        """Wait until its services have started. Raises BootError after `seconds`, or if it ended."""
        ends = time.monotonic() + seconds
        while not (self.root / "run/light-started").exists():
            if not self.is_on:
                raise BootError(f"{self.name}: ended while it started")
            if time.monotonic() >= ends:
                raise BootError(f"{self.name}: not up after {seconds} s\n{self.read('run/light-console')}")
            time.sleep(0.02)

    @property
    def _on(self) -> Caged:
        if self.cage is None:
            raise BootError(f"{self.name}: was never turned on")
        return self.cage

    @property
    def is_on(self) -> bool:
        """Tell whether it runs."""
        return self.cage is not None and self.cage.outer.poll() is None

    def wait_until_off(self, seconds: float = 60) -> bool:
        """Wait until it has ended; tell whether it asked for a restart. Raises BootError if it is still on after `seconds`.

        One whose first process was killed, or ended by itself, has only lost its power.
        """
        ends = time.monotonic() + seconds
        while (status := self._on.outer.poll()) is None:
            if time.monotonic() >= ends:
                raise BootError(f"{self.name}: still on after {seconds:.0f} s")
            time.sleep(0.02)
        # The kernel ends the PID namespace with this signal for a restart, and with SIGINT for a power-off: reboot(2).
        return status == -signal.SIGHUP

    def pull_the_plug(self) -> None:
        """Cut the power: changes that are not on its disk are lost."""
        self._on.outer.kill()
        self._on.outer.wait(20)

    @property
    def root(self) -> Path:
        """Its root folder, seen from here. Absolute links in it would lead out of it: see `path`."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, name: str) -> Path:
        """Return a file of the machine, seen from here; links to its folder are followed as the machine would follow them.

        Raises ToolError.
        """
        todo, place, links = [part for part in reversed(name.split("/")) if part], self.root, 0
        while len(todo) > 1:
            part = todo.pop()
            link = place / part
            if not link.is_symlink():
                place = link
                continue
            links += 1
            target = str(link.readlink())
            if links >= _MOST_LINKS or ".." in target.split("/")[1:]:
                raise ToolError(f"{self.name}: {name}: {link} leads to {target}, after {links} links")
            if target.startswith("/"):
                place = self.root
            elif target.startswith("../"):
                place, target = place.parent, target[3:]
            todo += [one for one in reversed(target.split("/")) if one]
        return place / todo[0] if todo else place

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file inside the machine; a link of this name is replaced."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            path.unlink()
        path.write_text(text)
        path.chmod(mode)

    def read(self, name: str) -> str:
        """Read a file inside the machine. Raises BootError if it is a link."""
        path = self.path(name)
        if path.is_symlink():
            raise ToolError(f"{self.name}: {name}: is a link to {path.readlink()}")
        return path.read_text()

    def original(self, name: str) -> Path:
        """Return a file of the machine's root without its changes, seen from here; it may not exist."""
        return self.shelf.folder(self.tree) / self.path(name).relative_to(self.root)

    def restore(self, *names: str) -> None:
        """Undo all changes to files and folders: they are again as in the root, or absent."""
        for name in names:
            place, original = self.path(name), self.original(name)
            proc.run(["rm", "-rf", place], timeout=60)
            if original.exists():
                proc.run(["cp", "-a", original, place], timeout=60)

    def argv(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` inside, as root."""
        return inside(self.pid, argv)

    def run(
        self,
        *argv: str,
        data: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 60,
    ) -> Ran:
        """Run a program inside, as root or another user; its output is in the result, and in the error if it fails.

        Raises ToolError.
        """
        full = command(self.pid, argv, user=user, env=env)
        done = proc.run(full, stdin=(data or "").encode(), timeout=timeout, check=False)
        ran = Ran(done.status, done.stdout.decode(), done.stderr.decode())
        if check and ran.returncode != 0:
            raise ToolError(f"{self.name}: {' '.join(argv)}: status {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Put this thread into the machine's network for good: its new sockets belong to the machine."""
        with in_network_of(self.pid):
            yield

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a non-blocking socket in the machine's network."""
        with self.inside():
            made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    def processes(self) -> dict[int, str]:
        """Map each process ID inside the machine to the words of its command line."""
        found = {}
        for folder in (self.root / "proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if words:
                found[int(folder.name)] = words.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
        return found

    def running(self, pattern: str) -> list[int]:
        """Return the process IDs, inside the machine, of processes whose command line matches a regular expression."""
        return sorted(number for number, line in self.processes().items() if re.search(pattern, line))

    def kill(self, number: signal.Signals, pattern: str) -> list[int]:
        """Send a signal to the processes whose command line matches; return their process IDs."""
        found = self.running(pattern)
        if found:
            self.run("kill", "-s", number.name.removeprefix("SIG"), *map(str, found), check=False)
        return found

    def listeners(self) -> list[tuple[str, int]]:
        """Return the addresses and ports that the machine listens on, sorted."""
        rows = [row.split() for kind in ("tcp", "tcp6") for row in _lines(Path(f"/proc/{self.pid}/net/{kind}"))[1:]]
        # Columns of proc(5): local address, remote address, state; 0A is LISTEN.
        places = [row[1].rpartition(":") for row in rows if row[3] == "0A"]
        return sorted((_address(words), int(port, 16)) for words, _, port in places)

    def wait_for_listener(self, port: int, seconds: float = 20) -> None:
        """Wait until a program listens on a port. Raises BootError after `seconds`."""
        ends = time.monotonic() + seconds
        while port not in {one for _, one in self.listeners()}:
            if time.monotonic() >= ends:
                raise BootError(f"{self.name}: nothing listens on port {port} after {seconds} s")
            time.sleep(0.02)


def bring(box: Box, program: str) -> None:
    """Copy a program of this machine that its root lacks, with its libraries, to where the machine finds it.

    It has a folder of its own, so that it is visible; nothing in there replaces a part of the product. Raises ToolError.
    """
    found = shutil.which(program, path=PATH)
    if found is None:
        raise ToolError(f"{program}: no such program on this machine")
    said = proc.run(["ldd", found], timeout=20).stdout.decode()
    folder = f"{BROUGHT}/{program}"
    libraries = [word for line in said.splitlines() for word in line.split() if word.startswith("/")]
    loader = next(library for library in libraries if Path(library).name.startswith("ld-"))
    for source in (found, *libraries):
        target = box.path(f"{folder}/{Path(source).name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    start = f'exec {folder}/{Path(loader).name} --library-path {folder} {folder}/{Path(found).name} "$@"'
    box.write(f"usr/bin/{program}", f"#!/bin/sh\n{start}\n", 0o755)


def _address(words: str) -> str:
    """Convert an address of /proc/net: hexadecimal, each four bytes as a number in this machine's byte order."""
    raw = b"".join(int(words[place : place + 8], 16).to_bytes(4, sys.byteorder) for place in range(0, len(words), 8))
    return str(ip_address(raw))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
