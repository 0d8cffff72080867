# SPDX-License-Identifier: Apache-2.0
"""Checks on the thin client itself: who may read the keys, ssh's settings, listeners, forwarding."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tower.audit import listeners, rules
from tower.audit.checks import THINCLIENT, Check, judged, not_tried
from tower.base import proc
from tower.base.errors import TowerError
from tower.hosts.registry import USER_KEY, Host, Tower
from tower.hosts.stanza import SETTINGS

_FORWARDS: Final = ("localforward", "remoteforward", "dynamicforward")
_SAVE: Final = ("sh", "-c", 'for table in raw mangle nat filter; do "$0" -t "$table" || exit; done')


def check_here(tower: Tower, hosts: tuple[Host, ...]) -> list[Check]:
    """Return all checks that need no host."""
    return [files(tower), *(client(tower, host) for host in hosts), listening(), forwarding(), firewall()]


def files(tower: Tower) -> Check:
    """Check that only its owner can reach `~/.local/tower`, and only its owner can change ssh's configuration."""
    try:
        faults = list(_open_files(tower))
    except OSError as error:
        return not_tried("files", THINCLIENT, f"{error.filename}: {error.strerror}")
    return judged("files", THINCLIENT, faults, well=f"only you can read {tower.folder} and the files in it")


def _open_files(tower: Tower) -> Iterator[str]:
    for path in (tower.folder, *sorted(tower.folder.rglob("*"))):
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            yield f"{path}: is a link, it should be a file of its own"
        elif stat.S_ISSOCK(status.st_mode):
            continue
        elif status.st_mode & 0o077:
            yield f"{path}: mode {stat.S_IMODE(status.st_mode):04o}, others have access to it"
        if status.st_uid != os.getuid():
            yield f"{path}: belongs to user {status.st_uid}, not to you"
    for path in (tower.ssh_config, tower.ssh_config.parent, *tower.folder.parents):
        if path.exists() and path.stat().st_mode & 0o022 and not path.stat().st_mode & stat.S_ISVTX:
            yield f"{path}: mode {stat.S_IMODE(path.stat().st_mode):04o}, others can change it"


def client(tower: Tower, host: Host) -> Check:
    """Check what the user's `ssh <host>` would do."""
    if not tower.ssh_config.exists():
        return judged("ssh client", THINCLIENT, [f"there is no {tower.ssh_config}: ssh knows no host"], target=host.name)
    try:
        wanted, found = _settings(tower.config, host), _settings(tower.ssh_config, host)
    except TowerError as error:
        return not_tried("ssh client", THINCLIENT, error.message, target=host.name)
    own = {
        "hostname": str(host.env.address),
        "user": host.env.username,
        "identityfile": str(host.file(USER_KEY)),
        "userknownhostsfile": str(tower.known_hosts),
        "hostkeyalias": host.name,
    }
    wanted |= {name: [value] for name, value in own.items()}
    # Keys that the user's own configuration names for all machines come after ours.
    found["identityfile"] = found.get("identityfile", [])[:1]
    faults = [
        f"{name} is {' '.join(found.get(name, ['not set']))}, not {' '.join(wanted.get(name, ['set']))}"
        for name in (*own, *(word.lower() for word in SETTINGS), *_FORWARDS)
        if found.get(name) != wanted.get(name)
    ]
    return judged("ssh client", THINCLIENT, faults, target=host.name, well="known host, one key, nothing forwarded")


def _settings(config: Path, host: Host) -> dict[str, list[str]]:
    """Return ssh's settings for a host. Raises ToolError."""
    argv = ("ssh", "-G", "-F", config, "--", host.name)
    found: dict[str, list[str]] = {}
    for line in proc.run(argv, timeout=20, missing="install openssh-client").stdout.decode(errors="replace").splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), []).append(value)
    return found


def listening() -> Check:
    """Check that nothing listens on the thin client towards a network."""
    try:
        found = listeners.listeners_here()
    except (OSError, ValueError) as error:
        return not_tried("listeners", THINCLIENT, f"/proc/net: {error}")
    return judged("listeners", THINCLIENT, [f"listens on {one}" for one in found], well="nothing listens but on loopback")


def forwarding() -> Check:
    """Check that the thin client does not forward between the networks."""
    faults = []
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        path = Path("/proc/sys/net") / name
        try:
            if path.exists() and path.read_text(encoding="ascii").strip() != "0":
                faults.append(f"{path} is not 0")
        except OSError as error:
            return not_tried("forwarding", THINCLIENT, f"{path}: {error.strerror}")
    return judged("forwarding", THINCLIENT, faults, well="forwards nothing")


def firewall() -> Check:
    """Check that the firewall's rules are those of a thin client."""
    try:
        wanted = rules.expected_rules(None)
        faults = []
        for family, program, expected in zip(("IPv4", "IPv6"), ("iptables-save", "ip6tables-save"), wanted, strict=True):
            found = proc.run((*proc.as_root_here(), *_SAVE, program), timeout=30).stdout.decode(errors="replace")
            faults += rules.differences(expected, found, family)
    except TowerError as error:
        return not_tried("firewall", THINCLIENT, error.message)
    return judged("firewall", THINCLIENT, faults, well="the rules are those of a thin client")
