# SPDX-License-Identifier: Apache-2.0
"""Pictures that have as many pixels as a screen with a scale, drawn by a library that smooths them."""

from __future__ import annotations

from typing import Final

import gi

gi.require_version("GtkVnc", "2.0")
gi.require_version("GVnc", "1.0")
from gi.repository import GLib, GtkVnc, GVnc  # noqa: E402  (their versions come first)

_BESIDE: Final = 2
"""Pixels beside a part of a picture that are smoothed with it."""


class Seams:
    """Keeps lines from staying where the parts of pictures meet.

    gtk-vnc keeps the picture enlarged by the scale and smoothed, and paints in it the part alone that has changed. What is beside
    the part was smoothed with what was in its place before. So a slightly larger part is painted when all parts have come.
    """

    def __init__(self, pictures: GtkVnc.Display, scale: int) -> None:
        self.pictures = pictures
        self.connection = pictures.get_connection()
        self.changed: tuple[int, int, int, int] | None = None
        self.connection.connect("vnc-framebuffer-update", self._updated)
        self.use(scale)

    def use(self, scale: int) -> None:
        """Draw on a screen of a scale."""
        self.scale = scale
        # One pixel of the application is one of the screen then: it is smoothed once, and not a second time.
        self.pictures.set_smoothing(scale == 1)

    def _updated(self, _: GVnc.Connection, x: int, y: int, width: int, height: int) -> None:
        if self.scale == 1:
            return
        old = self.changed
        if old is None:
            GLib.idle_add(self._repaint)
            old = x, y, x + width, y + height
        self.changed = min(old[0], x), min(old[1], y), max(old[2], x + width), max(old[3], y + height)

    def _repaint(self) -> bool:
        changed, self.changed = self.changed, None
        if changed is not None and self.pictures.is_open():
            left, top = (max(one - _BESIDE, 0) for one in changed[:2])
            right = min(changed[2] + _BESIDE, self.pictures.get_width())
            bottom = min(changed[3] + _BESIDE, self.pictures.get_height())
            if right > left and bottom > top:
                self.connection.handler_block_by_func(self._updated)
                self.connection.emit("vnc-framebuffer-update", left, top, right - left, bottom - top)
                self.connection.handler_unblock_by_func(self._updated)
        return False
