# SPDX-License-Identifier: Apache-2.0
"""The window of a host's application: `python3 -m tower.windows.viewer HOST COLOUR CLIPBOARD NAME`.

On stdin it first gets a line with the key of the application's X server, in hexadecimal digits; from then on, stdin is a
connection to its VNC server, and stdout one to its X server. Until then it loads. COLOUR is that of the title bar, or `-`;
CLIPBOARD is `off`, or says whether the host is `online` or `offline`. It ends when the pictures end, and by SIGWINCH when the
application has no windows left.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("GtkVnc", "2.0")
gi.require_version("GVnc", "1.0")
from gi.repository import Gdk, GLib, Gtk, GtkVnc, GVnc  # noqa: E402  (their versions come first)
from tower.clipboard.courier import Courier  # noqa: E402
from tower.display.relay import OddError  # noqa: E402
from tower.display.x11 import key_in, open_server  # noqa: E402
from tower.windows.entry import known  # noqa: E402
from tower.windows.keys import Keys  # noqa: E402
from tower.windows.manager import Manager, Shown  # noqa: E402
from tower.windows.pixels import Pixels  # noqa: E402
from tower.windows.rfb import MOST_SIDE  # noqa: E402
from tower.windows.whole import Whole, paint  # noqa: E402

_PATIENCE: Final = 1500
"""Milliseconds to wait for windows of another application that the ended one has started."""
_SMALLEST: Final = (480, 360)
"""The first size of a window in pixels, so that menus are complete."""
_LATEST: Final = 10_000
"""Milliseconds after which the window is shown, whatever the application does."""
_FOLLOWS: Final = 10.0
"""Seconds in which a busy host's server must have taken the first size."""
_READING: Final = 700
"""Milliseconds before a question can be answered with yes."""
_SAID: Final = 8000
"""Milliseconds that a message is shown."""
_MEANT: Final = 5.0
"""Seconds after a key or a click in which the application may take the whole screen."""


