# SPDX-License-Identifier: Apache-2.0
"""The sound of a host's application, played by the sound server of the desktop.

A port of the host's 127.0.0.1 leads through the one connection to a port of ours, behind which the filter of
`tower.windows.pulse` stands. Both are there as long as the window is; what knows the window's cookie may play.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.base import streams
from tower.base.errors import PortTakenError
from tower.base.ready import readable
from tower.display.relay import OddError, relay
from tower.ssh.sessions import Session
from tower.windows import loudness
from tower.windows.loudness import FULL, Knob, Loudness
from tower.windows.pulse import COOKIE_BYTES, SoundFilter

_MOST_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Sound:
    """What an application needs to play: the port on its host, or 0 if it has no sound, and the cookie."""

    port: int = 0
    cookie: bytes = field(default=bytes(COOKIE_BYTES), repr=False)


SILENT: Final = Sound()


def server_socket() -> Path | None:
    """Return the socket of the desktop's sound server, or None if there is none."""
    given = os.environ.get("PULSE_SERVER", "")
    if given:
        found = Path(given.removeprefix("unix:")) if given.startswith(("unix:", "/")) else None
    else:
        folder = os.environ.get("XDG_RUNTIME_DIR", "")
        found = Path(folder) / "pulse/native" if folder else None
    return found if found is not None and found.is_socket() else None


def own_cookie() -> bytes:
    """Return the cookie by which the server knows its user; zeros if there is none, as for a server that asks for none."""
    paths = [Path(os.environ["PULSE_COOKIE"])] if os.environ.get("PULSE_COOKIE") else []
    paths += [Path.home() / ".config/pulse/cookie"]
    for path in paths:
        with suppress(OSError):
            found = path.read_bytes()
            if len(found) == COOKIE_BYTES:
                return found
    return bytes(COOKIE_BYTES)


@contextmanager
def served(session: Session, name: str, again: Sound = SILENT) -> Iterator[Sound]:
    """Let an application play while the context lasts; yield `SILENT` if there is no sound server.

    `again` is what the application was started with, if it runs already: it still uses that port and cookie.
    """
    server = server_socket()
    if server is None:
        yield SILENT
        return
    cookie = again.cookie if again.port else secrets.token_bytes(COOKIE_BYTES)
    knob = Knob(loudness.file(), session.host.name)
    with listening(server, name, cookie, knob.now) as port, ExitStack() as stack:
        try:
            found = Sound(stack.enter_context(session.reverse(port, host_port=again.port)), cookie)
        except PortTakenError as error:
            streams.note(f"{name} has no sound: {error.message}\n")
            found = SILENT
        yield found


@contextmanager
def listening(server: Path, name: str, cookie: bytes, loud: Callable[[], Loudness] = lambda: FULL) -> Iterator[int]:
    """Yield a port of this machine's 127.0.0.1 behind which the filter and the sound server are, and `loud` says how loud."""
    made = _Server(server, name, cookie, loud)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=made.accept, args=(listener,), daemon=True)
        thread.start()
        try:
            port: int = listener.getsockname()[1]
            yield port
        finally:
            made.over.set()
            thread.join()


class _Server:
    """Accepts connections, and relays each in a thread of its own."""

    def __init__(self, server: Path, name: str, cookie: bytes, loud: Callable[[], Loudness]) -> None:
        self.server, self.name, self.cookie, self.loud = server, name, cookie, loud
        self.over = threading.Event()
        self._room = threading.Semaphore(_MOST_CONNECTIONS)

    def accept(self, listener: socket.socket) -> None:
        """Accept until it is over, then wait for the connections to end."""
        threads: list[threading.Thread] = []
        listener.settimeout(0.2)
        while not self.over.is_set():
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                break
            if not self._room.acquire(blocking=False):
                client.close()
                continue
            threads = [one for one in threads if one.is_alive()]
            threads.append(threading.Thread(target=self._play, args=(client,), daemon=True))
            threads[-1].start()
        for one in threads:
            one.join()

    def _play(self, client: socket.socket) -> None:
        try:
            with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
                between = SoundFilter(self.name, self.cookie, own_cookie(), self.loud)
                # Nothing reaches the server before the cookie was seen.
                if not self._greeted(client, between):
                    return
                server.connect(os.fspath(self.server))
                relay(server, client, between.from_server, between.from_client, lambda: self._goes_on(between))
        except OddError as error:
            streams.note(f"{self.name}: its sound {error}; the connection is closed\n")
        finally:
            self._room.release()

    def _goes_on(self, between: SoundFilter) -> bool:
        between.adjust()
        return not self.over.is_set()

    def _greeted(self, client: socket.socket, between: SoundFilter) -> bool:
        """Read until the client has said who it is; return whether it did. Raises OddError."""
        while not self.over.is_set():
            if readable([client], 0.2):
                data = client.recv(4096)
                between.from_client.feed(data)
                if not data or between.from_client.out:
                    return bool(data)
        return False
