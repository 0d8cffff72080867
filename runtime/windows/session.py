# SPDX-License-Identifier: Apache-2.0
"""An application of a host in a window here, from its start to its end.

The host runs the application on a display of its own (`host.sh`), whose pictures come through the one connection, past the
filter of `tower.windows.rfb`, to a viewer. When the connection breaks, or the viewer, the application lives on for a while, and
can be attached again.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tower.base import proc, streams
from tower.base.errors import (
    AnswerError,
    GarbageError,
    HostError,
    LostError,
    RemoteError,
    StoppedError,
    ToolError,
    ValueRefusedError,
    printable,
)
from tower.display.outputs import scale
from tower.display.relay import OddError, relay
from tower.display.x11 import key_in, new_key
from tower.ssh.sessions import Session
from tower.windows.actions import act, script
from tower.windows.pulse import COOKIE_BYTES
from tower.windows.rfb import PictureFilter
from tower.windows.sound import SILENT, Sound, served

if TYPE_CHECKING:
    import subprocess

    from tower.hosts.registry import Host

PYTHON: Final = "/usr/bin/python3"
"""The system's Python, which has the libraries of the desktop."""
GRACE: Final = 3600
"""Seconds that an application lives without a window."""
ID: Final = re.compile(r"[0-9a-f]{8}")
_PROGRAM: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_SIZE: Final = 1024, 768
_MOMENT: Final = 5.0
"""Seconds to wait for the end of one process after that of another."""
_BRIEF: Final = 30.0
"""Seconds: a window that is shown for less counts as brief."""
_OFTEN: Final = 3
"""How many brief windows in a row a display server may end before `tower run` gives up."""
_SOON: Final = 2.0
"""Seconds within which an application ends after its display server."""
_MOVED: Final = 128 + signal.SIGTERM
"""Exit status of what connects to a display, when another window takes its place: socat says so when it is told to end."""
_GO: Final = b"\n"
"""What those programs wait for that are started before there is a display."""
_LOST: Final = 255
"""Exit status of ssh without a connection."""
_PASSED: Final = (
    "DBUS_SESSION_BUS_ADDRESS", "GDK_BACKEND", "GDK_DPI_SCALE", "GDK_SCALE", "GTK_THEME", "LANG", "XAUTHORITY", "XDG_CONFIG_HOME",
    "XDG_CURRENT_DESKTOP", "XDG_DATA_DIRS",
)  # fmt: skip


class ClosedError(LostError):
    """A host's display server ended the connection of a window whose application lives on."""


@dataclass(frozen=True, slots=True)
class Running:
    """An application that runs on a host for a window here."""

    host: str
    number: str
    seconds: int
    program: str


@dataclass(frozen=True, slots=True)
class Display:
    """The display of an application."""

    number: str
    key: bytes
    sound: Sound = SILENT


@dataclass(frozen=True, slots=True)
class Look:
    """How an application is shown: its name, the host's colour or None, and whether texts and sounds pass."""

    name: str
    colour: str | None
    clipboard: bool = True
    sound: bool = True


def has_screen() -> bool:
    """Return whether this `tower` was started in a desktop."""
    return bool(os.environ.get("WAYLAND_DISPLAY") or os.environ.get("DISPLAY"))


def is_graphical(session: Session, program: str) -> bool:
    """Return whether the host's packages have a menu entry for a program."""
    if _PROGRAM.fullmatch(program) is None:
        return False
    pattern = program.replace(".", "[.]").replace("+", "[+]")
    return act(session, "shows", pattern, check=False).status == 0


def run(session: Session, argv: Sequence[str], look: Look, window: Showing | None = None) -> int:
    """Start an application on a display of its own, and show it until it ends, in `window` if that loads already.

    Return its exit status. Raises RemoteError if the host lacks it or the display packages, and what `show` raises.
    """
    if not has_screen():
        raise ValueRefusedError("there is no desktop here to open a window in", hint="start it: startw")
    number = secrets.token_hex(4)
    with ExitStack() as stack:

        def begin() -> Display:
            sound = stack.enter_context(served(session, _title(session.host, look))) if look.sound else SILENT
            return display_of(session, number, str(GRACE), argv, sound, scaled=scale())

        return _show(session, number, look, stack, begin, window=window)


def display_of(
    session: Session, number: str, grace: str, argv: Sequence[str], sound: Sound = SILENT, *, scaled: int = 1
) -> Display:
    """Start an application on a display of its own, which ends after `grace` seconds without a viewer. Raises as `run` does.

    The application draws with `scaled` pixels for the side of a point.
    """
    width, height = (scaled * one for one in _SIZE)
    done = act(
        session, "start", number, f"{width}x{height}@{scaled}", grace, str(sound.port), *argv, data=sound.cookie + new_key()[1]
    )
    return Display(number, _key(session, done.stdout), sound)


