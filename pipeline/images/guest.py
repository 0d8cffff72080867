# SPDX-License-Identifier: Apache-2.0
"""A running virtual machine, seen through its serial console: wait for a line, type one, run a command.

The machine is QEMU without hardware acceleration (KVM exists but hangs on some machines). It ends with the context that
it was started in, or at its time limit, whatever happens to this process.

Time limits are seconds of processor time: a machine that shares the processors with other work is slow, not broken. One
that does not use its processor ends after `PATIENCE` times as long by the clock.
"""

from __future__ import annotations

import codecs
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tower.base.ready import readable

from pipeline.base import proc
from pipeline.base.errors import BootError
from pipeline.base.scratch import temporary_folder

FAILURES = (
    "Kernel panic",
    "emergency recovery shell",
    "shell of the initramfs",
    "Attempted to kill init",
    "No bootable device",
    "BdsDxe: No bootable option",
)
"""Texts on a console after which waiting is useless."""

ACCELERATION = ("-accel", "tcg,thread=multi,tb-size=48")
"""QEMU's arguments for a processor that is emulated.

With the default of 1 GiB, QEMU keeps all code that it translated. Each start of a program adds to it, as its code lies at another
address each time, and QEMU walks through all that belongs to a page for each write to it once the page serves something else:
half a minute and more of a start. With 48 MiB it forgets in time. `ci/bench/boot.py` measures.
"""

PATIENCE = 4
"""The clock time that a machine may take, as a multiple of its processor time."""

_TAIL = 25
_KEPT = 1 << 20
_CONNECT_SECONDS = 20
_END_SECONDS = 60
_ESCAPES = re.compile(r"\x1b(\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[=>78])")
_CUT = re.compile(r"\x1b(\[[0-9;?=]*|[()])?$")
"""The beginning of an escape sequence that is not complete yet."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The result of a command on the guest."""

    status: int
    text: str


class Guest:
    """One machine; made by `running`."""

    def __init__(
        self,
        name: str,
        console: socket.socket,
        log: IO[bytes],
        log_path: Path,
        ports: dict[int, int],
        *,
        used: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a guest; `used` returns the seconds of processor time that the machine has used so far."""
        self.name = name
        self.log_path = log_path
        self.ports = ports
        """The guest's TCP port -> ours on 127.0.0.1."""
        self.started = time.monotonic()
        self._console = console
        self._used = used
        self._log = log
        self._text = ""
        self._position = 0
        self._ended = False
        self._count = 0
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"console of {name}", daemon=True)
        self._reader.start()

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    @property
    def used(self) -> float:
        """Seconds of a processor that it had so far."""
        return self._used()

    def _left(self, timeout: float) -> Callable[[], float]:
        """Return a function that tells how many seconds are left of `timeout`; 0 or less means none."""
        end, last = self._used() + timeout, time.monotonic() + PATIENCE * timeout
        return lambda: min(end - self._used(), last - time.monotonic())

    def _read(self) -> None:
        """Read the console until the machine ends."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        rest = ""
        with suppress(OSError):
            while data := self._console.recv(1 << 16):
                with suppress(ValueError):  # the log was closed because the machine was given up
                    self._log.write(data)
                    self._log.flush()
                # A read may end in the middle of an escape sequence or of a character.
                rest += decoder.decode(data)
                cut = _CUT.search(rest)
                whole, rest = (rest[: cut.start()], cut[0]) if cut else (rest, "")
                with self._changed:
                    self._text += _ESCAPES.sub("", whole).replace("\r", "")
                    surplus = len(self._text) - _KEPT
                    if surplus > 0:
                        self._text = self._text[surplus:]
                        self._position = max(0, self._position - surplus)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait(self, pattern: str, timeout: float, *, failures: Sequence[str] = FAILURES) -> re.Match[str]:
        """Wait until the console shows `pattern` after the last match; `timeout` is in seconds of processor time.

        Raises BootError when one of `failures` is shown first, the machine ends, or the time is over.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        time_left = self._left(timeout)
        with self._changed:
            while True:
                found = wanted.search(self._text, self._position)
                if found:
                    self._position = found.end()
                    return found
                for failure in failures:
                    if failure in self._text[self._position :]:
                        raise self.error(f"its console says: {failure}")
                if self._ended:
                    raise self.error(f"ended before its console showed {pattern!r}")
                left = time_left()
                if left <= 0:
                    raise self.error(f"its console did not show {pattern!r} within {timeout:.0f} s")
                self._changed.wait(left)

    def type(self, text: str) -> None:
        """Type `text` and Enter."""
        self.press(text + "\r")

    def press(self, keys: str) -> None:
        """Type `keys`, and no Enter."""
        try:
            self._console.sendall(keys.encode())
        except OSError as error:
            raise self.error("ended while something was typed") from error

    def login(self, user: str, *, prompt: str, timeout: float = 60) -> None:
        """Log in without a password at a login prompt that has been waited for; `prompt` is the shell's."""
        self.type(user)
        self.wait(prompt, timeout)

    def command(self, line: str, timeout: float = 60) -> CommandResult:
        """Run a command line in the shell that is logged in; return its output and exit status."""
        self._count += 1
        # The shell joins the words, so that the echo of the typed line does not look like the answer.
        first, last = f"=begin{self._count}=", f"=end{self._count}="
        self.type(f"echo '=begin''{self._count}='; {line}; echo '=end''{self._count}='$?=")
        self.wait(f"^{re.escape(first)}\n", timeout)
        found = self.wait(rf"(?s)(.*?){re.escape(last)}(\d+)=", timeout)
        return CommandResult(int(found.group(2)), found.group(1))

    def banner(self, port: int, timeout: float) -> str:
        """Return the first output of the server behind the guest's `port`; retry until there is some."""
        time_left = self._left(timeout)
        while time_left() > 0:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.ports[port]), timeout=10) as connection:
                # QEMU itself accepts the connection; without a server behind it there is nothing to read.
                connection.settimeout(10)
                if text := connection.recv(256):
                    return text.decode(errors="replace").strip()
            with self._changed:
                if self._ended:
                    raise self.error(f"ended before port {port} answered")
            time.sleep(1)
        raise self.error(f"port {port} did not answer within {timeout:.0f} s")

    def ended(self, timeout: float) -> bool:
        """Wait for the machine to end by itself; tell whether it did."""
        time_left = self._left(timeout)
        with self._changed:
            while not self._ended and (left := time_left()) > 0:
                self._changed.wait(left)
            return self._ended

    @property
    def text(self) -> str:
        """Return the output on the console (its last megabyte)."""
        with self._changed:
            return self._text

    def error(self, what: str) -> BootError:
        """Return a BootError with the last lines of the console and the place of the log."""
        lines = [line for line in self._text.split("\n") if line.strip()][-_TAIL:]
        shown = "\n  | ".join(["", *lines]) if lines else " nothing"
        return BootError(f"{self.name}: {what}; its console showed last:{shown}", hint=f"the whole console: {self.log_path}")


