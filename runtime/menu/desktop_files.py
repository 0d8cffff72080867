# SPDX-License-Identifier: Apache-2.0
"""Entries of hosts' applications in the menu of the desktop: files of the user's, as freedesktop.org has them.

    ~/.local/share/applications/tower-HOST.ID.desktop               what launchers read
    ~/.local/share/icons/hicolor/64x64/apps/tower-HOST.ID.png       its icon, in the colour of the host
    ~/.local/share/tower/menu.xml                                   the same as a menu of labwc

A dot ends the name of a host, which has none itself. Each entry starts `tower run`: no text of a host is run here.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from tower.base.errors import StateError, ValueRefusedError
from tower.base.files import locked, make_folders, read_file, write_file
from tower.base.refused import home_folder, in_our_words, refused
from tower.menu import entries
from tower.menu.applications import Application

_FILE: Final = re.compile(r"tower-([a-z][a-z0-9-]{0,62})\.([A-Za-z0-9][A-Za-z0-9_.+-]{0,127})\.(desktop|png)")
_OURS: Final = "X-Tower-Host"
_START: Final = ("tower", "run", "--window", "--tell")
"""What an entry starts: these words, the host, `--`, and the command on it."""
_HINT: Final = "it must be a folder that you own"


@dataclass(frozen=True, slots=True)
class MenuEntry:
    """An entry that is in the menu."""

    host: str
    id: str
    name: str
    argv: tuple[str, ...]
    """The command that it starts on this machine."""
    icon: Path

    @property
    def program(self) -> str:
        """The program of the host that it starts, without its folder; empty if the command is not as we write it."""
        command = self.argv[len(_START) + 2 :] if self.argv[: len(_START)] == _START else ()
        return Path(command[0]).name if command else ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a refresh did to the entries of a host, or would do: their IDs."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Menu:
    """The user's menu; `folder` is ~/.local/share."""

    folder: Path

    @property
    def _entries(self) -> Path:
        return self.folder / "applications"

    @property
    def _icons(self) -> Path:
        return self.folder / "icons" / "hicolor" / "64x64" / "apps"

    def shown(self, host: str = "") -> list[MenuEntry]:
        """Return the entries of a host, or of all. Raises StateError."""
        return [one for name, id_ in self._own(host) if (one := self._read(name, id_)) is not None]

    def hosts(self) -> list[str]:
        """Return the hosts that have entries. Raises StateError."""
        return sorted({name for name, _ in self._own("")})

    def put(self, host: str, applications: Sequence[Application], *, dry_run: bool = False) -> Change:
        """Make the entries of a host those of its applications. Raises StateError."""
        own = [one for one in applications if not self._is_foreign(host, one.entry.id)]
        wanted = {one.entry.id: (self._dump(host, one), one.icon) for one in own}
        if dry_run:
            return self._compare(host, wanted)
        with self._locked():
            change = self._compare(host, wanted)
            for id_ in change.removed:
                self._remove(host, id_)
            for id_ in (*change.added, *change.changed):
                entry, icon = wanted[id_]
                # The icon first: an entry that can be seen has one.
                write_file(self._icon(host, id_), icon, mode=0o644)
                write_file(self._entry(host, id_), entry, mode=0o644)
            self._write_labwc()
        return change

    def forget(self, host: str) -> tuple[str, ...]:
        """Remove all entries of a host; return their IDs. Raises StateError."""
        return self.put(host, ()).removed if self._own(host) else ()

    def _entry(self, host: str, id_: str) -> Path:
        return self._entries / f"tower-{host}.{id_}.desktop"

    def _icon(self, host: str, id_: str) -> Path:
        return self._icons / f"tower-{host}.{id_}.png"

    def _own(self, host: str) -> list[tuple[str, str]]:
        """Return host and ID of each entry of ours, or of an icon that lost its entry."""
        found = set()
        for folder in (self._entries, self._icons):
            try:
                names = [path.name for path in folder.iterdir()]
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise refused(error, folder, hint=_HINT) from error
            matches = [match for name in names if (match := _FILE.fullmatch(name)) and host in ("", match[1])]
            found |= {(match[1], match[2]) for match in matches}
        return sorted(one for one in found if not self._is_foreign(*one))

    def _is_foreign(self, host: str, id_: str) -> bool:
        """Return whether a file that only looks like one of ours is in its place."""
        path = self._entry(host, id_)
        return path.is_symlink() or (path.exists() and f"\n{_OURS}={host}\n".encode() not in self._bytes(path))

    def _bytes(self, path: Path) -> bytes:
        try:
            return read_file(path) if path.is_file() else b""
        except StateError:
            return b""

    def _read(self, host: str, id_: str) -> MenuEntry | None:
        try:
            entry = entries.parse(id_, self._bytes(self._entry(host, id_)), most_name=200)
        except ValueRefusedError:
            return None  # somebody changed it; the next refresh puts it right
        return MenuEntry(host, id_, entry.name, entry.argv, self._icon(host, id_)) if entry is not None else None

    def _compare(self, host: str, wanted: Mapping[str, tuple[bytes, bytes]]) -> Change:
        here = [id_ for _, id_ in self._own(host)]
        found = {id_: (self._bytes(self._entry(host, id_)), self._bytes(self._icon(host, id_))) for id_ in here}
        same = [id_ for id_ in here if wanted.get(id_) == found[id_]]
        return Change(
            added=tuple(id_ for id_ in wanted if id_ not in here),
            changed=tuple(id_ for id_ in wanted if id_ in here and id_ not in same),
            removed=tuple(id_ for id_ in here if id_ not in wanted),
            kept=tuple(same),
        )

    def _dump(self, host: str, one: Application) -> bytes:
        entry = one.entry
        values = {
            "Type": "Application",
            "Version": "1.5",
            "Name": f"{entry.name} ({host})",
            "Comment": f"An application of the host {host}",
            "Exec": entries.quoted((*_START, host, "--", *entry.argv)),
            "Icon": os.fspath(self._icon(host, entry.id)),
            "Terminal": "false",
            "Categories": "".join(f"{word};" for word in entry.categories),
            _OURS: host,
        }
        if not values["Icon"].isprintable():
            values["Icon"] = self._icon(host, entry.id).stem
        return entries.dump({key: value for key, value in values.items() if value})

    def _write_labwc(self) -> None:
        write_file(self.folder / "tower" / "menu.xml", labwc_menu(self.shown()), mode=0o644)

    def _remove(self, host: str, id_: str) -> None:
        for path in (self._entry(host, id_), self._icon(host, id_)):
            with in_our_words(path, hint=_HINT):
                path.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folders, and hold the lock for changes."""
        own = self.folder / "tower"
        with in_our_words(hint=_HINT):
            for folder in (self._entries, self._icons, own):
                make_folders(folder)
        with locked(own / ".lock"):
            yield


def menu_of_user() -> Menu:
    """Return the menu of this user."""
    return Menu(home_folder() / ".local" / "share")


def labwc_menu(shown: Sequence[MenuEntry]) -> bytes:
    """Return entries as what labwc shows in place of a menu that a program makes."""
    lines, host = [], ""
    for one in sorted(shown, key=lambda one: (one.host, one.name.casefold(), one.id)):
        if one.host != host:
            host = one.host
            lines.append(f'  <separator label="{escape(host)}" />')
        name, icon, command = map(escape, (one.name, os.fspath(one.icon), shlex.join(one.argv)))
        lines.append(f'  <item label="{name}" icon="{icon}"><action name="Execute" command="{command}" /></item>')
    lines = lines or ['  <item label="None yet: tower menu --refresh" />']
    return "\n".join(["<openbox_pipe_menu>", *lines, "</openbox_pipe_menu>", ""]).encode(errors="replace")
