# SPDX-License-Identifier: Apache-2.0
"""`tower doctor gui`: what it measures, and that it finds a slow link."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.integration.windows.conftest import Place

DELAY = 0.04
"""Seconds by which the slow link holds back each way."""


@contextmanager
def slow_link(desk: Place) -> Iterator[None]:
    """Let the user's ssh connect through a relay that holds everything back."""
    config = desk.folder / "home/.local/tower/config"
    before = config.read_text()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, desk.port), daemon=True).start()
        config.write_text(before.replace(f"Port {desk.port}\n", f"Port {listener.getsockname()[1]}\n", 1))
        try:
            yield
        finally:
            config.write_text(before)
            listener.shutdown(socket.SHUT_RDWR)


def accept(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            server = socket.create_connection(("127.0.0.1", port))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=carry, args=(one, other), daemon=True).start()


def carry(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            time.sleep(DELAY)
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def test_it_measures_each_part_and_leaves_nothing(desk: Place) -> None:
    done = desk.tower("doctor", "gui", "web", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["web"]
    assert found["servers"] == "tigervnc"
    for name in ("round_trip", "megabytes_a_second", "start", "full_kilobytes", "painting"):
        assert found[name] > 0, name
    # Random colours do not pack to nothing.
    assert found["full_kilobytes"] > 2
    assert desk.ids() == []


def test_it_finds_a_slow_link_and_says_what_to_change(desk: Place) -> None:
    with slow_link(desk):
        done = desk.tower("doctor", "gui", "web", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)["web"]
        assert found["round_trip"] >= 2000 * DELAY
        assert any("the way to web takes" in line and "use a cable" in line for line in found["slow"])
        told = desk.tower("doctor", "gui", "web")
    assert "the way to web takes" in told.stderr
    assert "round trip" in told.stdout
    assert desk.ids() == []
