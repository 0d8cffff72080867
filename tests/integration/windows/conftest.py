# SPDX-License-Identifier: Apache-2.0
"""A desktop in memory, and hosts that are this machine's ssh server on its loopback: real programs on both sides."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tower.base.names import HostName, UserName
from tower.hosts import env, secret
from tower.hosts.env import InstallationType, TowerEnv
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, USER_KEY, WORLD, FreeAddress, Tower

from pipeline.images.guest import free_port
from tests.conftest import CHECKOUT
from tests.gui.pictures import Picture, keep
from tests.integration.windows.screen import picture
from tests.integration.windows.waiting import SECONDS, until
from tests.integration.windows.wayland import Screen, desktop

NEEDED = ("Xvfb", "Xvnc", "galculator", "mousepad", "socat", "ssh", "sshd", "x11vnc", "xclip", "xdotool", "xterm")
XVNC = ("Xvnc", "Xtigervnc")
"""What a host lacks whose windows are made by Xvfb and x11vnc."""
SERVERS: dict[str, tuple[str, ...]] = {"Xvnc": (), "Xvfb-x11vnc": XVNC}
"""The two kinds of servers, and what a host lacks that has the second."""
RED = (192, 48, 32)
XTERM = ("xterm", "-bg", "#c03020", "-fg", "#c03020", "+sb")
"""An application that paints its whole window in this colour."""
COLOURS = {"web": "#4363d8", "vault": "#f58231"}
# What the product's ssh server forwards.
_SERVER = CHECKOUT / "overlays/common/etc/ssh/sshd_config.d/tower.conf"
_KEPT = ("AllowTcpForwarding", "AllowStreamLocalForwarding", "GatewayPorts", "PermitListen", "PermitOpen", "X11Forwarding")


@dataclass
class Place:
    """The desktop, and the user's home with its hosts."""

    folder: Path
    display: str
    server: subprocess.Popen[bytes]
    port: int
    """Of the hosts' ssh server."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)
    more: Mapping[str, str] = field(default_factory=dict)
    """Variables of another desktop than that X server."""

    @property
    def environment(self) -> Mapping[str, str]:
        own = {"HOME": str(self.folder / "home"), "DISPLAY": f":{self.display}", "GDK_BACKEND": "x11"}
        return {**os.environ, **own, **self.more}

    @property
    def windows(self) -> Path:
        """Where the hosts' user has the folders of applications."""
        return self.folder / "away" / ".cache/tower/windows"

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "tower", "run", *words]

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """`tower run` with these words, which goes on."""
        made = subprocess.Popen(
            self.argv(*words), env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.started.append(made)
        return made

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`tower run` to its end."""
        argv = self.argv(*words)
        return subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False
        )

    def tower(self, *words: str, data: str = "") -> subprocess.CompletedProcess[str]:
        """Any command of `tower`."""
        argv = [sys.executable, "-P", "-m", "tower", *words]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, input=data, timeout=60, check=False)

    def type(self, *words: str) -> None:
        """Keys, clicks and sizes, by xdotool."""
        subprocess.run(["xdotool", *words], env=self.environment, check=True, timeout=20, stdout=subprocess.DEVNULL)

    def window(self, title: str) -> str:
        """The number of the window with a title."""
        found = ""

        def seen() -> bool:
            nonlocal found
            argv = ["xdotool", "search", "--onlyvisible", "--name", title]
            said = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False, timeout=20).stdout
            found = said.split()[-1] if said.split() else ""
            return bool(found)

        until(seen, f"a window {title}")
        return found

    def picture(self, seen: Callable[[Picture], bool], what: str) -> Picture:
        """The screen when it shows what it should; the last picture is kept in build/gui/."""
        found = picture(self.display)
        ends = time.monotonic() + SECONDS
        while not seen(found) and time.monotonic() < ends:
            time.sleep(0.1)
            found = picture(self.display)
        path = keep(found, what)
        assert seen(found), f"the screen never showed this: {what} ({path})"
        return found

    def ids(self) -> list[str]:
        """The folders of applications on the host."""
        return sorted(path.name for path in self.windows.iterdir()) if self.windows.is_dir() else []

    def id(self) -> str:
        """The folder of the only one, once it is there."""
        until(lambda: len(self.ids()) == 1 and (self.windows / self.ids()[0] / "display").exists(), "one application")
        return self.ids()[0]

    def left(self) -> list[str]:
        """What runs on either side for a window: of this home, or of the host's."""
        words = (
            "tower.windows.viewer",
            "tower.clipboard.broker",
            "/.cache/tower/windows/",
            "Applications with a display of their own",
        )
        return [line for line in self.mine().values() if any(word in line for word in (*words, f"-F {self.folder}/home"))]

    def mine(self) -> dict[int, str]:
        """The processes of this place, on both sides."""
        return {
            number: line for number, line in processes().items() if homes(number) & {self.folder / "away", self.folder / "home"}
        }

    def find(self, words: str) -> list[int]:
        """Those of them whose command line has these words."""
        return [number for number, line in self.mine().items() if words in line]


def processes() -> dict[int, str]:
    """The command lines of all processes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found[int(path.parent.name)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def homes(number: int) -> set[Path]:
    """The home that a process has, if it has one and is still there."""
    with suppress(OSError):
        variables = Path(f"/proc/{number}/environ").read_bytes().decode(errors="replace").split("\0")
        return {Path(one.removeprefix("HOME=")) for one in variables if one.startswith("HOME=")}
    return set()


def find(words: str) -> list[int]:
    """The processes whose command line has these words."""
    return [number for number, line in processes().items() if words in line]


def children(parent: subprocess.Popen[bytes], words: str = "") -> list[int]:
    """The children of a process whose command line has these words."""
    found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    lines = processes()
    return [int(number) for number in found if words in lines.get(int(number), "")]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place_without(tmp_path_factory) as made:
        yield made


@contextmanager
def place_without(factory: pytest.TempPathFactory, programs: Collection[str] = ()) -> Iterator[Place]:
    """A place whose hosts lack these programs; skips where this machine lacks what a place takes."""
    if missing := missing_here():
        pytest.skip(f"not on this machine: {', '.join(missing)}")
    # The name is that of no other run: another one in a mount namespace of its own has the same paths, and we see its processes.
    with make_place(factory.mktemp(f"w-{secrets.token_hex(4)}-"), programs) as made:
        yield made


def missing_here() -> list[str]:
    """What a place takes, and this machine lacks."""
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return [*missing, *([] if os.geteuid() == 0 else ["root"])]


@contextmanager
def make_place(folder: Path, without: Collection[str] = ()) -> Iterator[Place]:
    """A desktop with two hosts, to the context's end; the hosts lack the programs `without`."""
    port = free_port()
    server = start_ssh_server(folder, port, without)
    reading, writing = os.pipe()
    # Otherwise it resets whenever its last client leaves, and drops a client that connects at that moment.
    argv = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-noreset", "-nolisten", "tcp"]
    screen = subprocess.Popen(argv, pass_fds=(writing,), stderr=subprocess.DEVNULL)
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            made = Place(folder, said.readline().strip(), server, port)
        make_hosts(folder, port)
        yield made
    finally:
        for one in (server, screen):
            one.terminate()
            one.wait(20)


@pytest.fixture(scope="module")
def sway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Screen]:
    """A Wayland desktop in memory."""
    with desktop(tmp_path_factory.mktemp("sway")) as made:
        yield made


