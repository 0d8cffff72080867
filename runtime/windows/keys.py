# SPDX-License-Identifier: Apache-2.0
"""All keys for the application, the desktop's own among them, while the user wants that."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

import gi

gi.require_version("Gdk", "3.0")
gi.require_version("Gtk", "3.0")
from gi.repository import Gdk, GLib, Gtk  # noqa: E402  (their versions come first)
from tower.display.outputs import offers  # noqa: E402

_INHIBITOR: Final = b"zwp_keyboard_shortcuts_inhibit_manager_v1"
_SUPER: Final = Gdk.ModifierType.MOD4_MASK | Gdk.ModifierType.SUPER_MASK
_SIGN: Final = "⌨"


class Keys:
    """The user gives the application all keys, and takes them back, by Super+Escape or the button in the title bar.

    Nothing that the host sends comes here. The desktop's keys go to the window only while it has the keyboard; until the user
    takes them back, the title bar says so. Desktops with a protocol for it are asked by GTK. labwc has none, but an action that
    keeps its keys from the window which has the keyboard: the product binds it to Super+Escape, together with a SIGUSR1 for us.
    """

    def __init__(
        self, window: Gtk.Window, bar: Gtk.HeaderBar, say: Callable[[str], object], show: Callable[[bool], None]
    ) -> None:
        self.window, self.say, self.show = window, say, show
        self.wanted = False
        """Whether the application shall have all keys."""
        self.held = False
        """Whether the desktop was asked by GTK, and has not been told otherwise since."""
        self.button = Gtk.Button(label=_SIGN, tooltip_text="all keys to the application: Super+Escape", can_focus=False)
        self.button.connect("clicked", lambda _: self._ask())
        bar.pack_start(self.button)
        for event in ("key-press-event", "key-release-event"):
            window.connect(event, self._key)
        window.connect("notify::is-active", lambda *_: self._hold())
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGUSR1, self._told)

    def _key(self, _: Gtk.Window, event: Gdk.EventKey) -> bool:
        if event.keyval != Gdk.KEY_Escape or not event.state & _SUPER:
            return False
        if event.type == Gdk.EventType.KEY_PRESS:
            self._ask()
        return True

    def _told(self) -> bool:
        """Handle the desktop's word that it keeps its keys from the window that has the keyboard, or no longer does."""
        if self.window.is_active():
            self._set(not self.wanted)
        return True

    def _ask(self) -> None:
        if os.environ.get("XDG_CURRENT_DESKTOP", "").startswith("labwc"):
            self.say("Super+Escape gives it all keys, and takes them back")
        elif self.wanted or not os.environ.get("WAYLAND_DISPLAY") or offers(_INHIBITOR):
            self._set(not self.wanted)
            self._hold()
        else:
            self.say("this desktop gives its keys to no window")

    def _set(self, wanted: bool) -> None:
        self.wanted = wanted
        self.button.set_label(f"{_SIGN} all keys: Super+Escape ends it" if wanted else _SIGN)
        self.show(wanted)

    def _hold(self) -> None:
        """Ask the desktop for its keys while they are wanted and the window has the keyboard."""
        seat = self.window.get_display().get_default_seat()
        hold = self.wanted and bool(self.window.is_active())
        if hold and not self.held:
            found = seat.grab(self.window.get_window(), Gdk.SeatCapabilities.KEYBOARD, True, None, None, None)
            self.held = found == Gdk.GrabStatus.SUCCESS
        elif self.held and not hold:
            seat.ungrab()
            self.held = False
