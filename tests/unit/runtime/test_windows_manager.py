# SPDX-License-Identifier: Apache-2.0
"""The manager of an application's windows: what it tells the viewer, and when."""

from __future__ import annotations

import queue
import socket
import struct
import threading

import pytest
from tower.display import x11
from tower.display.relay import OddError
from tower.display.x11 import Packet, Server
from tower.windows.manager import Manager, Shown, Window


def test_a_window_that_goes_while_an_answer_is_waited_for_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event lies in the queue already: nothing more comes from the server that would wake the manager."""
    told: queue.SimpleQueue[Shown] = queue.SimpleQueue()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = Server(ours, 1, 100, 100, 1 << 20)
        server.events.append(Packet(x11.DESTROYED, struct.pack("<BxHII20x", x11.DESTROYED, 0, 1, 5)))
        manager = Manager(server, told.put, None, {5: Window(5, True, 9, 9, (1, 1), "x")})
        monkeypatch.setattr(Manager, "_begin", lambda _: None)

        def run() -> None:
            with pytest.raises((OddError, OSError)):
                manager.run()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while told.get(timeout=20).count:
                pass
        finally:
            theirs.close()
            thread.join(20)


def test_a_request_for_the_whole_screen_counts_for_main_windows_alone() -> None:
    asked: list[bool] = []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = Server(ours, 1, 100, 100, 1 << 20)
        for place, name in enumerate(("_NET_ACTIVE_WINDOW", "_NET_WM_STATE", "_NET_WM_STATE_FULLSCREEN")):
            server._atoms[name] = 100 + place
        windows = {5: Window(5, True, 9, 9), 6: Window(6, False, 9, 9)}
        manager = Manager(server, lambda _: None, None, windows, asked.append)
        for number, action, state in ((6, 1, 102), (5, 1, 77), (7, 1, 102), (5, 1, 102), (5, 0, 102), (5, 2, 102)):
            event = struct.pack("<BBHII5I", x11.MESSAGE, 32, 0, number, 101, action, 0, state, 0, 0)
            server.events.append(Packet(x11.MESSAGE, event))
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises((OddError, OSError)):
            manager._event(Packet(x11.MESSAGE, b"short"))
        while server.events:
            manager._event(server.events.popleft())
    assert asked == [True, False, True]