@pytest.fixture
def wayland(desk: Place, sway: Screen) -> Place:
    """The place on the Wayland desktop. What it starts is ended with the other one."""
    return replace(desk, more=sway.more)


@pytest.fixture
def desk(place: Place) -> Iterator[Place]:
    """The place, with nothing of a window left by an earlier test, and nothing left by this one."""
    assert place.left() == []
    shutil.rmtree(place.folder / "home/.local/tower/clipboard", ignore_errors=True)
    yield place
    for one in place.started:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
        one.communicate(timeout=120)
    place.started.clear()
    for number in place.ids():
        place.run("--stop", "web", number)
    until(lambda: place.left() == [], f"nothing is left: {place.left()}")
    assert place.ids() == []


def start_ssh_server(folder: Path, port: int, without: Collection[str] = ()) -> subprocess.Popen[bytes]:
    """sshd on the loopback, which leads to what a host's does. The programs `without` are not in its users' PATH."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    (folder / "keys").touch()
    kept = [line for line in _SERVER.read_text().partition("Match")[0].splitlines() if line.startswith(_KEPT)]
    own = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/keys"]
    # The hosts' user has a home of its own for these tests.
    (folder / "away").mkdir()
    variables = f"SetEnv HOME={folder}/away"
    if without:
        variables += f" PATH={programs_without(folder / 'programs', without)}"
    more = ["PermitRootLogin prohibit-password", "UsePAM no", "StrictModes no", "PidFile none", variables]
    (folder / "sshd_config").write_text("".join(f"{line}\n" for line in (*own, *more, *kept)))
    Path("/run/sshd").mkdir(exist_ok=True)
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert sshd is not None
    return subprocess.Popen([sshd, "-D", "-f", folder / "sshd_config", "-E", folder / "sshd.log"])


def programs_without(folder: Path, without: Collection[str]) -> Path:
    """A folder with all programs of this machine, but without some."""
    folder.mkdir()
    for place in ("/usr/local/bin", "/usr/sbin", "/usr/bin"):
        for path in Path(place).iterdir():
            if path.name not in without and not (folder / path.name).is_symlink():
                (folder / path.name).symlink_to(path)
    return folder


def make_hosts(folder: Path, port: int) -> None:
    """Two hosts of the user's Tower, both of them that server."""
    (folder / "home" / ".ssh").mkdir(parents=True)
    tower = Tower(folder / "home/.local/tower", folder / "home/.ssh/config")
    keys = []
    for name, chosen in COLOURS.items():
        pair = secret.new_key_pair(f"al@{name}")
        keys.append(pair.public)

        def make(free: FreeAddress, name: str = name, chosen: str = chosen, pair: secret.KeyPair = pair) -> Mapping[str, bytes]:
            settings = replace(SETTINGS, hostname=HostName(name), address=IPv4Address(free.address), color=chosen)
            public = (folder / "host.pub").read_bytes()
            files = {ENV: env.dump(settings), USER_KEY: pair.private, f"{HOST_KEY}.pub": public, KEY_FILE: b"x" * 512, WORLD: b""}
            return {**files, HOST_KEY: pair.private, f"{USER_KEY}.pub": pair.public.encode() + b"\n"}

        tower.add(HostName(name), online=False, make=make)
    (folder / "keys").write_text("".join(f"{key}\n" for key in keys))
    # ssh's first value counts: all the rest is as the product writes it.
    head = f"Host web vault\n HostName 127.0.0.1\n Port {port}\n User root\n"
    tower.config.write_text(head + tower.config.read_text())


SETTINGS = TowerEnv(
    hostname=HostName("web"),
    username=UserName("al"),
    public_key="ssh-ed25519 " + "A" * 68 + " al@web",
    password_hash="$6$salt$" + "a" * 86,
    keyboard_layout="us",
    keyboard_variant="us",
    timezone="UTC",
    lang="C.UTF-8",
    online=False,
    wlan=None,
    address=IPv4Address("192.168.3.200"),
    installation_type=InstallationType.INSTALL,
    color="#4363d8",
    alpine_branch="v3.24",
)
