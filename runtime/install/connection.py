# SPDX-License-Identifier: Apache-2.0
"""Connections for all commands: first, what an interrupted `tower install` left on the host is repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tower.hosts.registry import Host, Tower
from tower.ssh import sessions
from tower.ssh.sessions import Session


@contextmanager
def connect(tower: Tower, host: Host, *, timeout: float = 10, meanwhile: Callable[[], None] = lambda: None) -> Iterator[Session]:
    """Connect to a host until the end of the context; `timeout` is in seconds. Raises as `sessions.connect` does.

    `meanwhile` is called while ssh connects.
    """
    with sessions.connect(tower, host, timeout=timeout, mend=_mend, meanwhile=meanwhile) as session:
        yield session


def _mend(session: Session) -> None:
    # Rarely needed, and `tower run` must start quickly.
    from tower.base.view import View
    from tower.install.repair import repair

    repair(session, View().say)
