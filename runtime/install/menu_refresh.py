# SPDX-License-Identifier: Apache-2.0
"""The menu of the desktop follows what is installed on hosts."""

from __future__ import annotations

import os
from collections.abc import Iterable

from tower.base.errors import StoppedError, TowerError
from tower.base.names import THIN_CLIENT, parse_host_name
from tower.base.refused import OURS, ours
from tower.base.view import View
from tower.hosts.registry import Host, Tower
from tower.install.connection import connect
from tower.menu import applications
from tower.menu.desktop_files import Change, menu_of_user
from tower.menu.entries import languages_of


def refresh(tower: Tower, host: Host, view: View, *, dry_run: bool = False, timeout: float = 10) -> Change:
    """Ask a host for its applications, and make its entries in the menu those. Raises a TowerError."""
    with connect(tower, host, timeout=timeout) as session:
        found = applications.find(session, _languages())
    for id_, why in found.left_out.items():
        view.say(f"{host.name}: {id_}.desktop is left out: {why}")
    return menu_of_user().put(host.name, found.applications, dry_run=dry_run)


def refresh_after(tower: Tower, names: Iterable[str], view: View) -> None:
    """Refresh the entries of hosts on which packages were installed. Trouble with that is said, and is no error."""
    for name in names:
        if name == THIN_CLIENT:
            continue
        try:
            change = refresh(tower, tower.host(parse_host_name(name)), View())
        except StoppedError:
            raise
        except (TowerError, *OURS) as caught:
            view.say(f"{name}: the menu was not refreshed: {ours(caught).message}\n  hint: tower menu --refresh {name}")
        else:
            if change.added:
                view.say(f"{name}: new in the menu: {', '.join(change.added)}")


def _languages() -> tuple[str, ...]:
    found = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return languages_of(next(filter(None, found), ""))
