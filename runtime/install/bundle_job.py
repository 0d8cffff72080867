# SPDX-License-Identifier: Apache-2.0
"""One host of a `tower install` with bundles, and its state so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tower.hosts.registry import Host
from tower.install.choose import Choice, Copy
from tower.install.repository import HostState

if TYPE_CHECKING:
    from tower.ssh.sessions import Session


@dataclass(slots=True)
class BundleJob:
    """One host, and its state so far."""

    session: Session
    copy: Copy
    choice: Choice = field(default_factory=lambda: Choice((), ()))

    @property
    def host(self) -> Host:
        """The host that it is for."""
        return self.session.host

    @property
    def state(self) -> HostState:
        """The host's description of its packages."""
        return self.copy.state
