# SPDX-License-Identifier: Apache-2.0
"""Lays the files of one package into a root, and takes them away again.

A package is read once. Its files are written under temporary names beside their places, and take their places only when the
whole package has proved to be what the index says; otherwise nothing of it stays. Files of other packages are not overwritten
unless `replaces` says so, and changed configuration files are kept, the new one beside them as `.apk-new`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.apk.package import Content, TarEntry, checksum_of
from pipeline.apk.package import Package as Archive
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.errors import error
from pipeline.lab.apktool.owners import Owners
from pipeline.lab.apktool.packages import Package, dependencies
from pipeline.lab.apktool.protect import Protection

_CHUNK = 1 << 18


class Layer:
    """One package on its way into the root: its folders and files, still under temporary names."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self.folders: dict[str, str] = {}  # folder -> its M: line or nothing
        self.files: dict[str, dict[str, str]] = {}  # folder -> file -> its lines
        self.pending: list[tuple[str, Path, str]] = []  # path in the root, temporary file, checksum
        self.temporary: dict[str, tuple[Path, str]] = {}
        self.modified: set[str] = set()
        self.broken = False
        self.links = False

    def record(self, lines: str) -> str:
        """The package's record for the installed database."""
        parts = [lines]
        for folder, mode in self.folders.items():
            parts.append(f"F:{folder}{mode}")
            parts += [f"R:{name}{rest}" for name, rest in self.files.get(folder, {}).items()]
        return "\n".join(parts)


