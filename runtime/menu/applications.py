# SPDX-License-Identifier: Apache-2.0
"""Ask a host which graphical applications its packages have, with their icons."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

from tower.base import proc
from tower.base.errors import GarbageError, RemoteError, ValueRefusedError, printable
from tower.menu import entries, icon, png
from tower.menu.entries import Entry
from tower.menu.png import Picture
from tower.ssh.sessions import Session

MOST: Final = 200
"""The most applications of a host in the menu."""
_MOST_BYTES: Final = 10 << 20
_MOST_SECONDS: Final = 20.0
"""Seconds to spend on the pictures of a host, which takes less than one for sixty applications; then they are ours."""
_SECONDS: Final = 60.0
_NAME: Final = rb"[A-Za-z0-9_.+-]{1,200}"
_LINE: Final = re.compile(
    rb"(?P<kind>file|icon) (?P<name>%b) (?P<size>0|[1-9][0-9]{0,6})\n|gone (?P<gone>%b)\n|(?P<end>end)\n\Z" % (_NAME, _NAME)
)
_MOST_LINE: Final = 300


@dataclass(frozen=True, slots=True)
class Application:
    """An application, and its icon as a PNG file of ours."""

    entry: Entry
    icon: bytes


@dataclass(slots=True)
class HostApplications:
    """The applications of a host, and why others were left out."""

    applications: list[Application] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def find(session: Session, languages: Sequence[str] = ()) -> HostApplications:
    """Return the graphical applications of a host. Raises GarbageError, RemoteError, and as `Session.run` does."""
    found, name = HostApplications(), session.host.name
    wanted = {str(number): one for number, one in enumerate(_entries(_host(session, "entries", b""), name, languages, found))}
    if not wanted:
        return found
    lines = (f"{number} {one.argv[0]} {one.try_program or '-'} {one.icon or '-'}\n" for number, one in wanted.items())
    icons = _Icons(session.host.env.color)
    for kind, number, data in records(_host(session, "icons", "".join(lines).encode()), name):
        entry = wanted.pop(number, None)
        if entry is None:
            raise GarbageError(f"{name}: sends an icon that nobody asked for", hint="is this host still yours? See: tower audit")
        if kind == "icon":
            found.applications.append(Application(entry, icons.made(entry.name, data)))
    found.applications.sort(key=lambda one: (one.entry.name.casefold(), one.entry.id))
    return found


def _entries(data: bytes, host: str, languages: Sequence[str], found: HostApplications) -> list[Entry]:
    """Return the entries for the menu; why others are left out goes into `found`."""
    made: list[Entry] = []
    seen = set()
    for _, id_, content in records(data, host):
        if id_ in seen:
            continue  # the first one counts
        seen.add(id_)
        try:
            entry = entries.parse(id_, content, languages)
        except ValueRefusedError as error:
            found.left_out[id_] = error.message
            continue
        if entry is not None and len(made) >= MOST:
            found.left_out[id_] = f"a host has at most {MOST} applications in the menu"
        elif entry is not None:
            made.append(entry)
    return made


@dataclass(slots=True)
class _Icons:
    """Icons of one host; they have its colour."""

    colour: str
    _spent: float = 0.0
    """Seconds."""

    def made(self, name: str, data: bytes) -> bytes:
        """Return a picture in its frame, or an icon of ours in place of one that cannot be read."""
        picture = self._read(data)
        return png.encode(icon.tile(name, self.colour) if picture is None else icon.framed(picture, self.colour))

    def _read(self, data: bytes) -> Picture | None:
        if not data or self._spent > _MOST_SECONDS:
            return None
        begun = time.monotonic()
        try:
            return png.decode(data)
        except ValueRefusedError:
            return None
        finally:
            self._spent += time.monotonic() - begun


def records(data: bytes, host: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield kind, name and bytes of what applications.sh sent. Raises GarbageError if it is something else."""
    at = 0
    while True:
        match = _LINE.match(data, at, at + _MOST_LINE)
        end = match.end() + int(match["size"] or 0) if match else len(data) + 1
        if match is None or end > len(data):
            raise GarbageError(
                f"{host}: sends {data[at : at + 40]!r} in place of its menu entries",
                hint=f"try again: tower menu --refresh {host}",
            )
        if match["end"]:
            return
        yield (match["kind"] or b"gone").decode(), (match["name"] or match["gone"]).decode(), data[match.end() : end]
        at = end


def _host(session: Session, action: str, data: bytes) -> bytes:
    argv = ["sh", "-c", files("tower.menu").joinpath("applications.sh").read_text(), "sh", action]
    done: proc.Done = session.run(argv, stdin=data, timeout=_SECONDS, check=False, most=_MOST_BYTES)
    if done.status != 0:
        said = printable(done.stderr.decode(errors="replace"))[-500:].strip()
        raise RemoteError(f"{session.host.name}: its menu entries cannot be read: exit status {done.status}\n  {said}".rstrip())
    return done.stdout
