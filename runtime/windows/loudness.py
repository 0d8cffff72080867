# SPDX-License-Identifier: Apache-2.0
"""How loud a host's applications are: a volume and a mute for each host, in ~/.local/tower/sound.json.

They count beside what an application sets for itself, and at once, for what is played already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.base.errors import StateError, ValueRefusedError
from tower.base.files import look, make_folder, read_file, write_file
from tower.base.jsontext import parse_json
from tower.base.names import parse_host_name
from tower.base.refused import home_folder

WHOLE: Final = 100
_MOST_HOSTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Loudness:
    """A host's volume in percent, from 0 to 100, and whether it is muted."""

    percent: int = WHOLE
    muted: bool = False


FULL: Final = Loudness()


def file() -> Path:
    """Return the path of the settings. Raises StateError if the user has no home."""
    return home_folder() / ".local" / "tower" / "sound.json"


def read(path: Path) -> Mapping[str, Loudness]:
    """Return the settings of the hosts that have their own. Raises StateError if the file is damaged."""
    if look(path) is None:
        return {}
    try:
        return _parsed(parse_json(read_file(path)))
    except (ValueError, ValueRefusedError) as error:
        raise StateError(f"{path}: {error.args[0]}", hint=f"remove it, and all hosts are at {WHOLE} %: rm {path}") from None


def write(path: Path, hosts: Mapping[str, Loudness]) -> None:
    """Write the settings. Raises StateError."""
    make_folder(path.parent)
    rows = {name: {"percent": one.percent, "muted": one.muted} for name, one in sorted(hosts.items()) if one != FULL}
    write_file(path, json.dumps({"version": 1, "hosts": rows}, indent=1).encode() + b"\n")


def forget(path: Path, host: str) -> None:
    """Remove the setting of a host. Raises StateError."""
    hosts = read(path)
    if host in hosts:
        write(path, {name: one for name, one in hosts.items() if name != host})


def _parsed(found: object) -> Mapping[str, Loudness]:
    """Return the settings in a JSON value. Raises ValueError, ValueRefusedError."""
    if not isinstance(found, dict) or set(found) != {"version", "hosts"}:
        raise ValueError("must be an object with version and hosts")
    if found["version"] != 1 or isinstance(found["version"], bool):
        raise ValueError("has another version than 1")
    if not isinstance(found["hosts"], dict) or len(found["hosts"]) > _MOST_HOSTS:
        raise ValueError(f"hosts must be an object of at most {_MOST_HOSTS}")
    made: dict[str, Loudness] = {}
    for name, row in found["hosts"].items():
        if not isinstance(row, dict) or set(row) != {"percent", "muted"} or not isinstance(row["muted"], bool):
            raise ValueError("each of hosts must be an object with percent and muted")
        percent = row["percent"]
        if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= WHOLE:
            raise ValueError(f"percent must be a number from 0 to {WHOLE}")
        made[parse_host_name(name)] = Loudness(percent, row["muted"])
    return made


@dataclass(slots=True)
class Knob:
    """The loudness of one host as the file has it now. While that is damaged, the last one counts."""

    path: Path
    host: str
    _mark: tuple[int, int] | None = None
    _last: Loudness = field(default=FULL)

    def now(self) -> Loudness:
        """Return it; the file is read only if it has changed."""
        try:
            found = self.path.stat()
            mark = (found.st_mtime_ns, found.st_ino)
        except OSError:
            mark = None
        if mark != self._mark:
            self._mark = mark
            with suppress(StateError):
                self._last = read(self.path).get(self.host, FULL)
        return self._last
