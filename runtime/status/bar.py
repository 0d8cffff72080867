# SPDX-License-Identifier: Apache-2.0
"""The hosts in the desktop's bar: lines of `tower status --json --watch` in, lines of JSON as waybar reads them out.

A host that is up has a filled circle in its own colour, one that is down an empty circle, one with a problem a warning sign.
What hosts say about themselves is never shown as markup.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Final

from tower.base.jsontext import parse_json

_SIGNS: Final = {"up": "●", "down": "○"}
_STRANGE: Final = "⚠"
_COLOR: Final = re.compile(r"#[0-9a-fA-F]{6}")
_MOST: Final = 12
"""Hosts that are named in the bar; the tooltip has all."""


def lines(said: Iterable[str]) -> Iterator[str]:
    """Yield a line for the bar for each line of `tower status`; skip lines that are invalid."""
    for line in said:
        try:
            hosts = parse_json(line.encode())["hosts"]
            yield json.dumps(_shown([dict(host) for host in hosts]), ensure_ascii=False)
        except (ValueError, KeyError, TypeError):
            continue


def _shown(hosts: list[Mapping[str, object]]) -> dict[str, str]:
    if not hosts:
        return {"text": "no hosts", "tooltip": "tower provision NAME makes one", "class": "none"}
    names = [_name(host) for host in hosts]
    more = [f"+{len(names) - _MOST}"] if len(names) > _MOST else []
    up = all(host.get("state") == "up" for host in hosts)
    return {
        "text": "  ".join([*names[:_MOST], *more]),
        "tooltip": "\n".join(map(_details, hosts)),
        "class": "up" if up else "down",
    }


def _name(host: Mapping[str, object]) -> str:
    text = f"{_SIGNS.get(str(host.get('state')), _STRANGE)} {escape(str(host['host']))}"
    color = str(host.get("color", ""))
    return f'<span color="{color}">{text}</span>' if host.get("state") == "up" and _COLOR.fullmatch(color) else text


def _details(host: Mapping[str, object]) -> str:
    words = [str(host["host"]), str(host.get("address", "")), str(host.get("network", "")), str(host.get("state", ""))]
    if host.get("reason"):
        words.append(str(host["reason"]))
    return escape("  ".join(words))


def main() -> None:
    """Read standard input until it ends, or nobody reads standard output any more."""
    try:
        for line in lines(sys.stdin):
            print(line, flush=True)
    except BrokenPipeError:
        # Python writes what is left at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