@contextmanager
def connection(session: Session, number: str, what: str) -> Iterator[socket.socket]:
    """Connect to the `pictures` or the `display` of an application on the host, through the connection to the host."""
    ours, theirs = socket.socketpair()
    with ours, _connected(session, number, what, theirs):
        ours.sendall(_GO)
        yield ours


@contextmanager
def _connected(session: Session, number: str, what: str, end: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Do as `connection` for one end of a pair, which is closed here; what is sent first must be `_GO`. Yield what connects."""
    argv = session.client(shlex.join(script("connect", number, what)))
    with end, proc.running(argv, stdin=end.fileno(), stdout=end.fileno()) as child:
        end.close()
        yield child


def attach(session: Session, number: str, look: Look) -> int:
    """Show a running application again until it ends; return its exit status.

    Raises HostError if there is none, and what `run` raises.
    """
    with ExitStack() as stack:
        return _show(session, number, look, stack, partial(_attached, session, number, look, stack))


def listed(session: Session) -> list[Running]:
    """Return the applications that a host runs for windows. Raises GarbageError."""
    found = []
    for line in act(session, "list").stdout.decode(errors="replace").splitlines():
        number, seconds, program = (*line.split(" ", 2), "", "")[:3]
        if ID.fullmatch(number) is None or not seconds.isascii() or not seconds.isdigit():
            raise GarbageError(f"{session.host.name}: lists {line[:40]!r}, which is not a window")
        found.append(Running(session.host.name, number, int(seconds), printable(program)[:100]))
    return found


def stop(session: Session, number: str) -> None:
    """End an application: ask it to end, and kill it after five seconds."""
    act(session, "stop", number)


def _title(host: Host, look: Look) -> str:
    return f"{look.name} ({host.name})"


def _show(
    session: Session, number: str, look: Look, stack: ExitStack, begin: Callable[[], Display], *, window: Showing | None = None
) -> int:
    """Show an application in a window until it ends; return its exit status, or 128+N after signal N.

    `begin` starts it, or finds the one that runs; `stack` holds its sound. The viewer, and what connects to the display, are
    started before, and load meanwhile.

    Raises StoppedError if a signal told us to stop: then it is stopped, too. Raises LostError if the connection broke and does
    not come back, ClosedError if the display server ends it again and again; ToolError if the viewer fails, or the window is
    shown elsewhere: then the application lives on; and what `begin` raises.
    """
    ends = time.monotonic() + GRACE
    display: Display | None = None
    closed = 0
    while True:
        began = time.monotonic()
        try:
            with window or Showing(session.host, look) as one:
                window = None
                one.prepare(session, number)
                display = begin()
                status = one.show(display)
            break
        except LostError as error:
            if time.monotonic() > began + _BRIEF:
                closed = 0
            closed += isinstance(error, ClosedError)
            if display is None or time.monotonic() > ends or closed > _OFTEN:
                raise
            streams.note(f"{error.message}; {look.name} keeps running, trying again\n")
            stack.close()
            _reach(session, ends)
            begin = partial(_attached, session, number, look, stack)
        except (KeyboardInterrupt, StoppedError):
            if display is not None:
                with suppress(AnswerError, RemoteError):
                    stop(session, number)
            raise
    with suppress(AnswerError, RemoteError):
        stop(session, number)
    return status


def _reach(session: Session, ends: float) -> None:
    """Connect again. Raises LostError if that fails until a deadline."""
    pause = 0.5
    while True:
        try:
            session.ensure()
            if session.alive():
                return
        except AnswerError as error:
            if time.monotonic() > ends:
                raise LostError(error.message, hint=error.hint) from None
        time.sleep(pause)
        pause = min(2 * pause, 10)


class Showing:
    """One viewer, which loads from when the window is first entered, and the application that it shows."""

    def __init__(self, host: Host, look: Look) -> None:
        self.host = host
        self.name, self.title, self.colour = look.name, _title(host, look), look.colour or "-"
        self.clipboard = "off" if not look.clipboard else "online" if host.env.online else "offline"
        self.status: int | None = None
        self.said = b""
        self.stack: ExitStack | None = None

    def __enter__(self) -> Self:
        if self.stack is not None:
            return self
        with ExitStack() as stack:
            self.pictures, pictures = map(stack.enter_context, socket.socketpair())
            self.display, self.theirs = map(stack.enter_context, socket.socketpair())
            self.viewer = stack.enter_context(self._viewer(pictures, self.theirs))
            pictures.close()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if self.stack is not None:
            self.stack.close()

    def prepare(self, session: Session, number: str) -> None:
        """Start what connects to the application's display, and waits for its end. It waits to be told that there is one."""
        assert self.stack is not None  # noqa: S101  (it was entered)
        self.session, self.number = session, number
        self.server, end = map(self.stack.enter_context, socket.socketpair())
        self.stack.enter_context(_connected(session, number, "display", self.display))
        self.looks = self.stack.enter_context(_connected(session, number, "pictures", end))
        self.waits = self.stack.enter_context(session.popen(script("wait", number), stderr=proc.NULL))

    def show(self, display: Display) -> int:
        """Wait for the end of the application; return its status. Raises LostError, ToolError, GarbageError."""
        session, number, server, waits = self.session, self.number, self.server, self.waits
        assert waits.stdin is not None  # noqa: S101  (it is a pipe)
        with suppress(OSError):  # one that is gone is noticed below
            self.theirs.sendall(_GO)
            self.theirs.close()
            server.sendall(_GO)
            waits.stdin.write(_GO)
            self.pictures.sendall(display.key.hex().encode() + b"\n")
        try:
            between = PictureFilter(self.title)
            ended = relay(server, self.pictures, between.from_server, between.from_viewer, lambda: self._goes_on(waits))
        except OddError as error:
            raise GarbageError(
                f"{session.host.name}: the display of {self.name} {error}", hint="is this host still yours? See: tower audit"
            ) from None
        return self._ended(number, waits, by_viewer=ended is self.pictures or self.viewer.poll() is not None)

    def _viewer(self, pictures: socket.socket, display: socket.socket) -> AbstractContextManager[subprocess.Popen[bytes]]:
        words = (self.host.name, self.colour, self.clipboard, self.name)
        env = {name: os.environ[name] for name in _PASSED if name in os.environ}
        env["PYTHONPATH"] = os.fspath(Path(__file__).parents[2])
        return proc.running(
            (PYTHON, "-m", "tower.windows.viewer", *words), stdin=pictures.fileno(), stdout=display.fileno(), env=env
        )

    def _goes_on(self, waits: subprocess.Popen[bytes]) -> bool:
        """Return whether there is something to show: after a good end, another application that this one started may run."""
        if self.viewer.poll() is not None:
            return False
        if self.status is None and waits.poll() is not None and waits.returncode != _LOST:
            self._take(waits)
        if self.status is None:
            return waits.poll() is None
        # Repeated, because a viewer that has just started ignores the signal.
        if self.status == 0:
            self.viewer.send_signal(signal.SIGWINCH)
        return self.status == 0

    def _take(self, waits: subprocess.Popen[bytes]) -> None:
        assert waits.stdout is not None  # noqa: S101  (it is a pipe)
        line, _, self.said = waits.stdout.read(4096).partition(b"\n")
        if not line.isdigit() or int(line) > 255:
            raise HostError(f"{self.host.name}: {self.name} has ended; how is not known")
        self.status = int(line)

    def _ended(self, number: str, waits: subprocess.Popen[bytes], *, by_viewer: bool) -> int:
        """Return the status of the application after its pictures have ended. Raises the same errors as `show`."""
        name = self.host.name
        if self.status is None and by_viewer and proc.ended(self.viewer, _MOMENT) != 0:
            hint = f"attach it again: tower run --attach {name} {number}"
            raise ToolError(f"{name}: the window of {self.name} is gone; the application keeps running", hint=hint)
        if self.status is None:
            waited = proc.ended(waits, _SOON)
            if waited == _LOST or (waited != 0 and not self.session.alive()):
                raise LostError(f"{name}: the connection broke", hint=f"tower status {name}")
            if waited < 0:
                raise self._closed(number)
            self._take(waits)
        assert self.status is not None  # noqa: S101  (it was taken)
        if self.status != 0 and self.said:
            streams.note(printable(self.said.decode(errors="replace")))
        return self.status

    def _closed(self, number: str) -> ToolError | ClosedError:
        """Return the error about pictures that ended although application and connection live."""
        name, again = self.host.name, f"tower run --attach {self.host.name} {number}"
        if proc.ended(self.looks, _MOMENT) == _MOVED:
            return ToolError(f"{name}: the window of {self.name} is shown elsewhere now", hint=f"to have it here again: {again}")
        return ClosedError(f"{name}: the display ended its connection", hint=f"attach {self.name} again: {again}")


def _attached(session: Session, number: str, look: Look, stack: ExitStack) -> Display:
    """Return the display of a running application; `stack` gets its sound. Raises HostError if there is none, GarbageError."""
    port, _, rest = act(session, "attach", number).stdout.partition(b"\n")
    cookie, key = rest[:COOKIE_BYTES], rest[COOKIE_BYTES:]
    if not port.isdigit() or int(port) >= 1 << 16:
        raise GarbageError(f"{session.host.name}: says {port[:40]!r} where a port was expected")
    display = Display(number, _key(session, key), Sound(int(port), cookie))
    if look.sound and display.sound.port:
        stack.enter_context(served(session, _title(session.host, look), display.sound))
    return display


def _key(session: Session, key: bytes) -> bytes:
    """Return the key of a display as host.sh prints it. Raises GarbageError if it is none."""
    try:
        key_in(key)
    except OddError:
        raise GarbageError(f"{session.host.name}: says {key[:40]!r} where the key of a display was expected") from None
    return key
