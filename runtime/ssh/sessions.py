# SPDX-License-Identifier: Apache-2.0
"""One connection to a host: every command, file and tunnel of a `tower` goes through it, and ends with it.

    with connect(tower, host) as session:
        session.run(["uname", "-r"], timeout=10)
        session.root(["apk", "update"], timeout=60)
        with session.forward("127.0.0.1", 5900) as port: ...

`connect` starts ssh as a master in the foreground, with a socket in a folder of its own. The master runs a command on the
host that waits for the end of its input and then ends the connection from there: a `tower` that is killed, whatever kills
it, takes the connection, its tunnels and its commands along.

A connection that broke while nobody used it is made again by the next use; one that breaks under a command is a LostError.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tower.base import proc
from tower.base.errors import GarbageError, HangsError, LostError, RemoteError
from tower.base.proc import Done, OverrunError
from tower.base.ready import readable
from tower.base.regular import open_regular
from tower.hosts.registry import Host, Tower
from tower.ssh import tunnel
from tower.ssh.sockets import socket_folder
from tower.ssh.trouble import trouble_of

if TYPE_CHECKING:
    import subprocess

SYSTEM_PATH: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""For programs of root: the PATH of a user who logs in by ssh may differ, and doas searches it."""
MOST: Final = 16 << 20
"""The most bytes that a command of a host may write."""
_READY: Final = b"tower-ready"
# A constant without data of the user or the host. The parent of the shell is the host's end of the connection.
_END: Final = 'read -r _ _ _ parent _ </proc/$$/stat && kill "$parent"'
# The folder is the journal of an installation, which tower.install.repair finishes or undoes.
_GUARD: Final = f"[ ! -d /var/lib/tower/packages ] || more=-unfinished; echo {_READY.decode()}$more; cat; {_END}"
_PUT: Final = """\
set -eu
umask 077
folder=$(mktemp -d -- "$1.XXXXXX")
trap 'rm -rf -- "$folder"' EXIT
trap 'exit 1' HUP INT TERM PIPE
# In a folder that nobody else may enter: no other file can get in the place of this one while it is written.
new=$folder/new
cat >"$new"
[ "$(wc -c <"$new")" -eq "$3" ] || { echo "the file came incomplete" >&2; exit 1; }
chmod -- "$2" "$new"
sync "$new"
mv -f -- "$new" "$1"
rmdir -- "$folder"
trap - EXIT
sync "$(dirname -- "$1")"
"""
_LOST: Final = 255
"""The exit status of an ssh without a connection (and of a command that ends so)."""
# Raspberry Pis up to 4 have no instructions for AES. On an x86 core, OpenSSL's AES-128-GCM makes 4.6 GB/s with them and 0.3
# without, ChaCha20-Poly1305 1.4 to 3.5: first where AES is slow by far, and nowhere too slow for the wire.
_CIPHERS: Final = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes256-ctr"
_POST_QUANTUM: Final = "mlkem768x25519-sha256"


