# SPDX-License-Identifier: Apache-2.0
"""What may cross by the clipboard: the user's policy, in ~/.local/tower/clipboard/policy.json.

A pair of two machines, in one direction, has a rule: off, ask or on. Those that have none of their own follow the default: the
thin client and a host exchange; from one host to another, only what the user sends; from an offline host to an online one,
the user is asked as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from tower.base.errors import StateError, ValueRefusedError
from tower.base.files import look, make_folder, read_file, write_file
from tower.base.jsontext import parse_json
from tower.base.names import THIN_CLIENT, parse_host_name
from tower.base.refused import home_folder

CLEAR: Final = 300
"""Seconds after which a content is cleared, unless the user says otherwise."""
MOST_CLEAR: Final = 7 * 86400
_MOST_PAIRS: Final = 10_000
_HINT: Final = "for the default: tower clipboard policy default"


class Rule(StrEnum):
    """Whether contents pass."""

    OFF = "off"
    ASK = "ask"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Policy:
    """The user's policy."""

    share_all: bool = False
    """Whether all machines share one clipboard, whichever window has the keyboard."""
    clear: int = CLEAR
    """Seconds after which a content is cleared; 0: never."""
    pairs: Mapping[tuple[str, str], Rule] = field(default_factory=dict)
    """The rules of pairs that have one of their own, by origin and target."""

    def rule(self, origin: str, target: str, *, sent: bool = False, leaves: bool = False) -> Rule:
        """Return the rule for one transfer.

        `sent` tells whether the user said so for this one; `leaves`, whether it goes from an offline host to an online one.
        """
        own = self.pairs.get((origin, target))
        if own is not None:
            return own
        if self.share_all or origin == target or THIN_CLIENT in (origin, target):
            return Rule.ON
        if not sent:
            return Rule.OFF
        return Rule.ASK if leaves else Rule.ON


def folder() -> Path:
    """Return the folder with all that is kept about the clipboard. Raises StateError if the user has no home."""
    return home_folder() / ".local" / "tower" / "clipboard"


def parse_machine(text: str) -> str:
    """Return the name of a host, or that of the thin client. Raises ValueRefusedError."""
    return text if text == THIN_CLIENT else parse_host_name(text)


def read(place: Path) -> Policy:
    """Return the policy that a folder has. Raises StateError if its file is damaged."""
    path = place / "policy.json"
    if look(path) is None:
        return Policy()
    try:
        return _policy(parse_json(read_file(path)))
    except (ValueError, ValueRefusedError) as error:
        raise StateError(f"{path}: {error.args[0]}", hint=_HINT) from None


def write(place: Path, policy: Policy) -> None:
    """Write the policy. Raises StateError."""
    make_folder(place)
    pairs = [{"from": origin, "to": target, "rule": rule} for (origin, target), rule in sorted(policy.pairs.items())]
    row = {"version": 1, "share_all": policy.share_all, "clear_seconds": policy.clear, "pairs": pairs}
    write_file(place / "policy.json", json.dumps(row, indent=1).encode() + b"\n")


def forget(place: Path, host: str) -> None:
    """Remove the rules of a host, so that another one of its name does not get them. Raises StateError."""
    old = read(place)
    pairs = {pair: rule for pair, rule in old.pairs.items() if host not in pair}
    if len(pairs) < len(old.pairs):
        write(place, replace(old, pairs=pairs))


def _policy(found: object) -> Policy:
    """Return the policy in a JSON value. Raises ValueError, ValueRefusedError."""
    if not isinstance(found, dict) or set(found) != {"version", "share_all", "clear_seconds", "pairs"}:
        raise ValueError("must be an object with version, share_all, clear_seconds and pairs")
    share, clear, rows = found["share_all"], found["clear_seconds"], found["pairs"]
    if found["version"] != 1 or isinstance(found["version"], bool):
        raise ValueError("has another version than 1")
    if share is not True and share is not False:
        raise ValueError("share_all must be true or false")
    if isinstance(clear, bool) or not isinstance(clear, int) or not 0 <= clear <= MOST_CLEAR:
        raise ValueError(f"clear_seconds must be a number from 0 to {MOST_CLEAR}")
    if not isinstance(rows, list) or len(rows) > _MOST_PAIRS:
        raise ValueError(f"pairs must be a list of at most {_MOST_PAIRS}")
    pairs: dict[tuple[str, str], Rule] = {}
    for row in rows:
        texts = row.values() if isinstance(row, dict) and set(row) == {"from", "to", "rule"} else ()
        if not texts or not all(isinstance(one, str) for one in texts):
            raise ValueError("each of pairs must be an object with the texts from, to and rule")
        if row["rule"] not in tuple(Rule):
            raise ValueError(f"{row['rule'][:40]!r} is not a rule: off, ask or on")
        pair = parse_machine(row["from"]), parse_machine(row["to"])
        if pair in pairs:
            raise ValueError(f"has two rules from {pair[0]} to {pair[1]}")
        pairs[pair] = Rule(row["rule"])
    return Policy(share, clear, pairs)