def quoted(path: Path) -> str:
    """Quote a path as a value in one of QEMU's options, where a comma begins the next one."""
    return str(path).replace(",", ",,")


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, argv: Sequence[str], *, log: Path, limit: float, ports: dict[int, int]) -> Iterator[Guest]:
    """Start QEMU with `argv` and our console; it is ended with the context, or after `PATIENCE * limit` seconds.

    `argv` may name the console's character device, "console". `log` is overwritten with the console's output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("vm") as folder, log.open("wb") as out:
        place = folder / "console"
        # QEMU waits until the console is connected, so that nothing is lost. It ends with us, even if we are killed, and at
        # its time limit.
        full = (
            "setpriv",
            "--pdeathsig=TERM",
            "timeout",
            "--kill-after=5",
            f"{PATIENCE * limit:.0f}",
            *argv,
            "-chardev",
            f"socket,id=console,path={quoted(place)},server=on,wait=on",
        )
        process = proc.spawn(full, stdout=out, stderr=out)
        try:
            with _connect(name, place, process.poll, log) as console:
                yield Guest(name, console, out, log, ports, used=lambda: _processor_seconds(process.pid))
        finally:
            with _ends(process.pid):
                proc.kill_group(process.pid)
                process.wait()


@contextmanager
def _ends(pid: int) -> Iterator[None]:
    """Wait, at the end, until the children that a process has now have ended, too.

    Whoever waits for `timeout` alone may be earlier than QEMU, which then still has its disks locked.
    """
    handles = list[int]()
    for child in _children(pid):
        with suppress(OSError):
            handles.append(os.pidfd_open(child))
    try:
        yield
    finally:
        for handle in handles:
            # It is readable as soon as the process has let go of its files.
            readable([handle], _END_SECONDS)
            os.close(handle)


def _children(pid: int) -> list[int]:
    """Return the children of a process; none if it has ended."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _processor_seconds(pid: int) -> float:
    """Return the seconds of processor time of a process's children; 0 when there are none any more.

    /proc/PID/stat: fields 14 and 15 are the times in user and kernel mode in clock ticks (proc_pid_stat(5)).
    """
    ticks = 0
    with suppress(OSError):
        for child in _children(pid):
            fields = Path(f"/proc/{child}/stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _connect(name: str, place: Path, ended: object, log: Path) -> Iterator[socket.socket]:
    deadline = time.monotonic() + _CONNECT_SECONDS
    console = socket.socket(socket.AF_UNIX)
    try:
        while True:
            try:
                console.connect(str(place))
                break
            except OSError:
                if callable(ended) and ended() is not None:
                    said = log.read_text(errors="replace").strip()
                    raise BootError(f"{name}: QEMU ended at once: {said}", hint=f"its output: {log}") from None
                if time.monotonic() > deadline:
                    raise BootError(
                        f"{name}: QEMU did not open its console within {_CONNECT_SECONDS} s", hint=f"see {log}"
                    ) from None
                time.sleep(0.05)
        yield console
    finally:
        console.close()
