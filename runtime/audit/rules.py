# SPDX-License-Identifier: Apache-2.0
"""The firewall's rules on a machine, compared with those of its role.

The expected rules are made here, by this system's own `firewall` and tables, from the host's settings as stored on this
machine: neither the host's tables nor its claim about its role count.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import TowerError
from tower.hosts.registry import Host

FIREWALL: Final = Path("/usr/libexec/tower/firewall")
_FAMILIES: Final = ("ipv4", "ipv6")
_POLICY: Final = re.compile(r":(INPUT|OUTPUT|FORWARD) DROP\b")
_MOST: Final = 4


def expected_rules(host: Host | None) -> tuple[str, str]:
    """Return the rules of a host, or of this thin client (None): for IPv4 and IPv6. Raises ToolError if they cannot be made."""
    hint = "this needs an installed thin client"
    with tempfile.TemporaryDirectory(prefix="tower-audit-") as folder:
        config = Path(folder) / "firewall.env"
        # The tables' other settings follow from the role.
        config.write_text(f"ROLE={role_of(host)}\n", encoding="utf-8")
        values = {"FIREWALL_CONFIG": str(config)}
        made = [proc.run((FIREWALL, "render", family), timeout=30, env=values, hint=hint).stdout for family in _FAMILIES]
    return made[0].decode(), made[1].decode()


def role_of(host: Host | None) -> str:
    """Return the firewall's name for a machine's role; None is the thin client."""
    if host is None:
        return "thinclient"
    return "router" if host.env.is_router else host.env.network.name


def differences(wanted: str, found: str, family: str) -> list[str]:
    """Return the missing and the unexpected rules in words; empty if the rules are the same, in the order of each chain.

    Raises TowerError.
    """
    if not _chains(wanted):
        raise TowerError(f"{FIREWALL} gave no rules", hint="is this an installed thin client?")
    if _chains(wanted) == _chains(found):
        return []
    lines, others = _lines(wanted), _lines(found)
    faults = [f"{family}: missing: {line}" for line in lines if line not in others]
    faults += [f"{family}: unexpected: {line}" for line in others if line not in lines]
    return _shortened(faults) or [f"{family}: the rules are in another order, or repeated"]


def _shortened(faults: Sequence[str]) -> list[str]:
    more = len(faults) - _MOST
    return [*faults[:_MOST], f"and {more} more"] if more > 0 else list(faults)


def _lines(text: str) -> list[str]:
    found = []
    for line in text.splitlines():
        policy = _POLICY.match(line)
        if policy or line.startswith("-A "):
            found.append(f"{policy[1]} DROP" if policy else line.strip())
    return found


def _chains(text: str) -> dict[str, list[str]]:
    """Return the rules by chain: iptables-save prints a table's chains in an order of its own."""
    chains: dict[str, list[str]] = {}
    for line in _lines(text):
        chains.setdefault(line.split()[1] if line.startswith("-A ") else "policies", []).append(line)
    chains.get("policies", []).sort()
    return chains
