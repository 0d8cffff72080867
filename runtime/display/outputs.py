# SPDX-License-Identifier: Apache-2.0
"""The scale of this desktop's screens: how many pixels the side of a point has, on screens of many dots per inch."""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import Final

_REGISTRY, _DONE, _FIRST = 2, 3, 4
_MOST: Final = 4
_SECONDS: Final = 2.0
_NAME: Final = b"wl_output"


def scale() -> int:
    """Return the largest scale of the screens, 1 to 4; 1 if it cannot be known.

    The desktop is this machine's own, and trusted. Under X, it is what GDK_SCALE says.
    """
    try:
        found = _asked() if os.environ.get("WAYLAND_DISPLAY") else int(os.environ.get("GDK_SCALE", "1"))
    except (OSError, ValueError, struct.error):
        return 1
    return min(max(found, 1), _MOST)


def offers(interface: bytes) -> bool:
    """Return whether the Wayland desktop offers an interface; False if it cannot be known."""
    try:
        with socket.socket(socket.AF_UNIX) as desktop:
            return bool(_names(desktop, interface))
    except (OSError, struct.error):
        return False


def _names(desktop: socket.socket, interface: bytes) -> list[int]:
    """Greet the Wayland desktop; return the numbers by which it offers an interface. Raises OSError, struct.error."""
    desktop.settimeout(_SECONDS)
    desktop.connect(os.fspath(Path(os.environ.get("XDG_RUNTIME_DIR", "/"), os.environ["WAYLAND_DISPLAY"])))
    desktop.sendall(_message(1, 1, _REGISTRY) + _message(1, 0, _DONE))
    return [
        struct.unpack_from("=I", body)[0]
        for number, code, body in _events(desktop, _DONE)
        if (number, code) == (_REGISTRY, 0) and body[8:].startswith(interface + b"\0")
    ]


def _asked() -> int:
    """Return the largest scale that the Wayland desktop tells. Raises OSError, struct.error."""
    with socket.socket(socket.AF_UNIX) as desktop:
        scales = [1]
        outputs = _names(desktop, _NAME)
        text = struct.pack("=I", len(_NAME) + 1) + _NAME + bytes(4 - len(_NAME) % 4)
        for place, name in enumerate(outputs):
            body = struct.pack("=I", name) + text + struct.pack("=II", 2, _FIRST + place)
            desktop.sendall(struct.pack("=IHH", _REGISTRY, 0, 8 + len(body)) + body)
        # Numbers must follow on each other.
        last = _FIRST + len(outputs)
        desktop.sendall(_message(1, 0, last))
        for number, code, body in _events(desktop, last):
            if number >= _FIRST and code == 3:
                scales.append(struct.unpack_from("=i", body)[0])
    return max(scales)


def _message(number: int, code: int, *values: int) -> bytes:
    return struct.pack(f"=IHH{len(values)}I", number, code, 8 + 4 * len(values), *values)


def _events(desktop: socket.socket, done: int) -> list[tuple[int, int, bytes]]:
    """Return the events up to the one for `done`. Raises OSError if they do not come in time, or the desktop goes."""
    found: list[tuple[int, int, bytes]] = []
    held, ends = b"", time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        while len(held) >= 8:
            number, code, size = struct.unpack_from("=IHH", held)
            if not 8 <= size <= len(held):
                break
            if number == done:
                return found
            found.append((number, code, held[8:size]))
            held = held[size:]
        data = desktop.recv(1 << 16)
        if not data:
            break
        held += data
    raise OSError(f"{_SECONDS} s: no answer")