class Viewer:
    """The window, its content, and the manager of the application's windows."""

    def __init__(self, host: str, colour: str, name: str, clipboard: str) -> None:
        self.host, self.name = host, name
        self.shown: Shown | None = None
        self.leaves = False
        self.least = (1, 1)
        self.late = False
        self.asked = _SMALLEST
        self.courier = None if clipboard == "off" else Courier(host, clipboard == "online", self, self._order)
        self.manager: Manager | None = None
        self.window = Gtk.Window()
        self.bar = Gtk.HeaderBar(show_close_button=True, title=f"{name} ({host})", has_subtitle=False)
        self.scale = self.window.get_scale_factor()
        self.window.connect("notify::scale-factor", self._scaled)
        self.others = Gtk.Button(label="⇄", tooltip_text="next window", no_show_all=True)
        self.others.connect("clicked", lambda _: self.manager and self.manager.next())
        self.bar.pack_end(self.others)
        paint(colour)
        self.window.set_titlebar(self.bar)
        self.window.connect("delete-event", self._close)
        self.window.connect("notify::is-active", self._activity)
        self.question: Gtk.Dialog = None
        self.title = f"{name} ({host})"
        self.words = 0
        self.pictures = GtkVnc.Display()
        self.pictures.set_scaling(True)
        self.pictures.set_keep_aspect_ratio(True)
        self.pictures.set_pointer_local(True)
        self.pictures.set_depth(GtkVnc.DisplayDepthColor.FULL)
        self.pictures.connect("vnc-disconnected", self._end)
        self.pictures.connect("vnc-error", self._end)
        self.pictures.connect("vnc-initialized", self._follow)
        self.pictures.connect("size-allocate", self._sized)
        self.painted = False
        self.pixels = Pixels(self.pictures, self.scale)
        self.painting = self.pictures.get_connection().connect("vnc-framebuffer-update", self._first_picture)
        for event in ("key-press-event", "button-press-event"):
            self.pictures.connect(event, self._touched)
        # An application that starts may have the whole screen, as somebody has just started it.
        self.touched = time.monotonic()
        self.early = False
        self.whole = Whole(self.window, self.pictures, host, name)
        self.window.connect("window-state-event", self._state)
        self.keys = Keys(self.window, self.bar, self._say, self.whole.keys)
        # Themes and fonts are loaded now, and not when the application is there.
        self.window.realize()

    def run(self, key: bytes) -> None:
        """Run until the pictures end; `key` is what `tower.display.x11.key_in` reads."""
        GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGWINCH, self._leave)
        GLib.timeout_add(_LATEST, self._present)
        threading.Thread(target=self._manage, args=(key,), daemon=True).start()
        Gtk.main()

    def _manage(self, key: bytes) -> None:
        """Run the manager's thread. If it fails, the application is still shown."""
        try:
            server = open_server(socket.socket(fileno=os.dup(1)), key_in(key))
            self.manager = Manager(
                server,
                lambda shown: GLib.idle_add(self._show, shown),
                self.courier,
                scale=self.scale,
                ask_whole=lambda wanted: GLib.idle_add(self._ask_whole, wanted),
            )
            if self.courier is not None:
                threading.Thread(target=self.courier.run, daemon=True).start()
            self.manager.run()
        except (OddError, OSError) as error:
            sys.stderr.write(f"{error}\n")
            GLib.idle_add(self._unmanaged)

    def _show(self, shown: Shown) -> bool:
        self.shown = shown
        if shown.size is not None:
            self._present(shown.size)
            if self.late:
                self.late = False
                self._ask_for(shown.size)
            self._make_room(shown)
        # The window has the same title, for whoever lists windows.
        self.title = f"{shown.title or self.name} ({self.host})"
        self.bar.set_title(self.title)
        self.others.set_visible(shown.mains > 1)
        if self.leaves and not shown.count:
            self._end()
        return False

    def _make_room(self, shown: Shown) -> None:
        """Let the window grow so that no dialog is cut."""
        if shown.least != self.least:
            self.least = shown.least
            GLib.timeout_add(500, self._shrinkable)
        if self.whole.shown:
            return
        missing = [want - has for want, has in zip(shown.wanted, self._size(), strict=True)]
        if any(one > 0 for one in missing):
            width, height = self.window.get_size()
            more = self._points((max(missing[0], 0), max(missing[1], 0)))
            self.window.resize(width + more[0], height + more[1])

    def _present(self, size: tuple[int, int] | None = None) -> bool:
        """Show the window in the size that the application wants, and ask for its pictures."""
        if not self.pictures.is_open() and not self.window.get_visible():
            self.late = size is None
            self._ask_for(size or (800 * self.scale, 600 * self.scale))
            if self.early:
                self.window.fullscreen()
            self.touched = time.monotonic()
            self.window.show_all()
            self.pictures.grab_focus()
            manager = self.manager
            if manager is not None and manager.screen is not None and min(manager.screen.most) > MOST_SIDE:
                manager.resize(*(one * self.scale for one in self.asked))
                manager.order(lambda: GLib.idle_add(self._open))
            else:
                self._open()
        return False

    def _open(self) -> bool:
        """Connect to the server of pictures.

        It ends a connection if its display gets another size before it knows that the viewer takes new sizes: so the first size
        is set before, and the others after the first picture. A display of x11vnc is small, and gets its first size after it.
        """
        if not self.pictures.is_open():
            self.pictures.open_fd(os.dup(0))
        return False

    def _ask_for(self, size: tuple[int, int]) -> None:
        """Give the window a size, within the screen."""
        area = Gdk.Display.get_default().get_monitor(0).get_workarea()
        width, height = (max(pair) for pair in zip(self._points(size), _SMALLEST, strict=True))
        self.asked = min(width, area.width - 40), min(height, area.height - 80)
        self.pictures.set_size_request(*self.asked)
        self.window.resize(1, 1)
        GLib.timeout_add(500, self._shrinkable)

    def _size(self) -> tuple[int, int]:
        """Return the size of the pictures in pixels."""
        area = self.pictures.get_allocation()
        return area.width * self.scale, area.height * self.scale

    def _points(self, pixels: tuple[int, int]) -> tuple[int, int]:
        width, height = (-(-one // self.scale) for one in pixels)
        return width, height

    def _scaled(self, *_: object) -> None:
        """Handle the window's move to a screen of another scale."""
        self.scale = self.window.get_scale_factor()
        self.pixels.use(self.scale)
        self._sized()

    def _sized(self, *_: object) -> None:
        """Give the application's display the size of its pictures here."""
        manager = self.manager
        if self.painted and manager is not None and manager.screen is not None:
            manager.resize(*self._size())

    def _first_picture(self, connection: GVnc.Connection, *_: object) -> None:
        """Handle the first picture: the server knows what the viewer takes."""
        connection.disconnect(self.painting)
        self.painted = True
        # Xvnc gives a key to a character that the keyboard of its display lacks; the first time, the character itself is lost.
        # The keyboard lacks this key, and alone it does nothing, as with Shift.
        for down in (True, False):
            connection.key_event(down, Gdk.KEY_Hyper_R, 0)
        self._sized()

    def _unmanaged(self) -> bool:
        """Show the application although its windows are not managed."""
        self.manager = None
        if self.pictures.get_width():
            self._follow()
        self._present()
        return False

    def _follow(self, *_: object) -> None:
        """Let gtk-vnc tell the server the size, half a second late, if the manager cannot.

        It only tells changes, and none before it knows the server: so the first size is told until the server has it.
        """
        if self.manager is not None and self.manager.screen is not None:
            return
        # Not earlier: told to follow, gtk-vnc reads the first picture's size whenever the window's changes, and ends with a
        # segmentation fault if that is after the server's greeting and before the picture is there.
        self.pictures.set_allow_resize(True)
        ends = time.monotonic() + _FOLLOWS

        def tell() -> bool:
            if (self.pictures.get_width(), self.pictures.get_height()) == self._size():
                return False
            self.pictures.queue_resize()
            return time.monotonic() < ends

        GLib.timeout_add(100, tell)

    def _shrinkable(self) -> bool:
        """From now on, allow sizes down to the smallest that does not cut the application."""
        self.pictures.set_size_request(*(min(one, 600) for one in self._points(self.least)))
        return False

    # The whole screen.

    def _touched(self, *_: object) -> bool:
        self.touched = time.monotonic()
        return False

    def _ask_whole(self, wanted: bool) -> bool:
        """Give the application the whole screen if it asks for it because of the user, and take it back when it asks for that."""
        if not self.window.get_visible():
            self.early = wanted
        elif not wanted:
            self.window.unfullscreen()
        elif time.monotonic() < self.touched + _MEANT:
            self.window.fullscreen()
        else:
            self._say(f"{self.name} asks for the whole screen: Super+F gives it")
        return False

    def _state(self, _: Gtk.Window, event: Gdk.EventWindowState) -> bool:
        if event.changed_mask & Gdk.WindowState.FULLSCREEN:
            whole = bool(event.new_window_state & Gdk.WindowState.FULLSCREEN)
            self.whole.show(whole)
            if self.manager is not None:
                self.manager.whole(whole)
        return False

    # The clipboard.

    def _order(self, what: Callable[[], None]) -> None:
        if self.manager is not None:
            self.manager.order(what)

    def _activity(self, *_: object) -> None:
        """Tell whether the window has the keyboard, itself or its question."""
        if self.courier is not None:
            self.courier.focus(bool(self.window.is_active()) or self.question is not None)

    def ask(self, number: int, text: str) -> None:
        """Ask the user whether a content may pass, in the place of an earlier question; 0: none."""
        GLib.idle_add(self._ask, number, text)

    def _ask(self, number: int, text: str) -> bool:
        if self.question is not None:
            self.question.destroy()
            self.question = None
        if number:
            dialog = Gtk.MessageDialog(transient_for=self.window, modal=True, title=f"Clipboard ({self.host})", text=text)
            dialog.add_buttons("_Refuse", Gtk.ResponseType.NO, "_Allow", Gtk.ResponseType.YES)
            dialog.set_default_response(Gtk.ResponseType.NO)
            # Somebody who is typing, or clicks where the dialog opens, has not read it.
            dialog.set_response_sensitive(Gtk.ResponseType.YES, False)
            GLib.timeout_add(_READING, self._allow, dialog)
            dialog.connect("response", lambda _, response: self._answer(number, response == Gtk.ResponseType.YES))
            self.question = dialog
            dialog.show_all()
        return False

    def _allow(self, dialog: Gtk.Dialog) -> bool:
        if self.question is dialog:
            dialog.set_response_sensitive(Gtk.ResponseType.YES, True)
        return False

    def _answer(self, number: int, yes: bool) -> None:
        if self.courier is not None:
            self.courier.answer(number, yes)
        self._ask(0, "")
        GLib.idle_add(self._activity)

    def say(self, text: str) -> None:
        """Show a message in the title bar for a while."""
        GLib.idle_add(self._say, text)

    def _say(self, text: str) -> bool:
        self.words += 1
        number = self.words
        self.bar.set_title(text)
        GLib.timeout_add(_SAID, lambda: self.bar.set_title(self.title) if number == self.words else None)
        return False

    def _close(self, *_: object) -> bool:
        """Ask the application to close; it may ask whether to save."""
        if self.manager is not None:
            self.manager.close()
        return True

    def _leave(self) -> bool:
        """Handle the end of the application: end when no window is left and no other opens."""
        if self.leaves:
            return True
        self.leaves = True
        if self.shown is not None and not self.shown.count:
            self.window.hide()
        GLib.timeout_add(_PATIENCE, lambda: self._end() if self.shown is None or not self.shown.count else False)
        return True

    def _end(self, *_: object) -> bool:
        Gtk.main_quit()
        return False


def _key() -> bytes:
    """Wait for the line with the key, and read nothing behind it; b"" if the application did not start."""
    line = bytearray()
    while (char := os.read(0, 1)) and char != b"\n":
        line += char
    return bytes.fromhex(line.decode()) if char else b""


def main(words: Sequence[str]) -> int:
    """Run the viewer; return 1 if there is no application, and 3 if there is no display."""
    host, colour, clipboard, name = words
    entry = known(host, name)
    # The desktop gets it as the application's ID, and looks for a menu entry of this name.
    GLib.set_prgname(entry.id if entry is not None else "tower")
    if not Gtk.init_check()[0]:
        return 3
    if entry is not None:
        with suppress(GLib.Error):  # nobody misses it
            Gtk.Window.set_default_icon_from_file(entry.icon)
    viewer = Viewer(host, colour, name, clipboard)
    key = _key()
    if not key:
        return 1
    viewer.run(key)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