class Session:
    """An open connection. Made by `connect`."""

    def __init__(self, tower: Tower, host: Host, folder: Path, timeout: float) -> None:
        self.host = host
        self.timeout = timeout
        self._socket = folder / "s"
        self._errors = folder / "errors"
        # Requests of tunnels are forwards, too; the configuration itself has none.
        options = ("-o", "BatchMode=yes", "-o", "ClearAllForwardings=no")
        self._base = ("ssh", "-F", os.fspath(tower.config), "-S", os.fspath(self._socket), *options)
        self._stack = ExitStack()
        self._master: subprocess.Popen[bytes] | None = None
        self._asked = 0
        self.unfinished = False
        """Whether an installation was under way, or interrupted, on the host when we connected."""
        self.tunnels: list[tunnel.Tunnel] = []

    # Commands.

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        stdin: bytes | int | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        hint: str = "",
        most: int = MOST,
    ) -> Done:
        """Run a program of the host to its end; `timeout` is in seconds, `stdin` is its input: bytes or a descriptor.

        Raises HangsError, LostError, GarbageError (it wrote more than `most` bytes), RemoteError (it failed, with `check`).
        """
        self.ensure()
        try:
            done = proc.run(self._client(argv, env), timeout=timeout, stdin=stdin, check=False, most=most)
        except OverrunError as error:
            if "wrote" in error.message:
                raise GarbageError(f"{self.host.name}: {argv[0]}: wrote more than {most} bytes") from None
            self._check_alive(argv[0])
            raise HangsError(f"{self.host.name}: {argv[0]}: not finished after {timeout:.0f} s", hint=hint) from None
        if done.status == _LOST:
            self._check_alive(argv[0])
        if check and done.status != 0:
            raise failed(self.host.name, argv, done, hint)
        return done

    def root(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, **how: object) -> Done:
        """Run a program as `run` does, but as root of the host."""
        return self.run(as_root(argv, env), **how)  # type: ignore[arg-type]

    @contextmanager
    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int = proc.PIPE,
        stderr: int = proc.PIPE,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Yield a running program of the host, with unbuffered pipes; our end of it is closed with the context."""
        self.ensure()
        with proc.running(self._client(argv, env), stdin=stdin, stderr=stderr) as child:
            yield child

    def put(self, content: bytes | Path, path: str, mode: int = 0o600, *, timeout: float = 60, root: bool = False) -> None:
        """Write a file of the host, whole or not at all; its folder must exist.

        Raises RemoteError if it cannot be written, for lack of space or permission.
        """
        run = self.root if root else self.run
        hint = f"look at the free space on its disk: ssh {self.host.name} df"
        argv = ["sh", "-c", _PUT, "sh", path, f"{mode:04o}"]
        if isinstance(content, bytes):
            run([*argv, str(len(content))], stdin=content, timeout=timeout, hint=hint)
            return
        with open_regular(content) as stream:
            size = os.fstat(stream.fileno()).st_size
            run([*argv, str(size)], stdin=stream.fileno(), timeout=timeout, hint=hint)

    # Tunnels.

    def forward(self, target: str, port: int, *, local_port: int = 0) -> AbstractContextManager[int]:
        """Open a port of this machine's 127.0.0.1 that leads through the host to `port` of `target`, a name or an address.

        Raises PortTakenError if `local_port` is given and taken, RemoteError if the host's side refuses it.
        """
        return tunnel.forward(self, target, port, local_port)

    def reverse(self, local_port: int, *, host_port: int = 0, target: str = "127.0.0.1") -> AbstractContextManager[int]:
        """Open a port of the host's 127.0.0.1 that leads to `local_port` here.

        Raises PortTakenError if `host_port` is given and taken, or the host's side refuses it.
        """
        return tunnel.reverse(self, local_port, host_port, target)

    def control(self, *words: str, timeout: float = 15) -> Done:
        """Send a request to the master: `-O forward` and the like."""
        return proc.run((*self._base, "-O", *words, "--", self.host.name), timeout=timeout, check=False, most=MOST)

    # Health.

    def alive(self, timeout: float = 5) -> bool:
        """Tell whether the host answers through this connection now; waits up to `timeout` seconds."""
        master = self._master
        if master is None or master.poll() is not None:
            return False
        assert master.stdin is not None  # noqa: S101  (they are pipes)
        assert master.stdout is not None  # noqa: S101
        self._asked += 1
        word = b"%d" % self._asked
        try:
            master.stdin.write(word + b"\n")
            end = time.monotonic() + timeout
            while (line := _line(master.stdout, end)) not in (b"", word):
                pass  # the late answer to an earlier question
        except (OSError, TimeoutError):
            return False
        return line == word

    def ensure(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Make the connection again, with its tunnels, if it broke since it was last used. Raises as `connect` does."""
        if self._master is None or self._master.poll() is not None:
            self._open(meanwhile)
            for one in self.tunnels:
                one.open(self)

    def close(self) -> None:
        """End the connection and everything that goes through it."""
        self._stack.close()
        self._master = None

    def _open(self, meanwhile: Callable[[], None]) -> None:
        self.close()
        self._socket.unlink(missing_ok=True)
        options = _options(self.timeout)
        argv = (*self._base, "-M", "-T", *(word for option in options for word in ("-o", option)), "--", self.host.name, _GUARD)
        with ExitStack() as stack:
            errors = stack.enter_context(self._errors.open("w+b"))
            master = stack.enter_context(
                proc.running(argv, stdin=proc.PIPE, stderr=errors.fileno(), missing="install openssh-client")
            )
            assert master.stdout is not None  # noqa: S101  (it is a pipe)
            meanwhile()
            try:
                line = _line(master.stdout, time.monotonic() + self.timeout + 2)
            except TimeoutError:
                raise HangsError(
                    f"{self.host.name}: accepts the connection, then is silent for {self.timeout:.0f} s",
                    hint=f"is it overloaded? Restart it, or try: ssh {self.host.name}",
                ) from None
            if line not in (_READY, _READY + b"-unfinished"):
                if not line:
                    proc.ended(master, 10)
                errors.seek(0)
                raise trouble_of(self.host, line, errors.read(64 << 10).decode(errors="replace"))
            self.unfinished = line != _READY
            self._master = master
            self._stack = stack.pop_all()

    def client(self, command: str, *, tty: bool = False) -> tuple[str, ...]:
        """Return the program that runs a command line of the host's shell through this connection."""
        # It must not connect without the master: nothing would end such a client.
        options = ("-tt" if tty else "-T", "-o", "ControlMaster=no", "-o", "ProxyCommand=false")
        return (*self._base, *options, "--", self.host.name, command)

    def _client(self, argv: Sequence[str], env: Mapping[str, str] | None) -> tuple[str, ...]:
        if env:
            argv = ["env", *(f"{name}={value}" for name, value in env.items()), *argv]
        return self.client(shlex.join(argv))

    def _check_alive(self, what: str) -> None:
        if not self.alive():
            raise LostError(
                f"{self.host.name}: the connection broke during {what}",
                hint=f"is it on and plugged in? Check: tower status {self.host.name}",
            )


