# SPDX-License-Identifier: Apache-2.0
"""`tower doctor gui`: how long each part of the way from a host's application to the screen takes, and what to change.

A display is started on the host as for an application. Its X server paints coloured tiles through the connection that manages
windows, and its VNC server is asked for pictures of them: what remains after the round trip and the transfer is the host's work.
"""

from __future__ import annotations

import os
import random
import secrets
import socket
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import GarbageError, ToolError
from tower.base.ready import readable
from tower.display.relay import OddError
from tower.display.x11 import Server, key_in, open_server
from tower.ssh.sessions import Session
from tower.windows.session import PYTHON, connection, display_of, has_screen, stop

SIZE: Final = (1024, 768)
"""Of the pictures, in pixels."""
_TILE: Final = 32
_SENT: Final = 2 << 20
"""Bytes that are sent to measure the link."""
_TIMES: Final = 9
_SECONDS: Final = 60.0
_CREATE_GC, _CHANGE_GC, _FILL, _FOCUS = 55, 56, 70, 43
_ZRLE: Final = 16


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured with one host: milliseconds, if nothing else is said."""

    servers: str
    """Those of its displays: `tigervnc` or `x11vnc`."""
    round_trip: float
    megabytes_a_second: float
    start: float
    """From the order to a display to its being there."""
    small: float
    """What the server needs for a small change, beyond the round trip."""
    full: float
    """What it needs for a picture of which all has changed, beyond the round trip and the transfer."""
    full_kilobytes: float
    painting: float | None
    """What this desktop needs to paint a picture; None without a desktop."""


def advice(host: str, found: Figures) -> list[str]:
    """Return what is slow, and what to change; nothing if nothing is slow."""
    said = []
    if found.round_trip > 20:
        said.append(f"the way to {host} takes {found.round_trip:.0f} ms there and back: use a cable, not Wi-Fi")
    if found.megabytes_a_second < 4:
        said.append(f"the link to {host} carries {found.megabytes_a_second:.1f} MB/s: look at cable and switch")
    if found.servers == "x11vnc":
        said.append(f"{host} makes its pictures with x11vnc, which looks for changes: tower install {host} tigervnc")
    if found.small > 60 or found.start > 3000:
        said.append(f"{host} answers slowly: see what else runs there: ssh {host} top")
    if found.full > 150:
        said.append(f"{host} packs a full picture in {found.full:.0f} ms: use smaller windows, or a host with a faster processor")
    if found.painting is not None and found.painting > 40:
        said.append(f"this desktop paints a picture in {found.painting:.0f} ms: close other windows, or use smaller ones")
    return said


def examine(session: Session) -> Figures:
    """Measure. Raises what `tower run` raises if the host makes no windows, GarbageError, HangsError, LostError."""
    round_trip = statistics.median(_ms(session.alive) for _ in range(_TIMES))
    begins = time.monotonic()
    session.run(["head", "-c", str(_SENT), "/dev/urandom"], timeout=_SECONDS)
    rate = _SENT / 1e6 / max(time.monotonic() - begins - round_trip / 1000, 0.001)
    number = secrets.token_hex(4)
    begins = time.monotonic()
    display = display_of(session, number, "60", ["sleep", "120"])
    start = (time.monotonic() - begins) * 1000
    try:
        with ExitStack() as stack:
            pictures = Pictures(stack.enter_context(connection(session, number, "pictures")))
            server = open_server(stack.enter_context(connection(session, number, "display")), key_in(display.key))
            small, full, size = _pictures(pictures, server)
    except (OddError, OSError) as error:
        raise GarbageError(f"{session.host.name}: its display: {error}", hint=f"tower audit {session.host.name}") from None
    finally:
        stop(session, number)
    transfer = size / 1e6 / rate * 1000
    kind = session.run(["sh", "-c", "command -v Xvnc || :"], timeout=_SECONDS).stdout.strip()
    return Figures(
        servers="tigervnc" if kind else "x11vnc",
        round_trip=round(round_trip, 1),
        megabytes_a_second=round(rate, 1),
        start=round(start, 1),
        small=round(max(small - round_trip, 0), 1),
        full=round(max(full - round_trip - transfer, 0), 1),
        full_kilobytes=round(size / 1000, 1),
        painting=_painting(),
    )


def _pictures(pictures: Pictures, server: Server) -> tuple[float, float, int]:
    """Return the milliseconds for a small picture and for a full one, and the bytes of the latter."""
    context = server.base + 1
    server.send(_CREATE_GC, 0, "IIII", context, server.root, 1 << 2, 0)
    pictures.ask(full=True)
    pictures.wait(SIZE[0] * SIZE[1])
    small = []
    for _ in range(_TIMES):
        pictures.ask()
        begins = time.monotonic()
        _paint(server, context, [(0, 0)])
        pictures.wait(_TILE * _TILE)
        small.append((time.monotonic() - begins) * 1000)
    full, sizes = [], []
    tiles = [(x, y) for x in range(0, SIZE[0], _TILE) for y in range(0, SIZE[1], _TILE)]
    for _ in range(_TIMES):
        _paint(server, context, tiles)
        server.ask(_FOCUS, 0, "")
        begins = time.monotonic()
        pictures.ask(full=True)
        sizes.append(pictures.wait(SIZE[0] * SIZE[1]))
        full.append((time.monotonic() - begins) * 1000)
    return statistics.median(small), statistics.median(full), round(statistics.median(sizes))


def _paint(server: Server, context: int, tiles: list[tuple[int, int]]) -> None:
    """Paint tiles of random colours."""
    for x, y in tiles:
        server.send(_CHANGE_GC, 0, "III", context, 1 << 2, random.getrandbits(24))
        server.send(_FILL, 0, "IIhhHH", server.root, context, x, y, _TILE, _TILE)


class Pictures:
    """As much of a VNC client as that takes. Raises OddError, OSError."""

    def __init__(self, made: socket.socket) -> None:
        self.socket = made
        self._exactly(12)
        made.sendall(b"RFB 003.008\n")
        if 1 not in self._exactly(self._exactly(1)[0]):
            raise OddError("asks for a password")
        made.sendall(b"\1")
        self._exactly(4)
        made.sendall(b"\0")
        (length,) = struct.unpack(">I", self._exactly(24)[20:])
        if length > 4096:
            raise OddError(f"has a name of {length} bytes")
        self._exactly(length)
        made.sendall(struct.pack(">BxHii", 2, 2, _ZRLE, 0))

    def ask(self, *, full: bool = False) -> None:
        """Ask for a picture: of what has changed, or of all. Raises OSError."""
        self.socket.sendall(struct.pack(">BBHHHH", 3, not full, 0, 0, *SIZE))

    def wait(self, area: int) -> int:
        """Read until so many pixels have come, and return the bytes that it took. Raises OddError."""
        size, ends = 0, time.monotonic() + _SECONDS
        while area > 0:
            if time.monotonic() > ends:
                raise OddError("no whole picture comes")
            kind = self._exactly(1)[0]
            if kind != 0:
                raise OddError(f"sends a message of kind {kind}")
            (count,) = struct.unpack(">xH", self._exactly(3))
            for _ in range(count):
                _, _, width, height, encoding = struct.unpack(">HHHHi", self._exactly(12))
                length = struct.unpack(">I", self._exactly(4))[0] if encoding == _ZRLE else 4 * width * height
                if encoding not in (0, _ZRLE) or length > 8 * width * height + 65536 or width > SIZE[0] or height > SIZE[1]:
                    raise OddError("sends a malformed picture")
                self._exactly(length)
                size += 16 + length
                area -= width * height
            if area > 0:
                self.ask()
        return size

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        ends = time.monotonic() + _SECONDS
        while len(found) < count:
            left = ends - time.monotonic()
            data = self.socket.recv(count - len(found)) if left > 0 and readable([self.socket], left) else b""
            if not data:
                raise OddError("no pictures come")
            found += data
        return bytes(found)


def _ms(what: Callable[[], object]) -> float:
    begins = time.monotonic()
    what()
    return (time.monotonic() - begins) * 1000


def _painting() -> float | None:
    """Return how many milliseconds a picture takes on this desktop."""
    if not has_screen():
        return None
    env = {name: os.environ[name] for name in ("GDK_BACKEND", "XAUTHORITY") if name in os.environ}
    env |= {"PYTHONPATH": os.fspath(Path(__file__).parents[2])}
    try:
        done = proc.run((PYTHON, "-m", "tower.windows.painting", *map(str, SIZE)), timeout=_SECONDS, env=env)
        return float(done.stdout)
    except (ToolError, ValueError):
        return None
