# SPDX-License-Identifier: Apache-2.0
"""Waiting for streams, also in a process that has many."""

from __future__ import annotations

import os
import re
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tower.base.ready import readable, writable

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=[0, 1100])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets that are connected; also with descriptors above 1023."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(request.param)]
    one, other = socket.socketpair()
    try:
        assert one.fileno() > request.param - 1
        yield one, other
    finally:
        for each in (*held, one.detach(), other.detach()):
            if each >= 0:
                os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_readable_and_writable_streams_are_found(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    assert readable([one], 0) == []
    assert readable([one, other], 0.01) == []
    assert writable([one], 0) == [one]
    other.send(b"x")
    assert readable([other, one]) == [one]
    assert readable([one.fileno()], 1) == [one.fileno()]
    one.recv(1)
    other.close()
    assert readable([one], 1) == [one], "its end is read"


def test_nothing_of_ours_uses_select() -> None:
    """It takes no descriptor above 1023."""
    files = [path for folder in ("runtime", "pipeline") for path in (CHECKOUT / folder).rglob("*.py")]
    assert [path for path in files if re.search(r"\bselect\.select\(|from select import select", path.read_text())] == []
