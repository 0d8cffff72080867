# SPDX-License-Identifier: Apache-2.0
"""One host of a `tower install` by bundles, and what is known of it so far."""

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
    """One host, and what is known of it so far."""

    session: Session
    copy: Copy
    choice: Choice = field(default_factory=lambda: Choice((), ()))

    @property
    def host(self) -> Host:
        """Whom it is for."""
        return self.session.host

    @property
    def state(self) -> HostState:
        """What the host said."""
        return self.copy.state
