# SPDX-License-Identifier: Apache-2.0
"""The window manager of an application's display. It runs on the thin client, so that a host needs none.

A main window fills the display, whose size is that of the viewer's window; dialogs have the size that they want, in the middle.
Menus place themselves. The window under the pointer, or the newest, has the keyboard.
"""

from __future__ import annotations

import os
import queue
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tower.base.ready import readable
from tower.clipboard.courier import Courier
from tower.clipboard.selection import Selection
from tower.display import x11
from tower.display.randr import DOTS, Screen, screen_of
from tower.display.relay import OddError
from tower.display.x11 import Packet, Server

_ROOT_EVENTS: Final = 1 << 17 | 1 << 19 | 1 << 20
_WINDOW_EVENTS: Final = 1 << 4 | 1 << 22
_TITLE: Final = 200
_MOST_WINDOWS: Final = 1000
_DIALOGS: Final = ("DIALOG", "UTILITY", "SPLASH", "TOOLBAR", "NOTIFICATION", "POPUP_MENU", "DROPDOWN_MENU", "TOOLTIP")
_SUPPORTED: Final = (
    "_NET_SUPPORTED", "_NET_SUPPORTING_WM_CHECK", "_NET_WM_STATE", "_NET_WM_STATE_MAXIMIZED_VERT",
    "_NET_WM_STATE_MAXIMIZED_HORZ", "_NET_WM_STATE_FULLSCREEN", "_NET_ACTIVE_WINDOW", "_NET_WM_NAME", "_NET_WM_WINDOW_TYPE",
)  # fmt: skip
_NAMES: Final = (
    *_SUPPORTED, "ATOM", "WINDOW", "WM_DELETE_WINDOW", "WM_HINTS", "WM_NAME", "WM_NORMAL_HINTS", "WM_PROTOCOLS", "WM_STATE",
    "WM_TAKE_FOCUS", "WM_TRANSIENT_FOR", *(f"_NET_WM_WINDOW_TYPE_{name}" for name in _DIALOGS),
)  # fmt: skip
"""All names that are asked for when a window opens."""
_VIEWABLE: Final = 2
_SECONDS: Final = 20.0
_LEAVES: Final = 5.0
"""Seconds that an earlier manager, whose connection the host has just ended, may take to leave."""
_TICK: Final = 0.1
_ECHO: Final = 1.0
"""Seconds after a change of the size in which the server's events are about this change."""
_PAUSE: Final = 0.03
"""Seconds between two sizes, while the window follows the pointer: an application needs time to paint."""


@dataclass(slots=True)
class Window:
    """A window of the application."""

    number: int
    main: bool
    width: int
    height: int
    least: tuple[int, int] = (1, 1)
    """The size below which it is cut off."""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the viewer is told: the title of the window that has the keyboard, the number of windows, and a main one's sizes."""

    title: str
    count: int
    mains: int
    """The number of windows that are not dialogs."""
    size: tuple[int, int] | None
    least: tuple[int, int]
    wanted: tuple[int, int]
    """The size that the largest dialog needs."""


