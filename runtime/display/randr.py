# SPDX-License-Identifier: Apache-2.0
"""The size of a host's display, which the thin client sets by RandR through its own connection to the X server.

A VNC client could ask for it, too, but not every VNC server does as it is asked, and gtk-vnc waits half a second before it asks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from tower.display.x11 import Server

_GRAB, _UNGRAB = 36, 37
_VERSION, _RANGE, _SET_SIZE, _CREATE_MODE, _DESTROY_MODE, _ADD_MODE, _DELETE_MODE = 0, 6, 7, 16, 17, 18, 19
_CRTC, _SET_CRTC, _RESOURCES = 20, 21, 25
DOTS: Final = 96
"""Dots per inch of a screen whose scale is 1."""


@dataclass(slots=True)
class Screen:
    """The only output of a display that has no real one; `screen_of` finds it."""

    server: Server
    opcode: int
    crtc: int
    output: int
    mode: int
    """The mode that is set, which is destroyed when another one is."""
    least: tuple[int, int]
    most: tuple[int, int]
    dots: int = DOTS
    """Dots per inch, from which the size in millimetres follows."""

    def resize(self, width: int, height: int) -> tuple[int, int]:
        """Change the size as far as the server can, and return the one that it has then. Raises OddError, OSError."""
        server = self.server
        sides = zip((width, height), self.least, self.most, strict=True)
        width, height = (min(max(one, least, 1), most) for one, least, most in sides)
        if (width, height) == (server.width, server.height):
            return width, height
        name = os.urandom(4).hex().encode()
        numbers = (0, width, height, width * height * 60, width, width, width, 0, height, height, height, len(name), 0)
        made = server.ask(self.opcode, _CREATE_MODE, "IIHHIHHHHHHHHI", server.root, *numbers, data=name)
        if made is None:
            return server.width, server.height
        (mode,) = made.numbers("I", 8)
        server.send(self.opcode, _ADD_MODE, "II", self.output, mode)
        # Nobody sees the display without an output, which it must not have while it gets smaller.
        server.send(_GRAB, 0, "")
        self._show(0)
        millimetres = (max(1, round(one * 25.4 / self.dots)) for one in (width, height))
        server.send(self.opcode, _SET_SIZE, "IHHII", server.root, width, height, *millimetres)
        self._show(mode)
        server.send(_UNGRAB, 0, "")
        server.send(self.opcode, _DELETE_MODE, "II", self.output, self.mode)
        server.send(self.opcode, _DESTROY_MODE, "I", self.mode)
        self.mode = mode
        server.width, server.height = width, height
        return width, height

    def _show(self, mode: int) -> None:
        """Show a mode on the output, or none. The answer is not waited for; `Server.ask` and `Manager` pass over it."""
        outputs = (self.output,) if mode else ()
        form = f"IIIhhIHH{len(outputs)}I"
        self.server.send(self.opcode, _SET_CRTC, form, self.crtc, 0, 0, 0, 0, mode, 1, 0, *outputs)


def screen_of(server: Server) -> Screen | None:
    """Return the output whose size can be set; None if the server has no RandR 1.2, or no output. Raises OddError, OSError."""
    found = server.extension(b"RANDR")
    if found is None:
        return None
    opcode, _ = found
    version = server.ask(opcode, _VERSION, "II", 1, 3)
    sizes = server.ask(opcode, _RANGE, "I", server.root)
    has = server.ask(opcode, _RESOURCES, "I", server.root)
    if version is None or version.numbers("II", 8) < (1, 3) or sizes is None or has is None:
        return None
    crtcs, outputs = has.numbers("HH", 16)
    if not crtcs or not outputs:
        return None
    (crtc,) = has.numbers("I", 32)
    (output,) = has.numbers("I", 32 + 4 * crtcs)
    shown = server.ask(opcode, _CRTC, "II", crtc, 0)
    if shown is None:
        return None
    least_width, least_height, width, height = sizes.numbers("HHHH", 8)
    return Screen(server, opcode, crtc, output, shown.numbers("I", 20)[0], (least_width, least_height), (width, height))
