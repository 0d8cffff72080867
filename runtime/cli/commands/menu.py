# SPDX-License-Identifier: Apache-2.0
"""`tower menu [--refresh] [HOST...]`: the hosts' applications in the menu of the desktop."""

from __future__ import annotations

import argparse
from typing import Final

from tower.base.errors import StoppedError, TowerError
from tower.base.names import seconds
from tower.base.view import View
from tower.hosts.registry import tower_of_user
from tower.install.menu_refresh import refresh
from tower.menu.desktop_files import Change, MenuEntry, menu_of_user

EXAMPLES: Final = """\
examples:
  tower menu                       the applications of all hosts in the menu
  tower menu web --json
  tower menu --refresh             ask all hosts for theirs
  tower menu --refresh web
  tower menu --refresh --dry-run   show what would change

`tower install` and `tower upgrade` refresh a host's entries by themselves. Entries are files of the user's,
~/.local/share/applications/tower-HOST.*.desktop; each starts `tower run --window HOST`.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--refresh", action="store_true", help="ask the hosts, and change the menu to what they have")
    parser.add_argument("--dry-run", action="store_true", help="with --refresh: show what would change, change nothing")
    parser.add_argument("--timeout", type=seconds, default=10, metavar="SECONDS", help="to connect (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.add_argument("hosts", metavar="HOST", nargs="*", help="the hosts (default: all)")


def execute(args: argparse.Namespace) -> int:
    """Show the menu, or refresh it; return the exit status."""
    view = View(json=args.json)
    if args.refresh:
        return _refresh(args, view)
    hosts, menu = tower_of_user().named(args.hosts), menu_of_user()
    shown = {host.name: menu.shown(host.name) for host in hosts}
    if args.json:
        view.show({host: [_row(one) for one in found] for host, found in shown.items()})
        return 0
    view.show({host: ", ".join(one.name.removesuffix(f" ({host})") for one in found) or "none" for host, found in shown.items()})
    return 0


def _row(one: MenuEntry) -> dict[str, object]:
    return {"id": one.id, "name": one.name, "command": list(one.argv)}


def _refresh(args: argparse.Namespace, view: View) -> int:
    """Refresh all hosts that answer. Raises the error of the first one that does not."""
    tower = tower_of_user()
    rows: dict[str, object] = {}
    problems: list[TowerError] = []
    for host in tower.named(args.hosts):
        try:
            change = refresh(tower, host, view, dry_run=args.dry_run, timeout=args.timeout)
        except StoppedError:
            raise
        except TowerError as error:
            problems.append(error)
            rows[host.name] = {"error": error.message} if args.json else "not refreshed: its entries stay"
        else:
            rows[host.name] = _json(change) if args.json else _text(change)
    menu = menu_of_user()
    for gone in set(menu.hosts()) - {path.name for path in (tower.folder / "hosts").glob("*")}:
        change = menu.put(gone, (), dry_run=args.dry_run)
        rows[gone] = _json(change) if args.json else _text(change)
    view.show(rows)
    view.raise_first(problems)
    return 0


def _json(change: Change) -> dict[str, list[str]]:
    return {
        "added": list(change.added), "changed": list(change.changed), "removed": list(change.removed), "kept": list(change.kept),
    }  # fmt: skip


def _text(change: Change) -> str:
    parts = (("added", change.added), ("changed", change.changed), ("removed", change.removed))
    said = [f"{word}: {', '.join(ids)}" for word, ids in parts if ids]
    count = len(change.added) + len(change.changed) + len(change.kept)
    return "; ".join([f"{count} in the menu", *said])
