# SPDX-License-Identifier: Apache-2.0
"""Explain why a node is built again: compare its key document with that of its last build.

The store keeps the document beside the artifact; build/last/ keeps, for every node, the document that was last
used and the one before, with the entries of all source trees, so that a changed file can be named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tower.base.jsontext import parse_json
from tower.base.regular import open_regular, read_regular

from pipeline.base.canonical import JsonValue, canonical_json
from pipeline.base.paths import Paths
from pipeline.plan.keys import Keyed
from pipeline.plan.nodes import Node

_MISSING = object()
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A key document of an earlier run, with its source trees."""

    key: str
    document: Mapping[str, Any]
    trees: Mapping[str, Any]


def _place(paths: Paths, node: Node) -> Path:
    return paths.last / f"{node.name.replace(':', '-')}.json"


def remember(paths: Paths, node: Node, keyed: Keyed) -> None:
    """Note `keyed` as the last one that `node` was built or taken from; the previous one stays beside it."""
    place = _place(paths, node)
    if _key_in(place) == keyed.key:
        return
    before, _ = recall(paths, node)
    rows: list[JsonValue] = [
        {"key": keyed.key, "document": keyed.document, "trees": {path: list(rows) for path, rows in keyed.trees.items()}}
    ]
    if before is not None:
        rows.append({"key": before.key, "document": dict(before.document), "trees": dict(before.trees)})
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_suffix(f".{keyed.key[:12]}")
    # The key has the first line to itself, so that a run with nothing to do reads nothing else.
    temporary.write_bytes(keyed.key.encode() + b"\n" + canonical_json(rows))
    temporary.replace(place)


def _key_in(place: Path) -> str:
    try:
        with open_regular(place) as stream:
            return stream.read(64).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def recall(paths: Paths, node: Node) -> tuple[Snapshot | None, Snapshot | None]:
    """Return the last snapshot of `node` and the one before it; None for a file that cannot be read."""
    try:
        rows = parse_json(read_regular(_place(paths, node)).partition(b"\n")[2])
        found = [Snapshot(str(row["key"]), dict(row["document"]), dict(row["trees"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return None, None
    return (found[0] if found else None), (found[1] if len(found) > 1 else None)


def differences(old: Snapshot, new: Snapshot, inputs: Mapping[str, str]) -> list[str]:
    """List the differences from `old` to `new`, a line each; `inputs` maps an input to the node that makes it."""
    lines: list[str] = []
    for part in sorted({*old.document, *new.document}):
        before, after = old.document.get(part, _MISSING), new.document.get(part, _MISSING)
        if before == after:
            continue
        if part == "sources":
            lines.extend(_changed_sources(old, new))
        elif part == "inputs" and isinstance(before, dict) and isinstance(after, dict):
            for name in sorted({*before, *after}):
                if before.get(name) != after.get(name):
                    lines.append(f"input {name}: {_verb(name in before, name in after)} ({inputs.get(name, 'no longer used')})")
        else:
            lines.extend(_shortened(_changed_values(part, before, after), part))
    return lines


def snapshot(keyed: Keyed) -> Snapshot:
    """Return the present key as a snapshot."""
    return Snapshot(keyed.key, keyed.document, keyed.trees)


def _verb(before: bool, after: bool) -> str:
    return "changed" if before and after else "new" if after else "gone"


def _changed_sources(old: Snapshot, new: Snapshot) -> Iterator[str]:
    for path in sorted({*old.trees, *new.trees}):
        before = {str(row[0]): row[1:] for row in old.trees.get(path, [])}
        after = {str(row[0]): row[1:] for row in new.trees.get(path, [])}
        for name in sorted({*before, *after}):
            was, now = before.get(name), after.get(name)
            if was == now:
                continue
            shown = path if name == "." else f"{path}/{name}"
            what = _verb(was is not None, now is not None)
            if was is not None and now is not None and was[0] == now[0] and was[2] == now[2]:
                what = "is executable now" if now[1] else "is no longer executable"
            yield f"{shown}: {what}"


def _changed_values(where: str, before: Any, after: Any) -> list[str]:
    """Yield the leaves in which two JSON values differ; lists are compared as sets, lists of named things by name."""
    before, after = _by_name(before), _by_name(after)
    if isinstance(before, dict) and isinstance(after, dict):
        lines: list[str] = []
        for name in sorted({*before, *after}):
            was, now = before.get(name, _MISSING), after.get(name, _MISSING)
            if was != now:
                lines.extend(_changed_values(f"{where}: {name}", was, now))
        return lines
    if isinstance(before, list) and isinstance(after, list):
        gone, new = [item for item in before if item not in after], [item for item in after if item not in before]
        lines = [f"{where}: {_short(item)} is new" for item in new] + [f"{where}: {_short(item)} is gone" for item in gone]
        return lines or [f"{where}: the order changed"]
    if before is _MISSING or after is _MISSING:
        return [f"{where}: {'is new' if before is _MISSING else 'is gone'}"]
    return [f"{where}: {_short(before)} -> {_short(after)}"]


def _by_name(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value):
        return {str(item["name"]): item for item in value}
    return value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    is_digest = len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)
    return text[:12] if is_digest else text if len(text) <= 60 else f"{text[:57]}..."


def _shortened(lines: list[str], where: str) -> list[str]:
    more = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"{where}: and {more} more"] if more > 0 else lines
