# SPDX-License-Identifier: Apache-2.0
"""What a window shows of its host beside the application: the colour of its title bar, and more on the whole screen."""

from __future__ import annotations

from typing import Final

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, GLib, Gtk  # noqa: E402  (their versions come first)

_TOLD: Final = 5000
"""Milliseconds that a window which got the whole screen says whose it is."""
_LINGERS: Final = 1000
"""Milliseconds that this stays when the pointer has left it."""
_LINE: Final = 3
"""Height in pixels of the line on the screen's upper edge that is never the host's."""
_PLAIN: Final = "#505050"
"""What stands for the host's colour in a window without it, where it is all that tells the window from the desktop."""
_STYLE: Final = """
.whole {{ background: {colour}; }}
.whole label {{ color: {text}; }}
box.whole {{ padding: 6px 12px; border-radius: 0 0 6px 6px; }}
box.whole button {{ background: {text}; border: none; box-shadow: none; min-height: 20px; padding: 2px 8px; }}
box.whole button label {{ color: {colour}; text-shadow: none; }}
"""
_BAR_STYLE: Final = """
headerbar {{ background: {colour}; color: {text}; box-shadow: none; border: none; min-height: 30px; }}
headerbar:backdrop {{ background: alpha({colour}, 0.8); }}
headerbar * {{ color: {text}; text-shadow: none; }}
headerbar button.text-button {{ background: none; border: none; box-shadow: none; min-height: 20px; padding: 0 6px; }}
"""


class Whole:
    """What tells, in a window that has the whole screen, whose it is and how to leave: nothing of it is drawn by the host.

    While the window has the screen, a line in the host's colour is on its upper edge, where the application's pictures never
    are. A notice is below the line at first, and again when the pointer is taken there.
    """

    def __init__(self, window: Gtk.Window, pictures: Gtk.Widget, host: str, name: str) -> None:
        self.shown = False
        self.window = window
        self.count = 0
        self.line = Gtk.EventBox(no_show_all=True)
        self.line.set_size_request(-1, _LINE)
        self.notice = Gtk.EventBox(no_show_all=True, halign=Gtk.Align.CENTER, valign=Gtk.Align.START, above_child=False)
        row = Gtk.Box(spacing=16)
        self.words = GLib.markup_escape_text(f"{name} ({host})")
        self.label = Gtk.Label()
        self.leave = Gtk.Button(can_focus=False)
        self.leave.connect("clicked", lambda _: window.unfullscreen())
        row.add(self.label)
        row.add(self.leave)
        self.keys(False)
        for one in (self.line, row):
            one.get_style_context().add_class("whole")
        self.notice.add(row)
        for one in (self.line, self.notice):
            one.add_events(Gdk.EventMask.ENTER_NOTIFY_MASK | Gdk.EventMask.LEAVE_NOTIFY_MASK)
            one.connect("enter-notify-event", self._entered)
            one.connect("leave-notify-event", self._left)
        row.show_all()
        over = Gtk.Overlay()
        over.add(pictures)
        over.add_overlay(self.notice)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL)
        box.pack_start(self.line, False, False, 0)
        box.pack_start(over, True, True, 0)
        window.add(box)

    def show(self, whole: bool) -> None:
        """Show the line and the notice, or neither."""
        self.shown = whole
        self.line.set_visible(whole)
        self.notice.set_visible(whole)
        if whole:
            self._hide_after(_TOLD)

    def keys(self, held: bool) -> None:
        """Say whether the application has all keys, with which the desktop's own do not act."""
        self.label.set_markup(f"<b>{self.words}</b> has the whole screen{' and all keys' if held else ''}")
        self.leave.set_label("Leave: Super+Escape, Super+F" if held else "Leave: Super+F")
        if self.shown:
            self.notice.show()
            self._hide_after(_TOLD)

    def _entered(self, *_: object) -> bool:
        if self.shown:
            self.count += 1
            self.notice.show()
        return False

    def _left(self, _: Gtk.Widget, event: Gdk.EventCrossing) -> bool:
        # Not when the pointer goes to the button, which lies within.
        if event.detail != Gdk.NotifyType.INFERIOR:
            self._hide_after(_LINGERS)
        return False

    def _hide_after(self, milliseconds: int) -> None:
        """Hide the notice, unless it is asked for in the meantime."""
        self.count += 1
        number = self.count
        GLib.timeout_add(milliseconds, lambda: self.notice.hide() if number == self.count else None)


def paint(colour: str) -> None:
    """Colour the title bar, and what is shown on the whole screen; their text is black or white, whichever is easier to read.

    `-` leaves the title bar plain.
    """
    form = _STYLE if colour == "-" else _STYLE + _BAR_STYLE
    colour = _PLAIN if colour == "-" else colour
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    text = "black" if 299 * red + 587 * green + 114 * blue > 140_000 else "white"
    style = Gtk.CssProvider()
    style.load_from_data(form.format(colour=colour, text=text).encode())
    Gtk.StyleContext.add_provider_for_screen(Gdk.Screen.get_default(), style, Gtk.STYLE_PROVIDER_PRIORITY_APPLICATION)