class Extractor:
    """Lays and removes packages in one root."""

    def __init__(self, database: Database, *, overlay: frozenset[str], chown: bool, overwrite: bool, clean: bool) -> None:
        self._database = database
        self._fs = database.fs
        self._overlay = overlay
        self._chown = chown
        self._overwrite = overwrite
        self._clean = clean
        self.protection = Protection(database.fs)
        self.owners = Owners(database.fs)

    def install(self, package: Package, archive: Archive, lines: str, old: Package | None) -> tuple[Layer, str]:
        """Lay the package; returns what was laid and the record for the database."""
        layer = Layer(package)
        try:
            for entry, content in archive.iter_data():
                self._take(layer, entry, content)
            self._settle(layer, archive, old)
        except BaseException:
            for _, temporary, _ in layer.pending:
                temporary.unlink(missing_ok=True)
            raise
        return layer, layer.record(lines)

    def _take(self, layer: Layer, entry: TarEntry, content: Content) -> None:
        uid, gid = self.owners.ids(entry)
        if entry.kind == "dir":
            self._folder(layer, entry, uid, gid)
            return
        folder, _, name = entry.name.rpartition("/")
        layer.folders.setdefault(folder, "")
        place = self._fs.make_folder(folder) / name
        digest = hashlib.sha1(f"{layer.package.checksum}{entry.name}".encode(), usedforsecurity=False).hexdigest()
        temporary = place.with_name(f".apk.{digest[:24]}")
        with suppress(FileNotFoundError):  # left over from a run that was killed
            temporary.unlink()
        layer.pending.append((entry.name, temporary, ""))
        mode = entry.mode
        if entry.kind == "symlink":
            temporary.symlink_to(entry.target)
            checksum = checksum_of(hashlib.sha1(entry.target.encode(), usedforsecurity=False).digest())
            mode = 0o777
            layer.links = True
        elif entry.kind == "hardlink":
            source, checksum = layer.temporary[entry.target]
            os.link(source, temporary)
        else:
            checksum = _write(temporary, entry, content)
        layer.pending[-1] = (entry.name, temporary, checksum)
        layer.temporary[entry.name] = temporary, checksum
        if entry.kind != "hardlink":
            self._attributes(temporary, entry, uid, gid)
        line = f"\na:{uid}:{gid}:{mode:o}" if (uid, gid, mode) != (0, 0, 0o644) else ""
        layer.files.setdefault(folder, {})[name] = f"{line}\nZ:{checksum}"

    def _folder(self, layer: Layer, entry: TarEntry, uid: int, gid: int) -> None:
        plain = (uid, gid, entry.mode) == (0, 0, 0o755)
        layer.folders[entry.name] = "" if plain else f"\nM:{uid}:{gid}:{entry.mode:o}"
        known = self._fs.place(entry.name)
        is_new = not known.is_symlink() and not known.is_dir()
        place = self._fs.make_folder(entry.name, entry.mode)
        if is_new or not plain:
            self._own(place, uid, gid)
            place.chmod(entry.mode)

    def _own(self, place: Path, uid: int, gid: int) -> None:
        status = place.lstat()
        if self._chown and (status.st_uid, status.st_gid) != (uid, gid):
            os.chown(place, uid, gid, follow_symlinks=False)

    def _attributes(self, place: Path, entry: TarEntry, uid: int, gid: int) -> None:
        self._own(place, uid, gid)
        if entry.kind == "file":
            place.chmod(entry.mode)
            for name, value in entry.xattrs:
                with suppress(OSError):  # the file system may not know them
                    os.setxattr(place, name, value)
        os.utime(place, (entry.mtime, entry.mtime), follow_symlinks=False)

    def _settle(self, layer: Layer, archive: Archive, old: Package | None) -> None:
        """Give every file its place, now that the package is known to be whole."""
        recorded = dict(self._database.files(old)) if old else {}
        package, owners = layer.package, self._database.owners
        for path, temporary, checksum in layer.pending:
            place = self._fs.place(path)
            owner = owners.get(path, "") if place.is_symlink() or place.exists() else ""
            if path in self._overlay and not owner:
                temporary.unlink(missing_ok=True)
            elif owner and owner != package.name and not self._replaces(layer, archive, path, owner):
                temporary.unlink(missing_ok=True)
                self._forget(layer, path)
                continue
            else:
                known = recorded if owner in ("", package.name) else self._recorded(owner)
                self._rename(path, place, temporary, checksum, known.get(path, ""))
            if owner not in ("", package.name):
                self._database.disown(owner, path)
            owners[path] = package.name
            layer.modified.add(path.rpartition("/")[0])
        if layer.links:
            self._fs.forget()  # a folder may be reached another way now

    def _recorded(self, name: str) -> dict[str, str]:
        """What another installed package laid: taking over a file that nobody changed is no reason for an `.apk-new`."""
        return dict(self._database.files(self._database.installed[name]))

    def _rename(self, path: str, place: Path, temporary: Path, checksum: str, recorded: str) -> None:
        if self.protection.keeps(path, place, recorded, checksum):
            if self._clean:
                temporary.unlink()
                return
            place = place.with_name(f"{place.name}.apk-new")
        temporary.replace(place)

    def _replaces(self, layer: Layer, archive: Archive, path: str, owner: str) -> bool:
        """Whether the package may take a file from another one; says so when it may not."""
        package, other = layer.package, self._database.installed[owner]
        mine = archive.info.replaces_priority or 0 if _mentions(archive.info.replaces, other) else -1
        theirs = int(other.field("q") or 0) if _mentions(other.field("r").split(), package) else -1
        if mine < theirs:
            return False
        if mine >= 0 or self._overwrite:
            return True
        error(f"{package.full_name}: trying to overwrite {path} owned by {other.full_name}.")
        layer.broken = True
        return False

    @staticmethod
    def _forget(layer: Layer, path: str) -> None:
        folder, _, name = path.rpartition("/")
        layer.files[folder].pop(name, None)

    def remove(self, package: Package, kept: frozenset[str], *, purge: bool) -> set[str]:
        """Take the files of a package away, but for those in `kept`; returns the folders that changed."""
        owners = self._database.owners
        modified: set[str] = set()
        for path, checksum in list(self._database.files(package)):
            if path in kept or owners.get(path) != package.name:
                continue
            del owners[path]
            place = self._fs.place(path)
            if not purge and self.protection.changed(path, place, checksum):
                continue
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                place.unlink()
            modified.add(path.rpartition("/")[0])
        return modified

    def remove_folders(self, package: Package, used: frozenset[str]) -> None:
        """Remove the folders of a package that no other has and that are empty."""
        for folder in sorted(self._database.folders(package), reverse=True):
            if folder not in used:
                place = self._fs.place(folder)
                if not place.is_symlink():
                    with suppress(OSError):
                        place.rmdir()
        self._fs.forget()


def _write(temporary: Path, entry: TarEntry, content: Content) -> str:
    digest = None if entry.checksum else hashlib.sha1(usedforsecurity=False)
    with temporary.open("xb", buffering=0) as out:
        while data := content.read(_CHUNK):
            out.write(data)
            if digest:
                digest.update(data)
    # A checksum in the header was checked while the content was read.
    return checksum_of(digest.digest() if digest else bytes.fromhex(entry.checksum))


def _mentions(replaces: Sequence[str], package: Package) -> bool:
    return any(package.provides(dep) for dep in dependencies(" ".join(replaces)))
