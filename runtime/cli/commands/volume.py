# SPDX-License-Identifier: Apache-2.0
"""`tower volume [HOST [LEVEL]]`: how loud the applications of a host are here."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tower.base.errors import ValueRefusedError
from tower.base.view import View

if TYPE_CHECKING:
    from tower.windows.loudness import Loudness

EXAMPLES: Final = """\
examples:
  tower volume              all hosts
  tower volume web 40       40 % of what its applications play
  tower volume web mute     silent, until:
  tower volume web unmute   as loud as before

It counts beside the volume that an application has of its own, and applies at once, to what is played already.
"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("host", metavar="HOST", nargs="?", help="the host (default: show all)")
    parser.add_argument("level", metavar="LEVEL", nargs="?", help="percent from 0 to 100, or mute, or unmute (default: show it)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")


def execute(args: argparse.Namespace) -> int:
    """Show or set it; return the exit status. Raises HostError, ValueRefusedError, StateError."""
    from tower.hosts.registry import tower_of_user
    from tower.windows import loudness

    tower, path = tower_of_user(), loudness.file()
    shown = [host.name for host in (tower.hosts() if args.host is None else tower.named([args.host]))]
    hosts = loudness.read(path)
    if args.level is not None:
        hosts = {**hosts, shown[0]: _changed(hosts.get(shown[0], loudness.FULL), args.level)}
        loudness.write(path, hosts)
    rows = {name: hosts.get(name, loudness.FULL) for name in shown}
    view = View(json=args.json)
    if view.json:
        view.show({name: {"percent": one.percent, "muted": one.muted} for name, one in rows.items()})
    else:
        view.show({name: f"{one.percent} %{', muted' if one.muted else ''}" for name, one in rows.items()})
    return 0


def _changed(old: Loudness, word: str) -> Loudness:
    """Return a loudness with a level that the user typed. Raises ValueRefusedError."""
    from tower.windows.loudness import WHOLE

    if word in ("mute", "unmute"):
        return replace(old, muted=word == "mute")
    if not word.isascii() or not word.isdigit() or int(word[:10]) > WHOLE:
        raise ValueRefusedError(f"{word[:40]!r} is not a volume", hint=f"a number from 0 to {WHOLE}, mute, or unmute")
    return replace(old, percent=int(word[:10]))