@contextmanager
def connect(
    tower: Tower,
    host: Host,
    *,
    timeout: float = 10,
    mend: Callable[[Session], None] | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Iterator[Session]:
    """Connect to a host, and close the connection at the end of the context; `timeout` is in seconds.

    `mend` is called first if an installation is under way on the host, or was interrupted: see `tower.install.connection`.
    `meanwhile` is called while ssh connects.

    Raises an AnswerError that says what is wrong: DownError, RefusedError, HangsError, KeyRefusedError, HostKeyError,
    GarbageError, LostError.
    """
    with socket_folder() as folder:
        session = Session(tower, host, folder, timeout)
        try:
            session.ensure(meanwhile)
            if mend is not None and session.unfinished:
                mend(session)
            yield session
        finally:
            session.close()


def as_root(argv: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the words that run a command as root; doas passes no environment on, so `env` sets it."""
    names = ("env", *(f"{name}={value}" for name, value in env.items())) if env else ()
    return ("doas", "-n", "--", *names, *argv)


def failed(name: str, argv: Sequence[str], done: Done, hint: str = "") -> RemoteError:
    """Return the error about a command of a host that failed."""
    said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-10:]
    program = next((word for word in argv if word not in ("doas", "-n", "--", "env") and "=" not in word), argv[0])
    shown = ("".join(char if char.isprintable() else "?" for char in line[:300]) for line in said)
    return RemoteError("\n  ".join([f"{name}: {program}: exit status {done.status}", *shown]), hint=hint)


def _options(timeout: float) -> list[str]:
    return [
        f"ConnectTimeout={max(1, round(timeout))}",
        "ConnectionAttempts=1",
        "ControlMaster=yes",
        "ControlPersist=no",
        "IdentityAgent=none",
        "LogLevel=INFO",  # at a lower level, ssh does not say why it broke off
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        f"Ciphers={_CIPHERS}",
        *_key_exchange(),
    ]


_known_exchanges: list[str] = []


def _key_exchange() -> list[str]:
    """Return options that put ML-KEM first if this ssh has it: quantum-safe like sntrup761, at a tenth of its time."""
    return [f"KexAlgorithms=^{_POST_QUANTUM}"] if _POST_QUANTUM in known_exchanges() else []


def known_exchanges() -> Sequence[str]:
    """Return the key exchanges that this machine's ssh knows."""
    if not _known_exchanges:
        _known_exchanges.extend(
            proc.run(("ssh", "-Q", "kex"), timeout=10, missing="install openssh-client").stdout.decode().split()
        )
    return _known_exchanges


def _line(stream: IO[bytes], end: float) -> bytes:
    """Read a line of an unbuffered pipe, without its newline; "" at its end. Raises TimeoutError at the time `end`."""
    found = bytearray()
    while len(found) < 256:
        left = end - time.monotonic()  # a line that never ends counts as none
        if left <= 0 or not readable([stream], left):
            raise TimeoutError
        char = stream.read(1)
        if char in (b"", b"\n"):
            break
        found += char
    return bytes(found)