@dataclass(slots=True)
class Manager:
    """Manages the windows of one display. `run` needs a thread of its own; the other methods may be called from any thread."""

    server: Server
    show: Callable[[Shown], None]
    """Called from that thread after each change."""
    courier: Courier | None = None
    """Carries the clipboard, if that is wanted."""
    windows: dict[int, Window] = field(default_factory=dict)
    """In the order in which they had the keyboard."""
    ask_whole: Callable[[bool], None] = lambda _: None
    """Called from that thread when the application asks for the whole screen, or no longer wants it."""
    scale: int = 1
    """Pixels that the side of a point has."""
    screen: Screen | None = None
    _size: tuple[int, int] | None = None
    """The size that the display shall have, if it has not got it yet."""
    _resized: float = 0.0
    _orders: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    _wake: tuple[int, int] = field(default_factory=os.pipe)
    _said: Shown | None = None
    _whole: bool = False
    """Whether the viewer's window has the whole screen, as the application is told."""

    def close(self) -> None:
        """Ask the window that has the keyboard to close, as its close button would."""
        self.order(self._close)

    def next(self) -> None:
        """Give the keyboard to the window that has waited longest for it."""
        self.order(lambda: self._focus(next(iter(self.windows), 0)))

    def resize(self, width: int, height: int) -> None:
        """Give the display another size. Of many that come at once, the last one counts."""
        idle, self._size = self._size is None, (width, height)
        if idle:
            self.order(lambda: None)

    def whole(self, whole: bool) -> None:
        """Tell the application whether it has the whole screen."""
        self.order(lambda: self._tell_whole(whole))

    def order(self, what: Callable[[], None]) -> None:
        """Let the manager's thread do something."""
        self._orders.put(what)
        os.write(self._wake[1], b"x")

    def run(self) -> None:
        """Manage until the display is gone. Raises OddError, OSError."""
        self._begin()
        while True:
            # Events that came with an answer first: what they change must be told before we wait.
            while self.server.events:
                self._event(self.server.events.popleft())
            self._report()
            pause = _TICK if self.courier is not None and self.courier.busy else None
            if self._size is not None:
                pause = self._resize()
            ready = readable([self.server.socket.fileno(), self._wake[0]], pause)
            # One thing at a time: what an order or the courier asks the server may take what was ready to be read.
            if self._wake[0] in ready:
                os.read(self._wake[0], 1)
                self._orders.get()()
            elif self.server.socket.fileno() in ready:
                self._event(self.server.read(time.monotonic() + _SECONDS))
            if self.courier is not None:
                self.courier.tick()

    def _resize(self) -> float | None:
        """Set the size that is wanted, unless the last one is too young; return the seconds to wait for it."""
        left = self._resized + _PAUSE - time.monotonic()
        if left > 0:
            return left
        size, self._size = self._size, None
        if size is not None and self.screen is not None:
            self._resized = time.monotonic()
            self.screen.resize(*size)
            self._fit()
        return 0

    def _fit(self) -> None:
        """Put all windows in the places that they have on a display of this size."""
        for window in self.windows.values():
            self._place(window)

    def _begin(self) -> None:
        server = self.server
        server.know(*_NAMES)
        self.screen = screen_of(server)
        if self.screen is not None:
            self.screen.dots = DOTS * self.scale
        self._take()
        server.set_words(server.root, "_NET_SUPPORTED", "ATOM", *(server.atom(name) for name in _SUPPORTED))
        if self.courier is not None:
            self.courier.selection = Selection(server, self.courier.changed, self.courier.wanted)
            self.courier.selection.begin()
        tree = server.ask(x11.QUERY_TREE, 0, "I", server.root)
        if tree is None:
            raise OddError("X: the display has no root")
        for number in tree.numbers(f"{min(tree.numbers('H', 16)[0], _MOST_WINDOWS)}I", 32):
            found = server.ask(x11.GET_ATTRIBUTES, 0, "I", number)
            # Mapped, and none of those that place themselves.
            if found is not None and found.data[26] == _VIEWABLE and not found.data[27]:
                self._manage(number)

    def _take(self) -> None:
        """Become the manager of the display, which has no second one. Raises OddError if an earlier one stays."""
        server = self.server
        ends = time.monotonic() + _LEAVES
        while True:
            server.send(x11.CHANGE_ATTRIBUTES, 0, "III", server.root, 1 << 11, _ROOT_EVENTS)
            found = server.ask(x11.GET_ATTRIBUTES, 0, "I", server.root)
            if found is None or found.numbers("I", 36)[0] == _ROOT_EVENTS:
                return
            if time.monotonic() > ends:
                raise OddError("X: the display has another manager of windows")
            time.sleep(_PAUSE)

    # Events.

    def _event(self, packet: Packet) -> None:
        kind = packet.kind
        if self.courier is not None and self.courier.selection is not None:
            self.courier.selection.event(packet)
        if kind == x11.MAP_REQUEST:
            self._manage(packet.numbers("I", 8)[0])
        elif kind in (x11.UNMAP, x11.DESTROYED):
            self._forget(packet.numbers("I", 8)[0])
        elif kind == x11.CONFIGURE_REQUEST:
            self._wanted(packet)
        elif kind == x11.CONFIGURED and packet.numbers("I", 8)[0] == self.server.root:
            # Our own changes come back, too, and by then another one may have followed.
            if time.monotonic() > self._resized + _ECHO:
                self.server.width, self.server.height = packet.numbers("HH", 20)
                self._fit()
        elif kind == x11.PROPERTY:
            changed = self.windows.get(packet.numbers("I", 4)[0])
            if changed is not None and packet.numbers("I", 8)[0] in (
                self.server.atom("WM_NAME"),
                self.server.atom("_NET_WM_NAME"),
            ):
                changed.title = self._title(changed.number)
        elif kind == x11.ENTER:
            number = packet.numbers("I", 12)[0]
            if number in self.windows and packet.data[30] == 0 and next(reversed(self.windows)) != number:
                self._focus(number, lift=False)
        elif kind == x11.MESSAGE:
            self._message(packet)

    def _manage(self, number: int) -> None:
        server = self.server
        geometry = server.ask(x11.GET_GEOMETRY, 0, "I", number)
        if geometry is None or len(self.windows) >= _MOST_WINDOWS:
            return
        width, height = geometry.numbers("HH", 16)
        kinds = server.words(number, "_NET_WM_WINDOW_TYPE")
        dialog = any(server.atom(f"_NET_WM_WINDOW_TYPE_{name}") in kinds for name in _DIALOGS)
        transient = any(server.words(number, "WM_TRANSIENT_FOR"))
        hints = (*server.words(number, "WM_NORMAL_HINTS"), *[0] * 18)
        # As ICCCM 4.1.2.3 has them: flags, and at 5 and 7 the least and the largest size.
        least = (hints[5], hints[6]) if hints[0] & 1 << 4 else (1, 1)
        fixed = bool(hints[0] & 1 << 5) and (hints[7], hints[8]) == least
        main = not dialog and not transient and not (fixed and self.windows)
        window = Window(number, main, width, height, tuple(min(max(one, 1), 4096) for one in least), self._title(number))  # type: ignore[arg-type]
        self.windows[number] = window
        server.send(x11.CHANGE_ATTRIBUTES, 0, "III", number, 1 << 11, _WINDOW_EVENTS)
        if main:
            # An application that was attached still says what it had in its earlier window: that is no wish.
            states = () if server.words(number, "WM_STATE") else server.words(number, "_NET_WM_STATE")
            if server.atom("_NET_WM_STATE_FULLSCREEN") in states:
                self.ask_whole(True)
            self._set_states(number)
        server.set_words(number, "WM_STATE", "WM_STATE", 1, 0)
        self._place(window)
        server.send(x11.MAP, 0, "I", number)
        self._focus(number)

    def _message(self, packet: Packet) -> None:
        """Handle a request of a window, as EWMH has them: action 0 takes states away, 1 adds them, 2 changes them."""
        number, what, action, *states = packet.numbers("5I", 4)
        window = self.windows.get(number)
        if what == self.server.atom("_NET_ACTIVE_WINDOW"):
            self._focus(number)
        elif what != self.server.atom("_NET_WM_STATE"):
            return
        elif window is not None and window.main and self.server.atom("_NET_WM_STATE_FULLSCREEN") in states:
            self.ask_whole(action == 1 or (action == 2 and not self._whole))

    def _tell_whole(self, whole: bool) -> None:
        self._whole = whole
        for window in self.windows.values():
            if window.main:
                self._set_states(window.number)

    def _set_states(self, number: int) -> None:
        names = ("MAXIMIZED_VERT", "MAXIMIZED_HORZ", *(("FULLSCREEN",) if self._whole else ()))
        self.server.set_words(number, "_NET_WM_STATE", "ATOM", *(self.server.atom(f"_NET_WM_STATE_{name}") for name in names))

    def _forget(self, number: int) -> None:
        if self.windows.pop(number, None) is not None and self.windows:
            self._focus(next(reversed(self.windows)))

    def _wanted(self, packet: Packet) -> None:
        number = packet.numbers("I", 8)[0]
        x, y, width, height = packet.numbers("hhHH", 16)
        mask = packet.numbers("H", 26)[0]
        window = self.windows.get(number)
        if window is None:
            # Not shown yet, or it places itself: as it wants.
            values = [value for bit, value in enumerate((x, y, width, height)) if mask & 1 << bit]
            if values:
                form = "".join("i" if bit < 2 else "I" for bit in range(4) if mask & 1 << bit)
                self.server.send(x11.CONFIGURE, 0, f"IHH{form}", number, mask & 0b1111, 0, *values)
            return
        if mask & 0b0100:
            window.width = width
        if mask & 0b1000:
            window.height = height
        self._place(window)

    # Windows.

    def _place(self, window: Window) -> None:
        """Put a window in its place and notify it, because one that asked for another place waits for an answer."""
        server = self.server
        if window.main:
            x, y, width, height = 0, 0, server.width, server.height
        else:
            width, height = min(window.width, server.width), min(window.height, server.height)
            x, y = (server.width - width) // 2, (server.height - height) // 2
        server.configure(window.number, x, y, max(width, 1), max(height, 1))
        numbers = (x11.CONFIGURED, 0, window.number, window.number, 0, x, y, max(width, 1), max(height, 1), 0, 0)
        event = struct.pack("<BxHIIIhhHHHBx4x", *numbers)
        server.send(x11.SEND_EVENT, 0, "II", window.number, 1 << 17, data=event)

    def _focus(self, number: int, *, lift: bool = True) -> None:
        window = self.windows.pop(number, None)
        if window is None:
            return
        self.windows[number] = window
        if lift:
            self.server.raise_window(number)
            for other in self.windows.values():
                if not other.main and window.main:
                    self.server.raise_window(other.number)
        hints = self.server.words(number, "WM_HINTS")
        # It may say that it wants no keyboard; the first flag tells whether it says anything about it.
        if not (len(hints) > 1 and hints[0] & 1 and not hints[1]):
            self.server.send(x11.SET_FOCUS, 1, "II", number, 0)
        if self.server.atom("WM_TAKE_FOCUS") in self.server.words(number, "WM_PROTOCOLS"):
            self.server.tell(number, "WM_PROTOCOLS", self.server.atom("WM_TAKE_FOCUS"))
        self.server.set_words(self.server.root, "_NET_ACTIVE_WINDOW", "WINDOW", number)

    def _close(self) -> None:
        number = next(reversed(self.windows), 0)
        if self.server.atom("WM_DELETE_WINDOW") in self.server.words(number, "WM_PROTOCOLS"):
            self.server.tell(number, "WM_PROTOCOLS", self.server.atom("WM_DELETE_WINDOW"))
        elif number:
            self.server.send(x11.KILL_CLIENT, 0, "I", number)

    def _title(self, number: int) -> str:
        data = self.server.value(number, "_NET_WM_NAME") or self.server.value(number, "WM_NAME")
        return "".join(char if char.isprintable() else " " for char in data[: 4 * _TITLE].decode(errors="replace"))[:_TITLE]

    def _report(self) -> None:
        last = self.windows[next(reversed(self.windows))] if self.windows else None
        mains = [window for window in self.windows.values() if window.main]
        size = (mains[0].width, mains[0].height) if mains else (last.width, last.height) if last else None
        least = mains[-1].least if mains else (1, 1)
        dialogs = [(window.width, window.height) for window in self.windows.values() if not window.main]
        wanted = (max((width for width, _ in dialogs), default=1), max((height for _, height in dialogs), default=1))
        said = Shown(last.title if last else "", len(self.windows), len(mains), size, least, wanted)
        if said != self._said:
            self._said = said
            self.show(said)
