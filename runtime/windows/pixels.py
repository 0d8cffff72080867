# SPDX-License-Identifier: Apache-2.0
"""Pictures pixel by pixel on a screen with a scale."""

from __future__ import annotations

import cairo
import gi

gi.require_version("GtkVnc", "2.0")
from gi.repository import GtkVnc  # noqa: E402  (its version comes first)

gi.require_foreign("cairo")


class Pixels:
    """Paints the pictures in place of gtk-vnc where the screen has a scale.

    One pixel of the application is one of the screen then. gtk-vnc would enlarge the pictures by the scale and reduce them
    again, which mixes each pixel with its neighbours.
    """

    def __init__(self, pictures: GtkVnc.Display, scale: int) -> None:
        self.pictures = pictures
        self.connection = pictures.get_connection()
        self.handler: int | None = None
        self.use(scale)

    def use(self, scale: int) -> None:
        """Paint on a screen of a scale."""
        self.scale = scale
        if scale == 1 and self.handler is not None:
            self.pictures.disconnect(self.handler)
            self.handler = None
        elif scale != 1 and self.handler is None:
            self.handler = self.pictures.connect("draw", self._draw)

    def _draw(self, _: GtkVnc.Display, context: cairo.Context) -> bool:
        """Paint as gtk-vnc does: in the middle, and as large as the window lets it. Return whether it is done."""
        pictures = self.connection.get_property("framebuffer")
        if pictures is None:
            return False
        surface = pictures.get_surface()
        area = self.pictures.get_allocation()
        has = area.width * self.scale, area.height * self.scale
        size = surface.get_width(), surface.get_height()
        ratio = min(here / there for here, there in zip(has, size, strict=True))
        context.scale(1 / self.scale, 1 / self.scale)
        context.set_source_rgb(0, 0, 0)
        context.paint()
        context.translate(*((here - there * ratio) // 2 for here, there in zip(has, size, strict=True)))
        context.scale(ratio, ratio)
        context.set_source_surface(surface, 0, 0)
        # Only while the application has not followed a new size yet are there pixels between those of the picture.
        context.get_source().set_filter(cairo.FILTER_NEAREST if ratio == 1 else cairo.FILTER_BILINEAR)
        context.paint()
        return True
