# SPDX-License-Identifier: Apache-2.0
"""The list of what crossed by the clipboard, in ~/.local/tower/clipboard/log: when, from where to where, of which kind and size.

It never has a content, nor anything that is computed from one. It has a limit: the older half goes when the file is full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tower.base.errors import StateError
from tower.base.files import give, locked, look, make_folder, read_file, write_file
from tower.base.jsontext import parse_json
from tower.base.refused import in_our_words

MOST: Final = 1 << 20
"""The most bytes of the file."""
_FIELDS: Final = ("time", "origin", "target", "kind", "size", "how")
_HOW: Final = ("window", "sent", "asked", "shared", "too large", "unfit")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A transfer, or one that did not take place."""

    time: str
    origin: str
    target: str
    kind: str
    size: int
    how: str
    """window: it had the keyboard; sent or asked: the user said so; shared: by the policy; too large, unfit: it did not pass."""

    def row(self) -> dict[str, object]:
        """Return the line for `--json`."""
        found = asdict(self)
        return {"time": self.time, "from": found.pop("origin"), "to": found.pop("target"), **found}


def now() -> str:
    """Return the time as lines have it, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def add(place: Path, entry: Transfer) -> None:
    """Add a line. Raises StateError."""
    make_folder(place)
    path = place / "log"
    line = json.dumps(asdict(entry)).encode() + b"\n"
    with locked(place / ".log.lock"), in_our_words(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            give(handle, path)
            size = os.fstat(handle).st_size
            # The last line may have come incomplete, by a power failure: it is dropped.
            if size and os.pread(handle, 1, size - 1) != b"\n":
                tail = os.pread(handle, MOST, max(0, size - MOST))
                os.ftruncate(handle, size - len(tail) + tail.rfind(b"\n") + 1)
            if size + len(line) <= MOST:
                os.write(handle, line)
                return
        finally:
            os.close(handle)
        old = read_file(path, most=2 * MOST)
        write_file(path, old[old.find(b"\n", len(old) // 2) + 1 :] + line)


def read(place: Path) -> list[Transfer]:
    """Return all lines, the oldest first. Raises StateError if one of them is none of ours."""
    path = place / "log"
    if look(path) is None:
        return []
    data = read_file(path, most=2 * MOST)
    return list(_entries(path, data[: data.rfind(b"\n") + 1].splitlines()))


def _entries(path: Path, lines: list[bytes]) -> Iterator[Transfer]:
    for number, line in enumerate(lines, 1):
        try:
            found = parse_json(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or not _is_entry(found):
            raise StateError(f"{path}: line {number} is not a transfer", hint=f"it is damaged; begin a new one: rm {path}")
        yield Transfer(**found)


def _is_entry(found: dict[str, object]) -> bool:
    if tuple(found) != _FIELDS or found["how"] not in _HOW:
        return False
    size = found["size"]
    texts = [found[name] for name in _FIELDS if name != "size"]
    return isinstance(size, int) and not isinstance(size, bool) and size >= 0 and all(isinstance(one, str) for one in texts)
