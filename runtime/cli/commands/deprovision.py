# SPDX-License-Identifier: Apache-2.0
"""`tower deprovision NAME`: forget a host and its keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from tower.base.errors import HostError, StoppedError, TowerError
from tower.base.names import ROUTER, parse_host_name
from tower.base.refused import OURS, ours
from tower.base.view import View
from tower.clipboard import policy
from tower.hosts.registry import Tower, tower_of_user
from tower.menu.desktop_files import menu_of_user
from tower.windows import loudness

EXAMPLES: Final = """\
examples:
  tower deprovision web
  tower deprovision web --yes      without asking, for scripts

The host's own disk is not touched. Without its keys, which are removed here, nobody can log in to it.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="the host")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Remove the host, unless others need it; return the exit status."""
    view, tower = View(json=args.json), tower_of_user()
    name = parse_host_name(args.name)
    if not tower.has(name):
        tower.host(name)
    if name == ROUTER:
        _check_router(tower)
    view.confirm(f"{name} and its keys will be forgotten; nobody can log in to it. Go on?", yes=args.yes)
    tower.remove(name)
    _forget("entries in the menu stay", name, view, lambda: menu_of_user().forget(name), "tower menu --refresh")
    _forget("rules of the clipboard stay", name, view, lambda: policy.forget(policy.folder(), name))
    _forget("volume stays", name, view, lambda: loudness.forget(loudness.file(), name))
    view.show({"host": name, "state": "forgotten"})
    return 0


def _forget(what: str, name: str, view: View, act: Callable[[], object], hint: str = "") -> None:
    """Remove what another host of this name must not get. Trouble with that is said, and is no error: the host is forgotten."""
    try:
        act()
    except StoppedError:
        raise
    except (TowerError, *OURS) as caught:
        error = ours(caught)
        view.say(f"{name}: its {what}: {error.message}\n  hint: {hint or error.hint}")


def _check_router(tower: Tower) -> None:
    others = [host.name for host in tower.hosts(but=ROUTER) if host.env.online]  # a damaged one can be removed, too
    if others:
        raise HostError(
            f"router: {', '.join(others)} reach the Internet through it", hint=f"first: tower deprovision {others[0]}"
        )
