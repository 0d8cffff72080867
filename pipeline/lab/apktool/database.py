# SPDX-License-Identifier: Apache-2.0
"""What a root holds: etc/apk/world and arch, and lib/apk/db with installed packages, scripts and triggers.

The formats are Alpine's. Records of packages that do not change are written back as they were read. Each file is written
whole or not at all, and only after the packages are in place, so an interrupted run can be repeated.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.apk.pkginfo import Dependency
from pipeline.apk.tarstream import BLOCK, TarEntry, read_tar
from pipeline.apk.writer import dump_header
from pipeline.lab.apktool.errors import ApkError
from pipeline.lab.apktool.packages import Package, Universe, dependencies
from pipeline.lab.apktool.rootfs import RootFs

_MACHINES = {"armv7l": "armv7", "armv6l": "armhf", "i686": "x86", "i586": "x86", "arm64": "aarch64"}
_DB = "lib/apk/db"
_DEVICES = (
    ("null", 0o666, 1, 3), ("zero", 0o666, 1, 5), ("random", 0o666, 1, 8), ("urandom", 0o666, 1, 9), ("console", 0o600, 5, 1),
)  # fmt: skip


def machine_arch() -> str:
    """Alpine's name of this machine's architecture."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


class Database:
    """The state of a root, read when asked for."""

    def __init__(self, root: Path, *, initdb: bool = False, arch: str = "") -> None:
        self.fs = RootFs(root)
        self._lock: int | None = None
        self.initdb = initdb
        self.arch = arch or self.fs.read("etc/apk/arch").strip() or machine_arch()
        self.world: tuple[Dependency, ...] = dependencies(self.fs.read("etc/apk/world"))
        self.installed: dict[str, Package] = {}
        self.triggers: dict[str, tuple[str, ...]] = {}
        self._scripts: dict[str, tuple[bytes, int]] | None = None
        self._owners: dict[str, str] | None = None

    @classmethod
    def open(cls, root: Path, *, initdb: bool, arch: str) -> Database:
        """The database of a root, which must have one unless `initdb` is to make it."""
        if not initdb and not root.is_dir():
            raise ApkError("Unable to open root: No such file or directory", 99)
        database = cls(root, initdb=initdb, arch=arch)
        if not initdb and not database.fs.place(f"{_DB}/installed").exists():
            raise ApkError("Failed to open apk database: No such file or directory", 99)
        return database

    def load(self, universe: Universe) -> None:
        """Read the installed packages into the universe."""
        for record in self.fs.read(f"{_DB}/installed").split("\n\n"):
            stripped = record.strip("\n")
            if stripped:
                package = universe.add(Package(stripped))
                package.installed = True
                package.record = stripped
                self.installed[package.name] = package
        for line in self.fs.read(f"{_DB}/triggers").splitlines():
            checksum, *globs = line.split()
            self.triggers[checksum] = tuple(globs)

    def lock(self, wait: float) -> None:
        """Keep others from changing the root; raises ApkError when another apk has it."""
        folder = self.fs.folder(_DB)
        # Without a database the folders under lib/ are left to the first packages, which may make lib a link.
        path = folder / "lock" if folder.is_dir() else self.fs.path
        flags = os.O_RDWR | os.O_CREAT if folder.is_dir() else os.O_RDONLY
        self._lock = os.open(path, flags | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise ApkError("Unable to lock database: temporary error (try again later)", 99) from None
                time.sleep(0.1)
            else:
                return

    # Files and folders of installed packages.

    @staticmethod
    def files(package: Package) -> Iterator[tuple[str, str]]:
        """Path and checksum of each file of an installed package."""
        folder = name = ""
        for line in package.record.split("\n"):
            kind = line[:2]
            if kind == "F:":
                folder = f"{line[2:]}/" if line[2:] else ""
            elif kind == "R:":
                if name:
                    yield name, ""
                name = folder + line[2:]
            elif kind == "Z:" and name:
                yield name, line[2:]
                name = ""
        if name:
            yield name, ""

    @staticmethod
    def folders(package: Package) -> Iterator[str]:
        """The folders of an installed package."""
        return (line[2:] for line in package.record.split("\n") if line.startswith("F:") and line[2:])

    def disown(self, name: str, path: str) -> None:
        """Take a file out of the record of the package that had it: another one has it now."""
        package = self.installed[name]
        folder, _, file = path.rpartition("/")
        kept: list[str] = []
        here = gone = False
        for line in package.record.split("\n"):
            if line[:2] == "F:":
                here, gone = line[2:] == folder, False
            elif line[:2] == "R:":
                gone = here and line[2:] == file
            if not gone:
                kept.append(line)
        package.record = "\n".join(kept)

    def folders_in_use(self) -> frozenset[str]:
        """The folders of all installed packages."""
        return frozenset(folder for package in self.installed.values() for folder in self.folders(package))

    @property
    def owners(self) -> dict[str, str]:
        """Path -> name of the package that owns it, for all installed packages."""
        if self._owners is None:
            self._owners = {path: name for name, package in self.installed.items() for path, _ in self.files(package)}
        return self._owners

    # Scripts.

    @property
    def scripts(self) -> dict[str, tuple[bytes, int]]:
        """File name in scripts.tar -> text and time."""
        if self._scripts is None:
            self._scripts = {}
            place = self.fs.place(f"{_DB}/scripts.tar")
            if place.is_file():
                with place.open("rb") as stream:
                    for entry, content in read_tar(stream, "scripts.tar"):
                        self._scripts[entry.name] = (content.read(), entry.mtime)
        return self._scripts

    def script(self, package: Package, kind: str) -> bytes | None:
        """The text of a script of an installed package."""
        found = self.scripts.get(f"{package.full_name}.{package.checksum}{kind}")
        return found[0] if found else None

    def drop_scripts(self, package: Package) -> None:
        """Forget the scripts and triggers of a package."""
        prefix = f"{package.full_name}.{package.checksum}."
        for name in [name for name in self.scripts if name.startswith(prefix)]:
            del self.scripts[name]
        self.triggers.pop(package.checksum, None)

    # Writing.

    def prepare(self) -> None:
        """Give a new root what scripts of its first packages rely on: tmp, proc, the usual devices, the cache's folder.

        Nothing below lib: in a root with merged /usr that will be a link, and the first package brings it.
        """
        self.fs.path.mkdir(parents=True, exist_ok=True)
        for name, mode in (("tmp", 0o1777), ("proc", 0o555), ("dev", 0o755), ("var/cache/apk", 0o755), ("var/cache/misc", 0o755)):
            if not self.fs.place(name).exists():
                self.fs.make_folder(name, mode)
        for name, mode, major, minor in _DEVICES:
            with suppress(OSError):  # there already, or not allowed here: then the root's user makes them
                os.mknod(self.fs.place(f"dev/{name}"), mode | stat.S_IFCHR, os.makedev(major, minor))
                self.fs.place(f"dev/{name}").chmod(mode)

    def set_world(self, world: Sequence[Dependency]) -> None:
        """Change the world; it is kept sorted and without doubles."""
        self.world = tuple(sorted({str(dep): dep for dep in world}.values(), key=lambda dep: (dep.name, str(dep))))

    def write_world(self) -> None:
        """Write etc/apk/world, and etc/apk/arch for a new root."""
        self.fs.write("etc/apk/world", "".join(f"{dep}\n" for dep in self.world).encode())
        if self.initdb and not self.fs.place("etc/apk/arch").exists():
            self.fs.write("etc/apk/arch", f"{self.arch}\n".encode())

    def write(self) -> None:
        """Write everything under lib/apk/db, then the world."""
        records = [self.installed[name].record for name in sorted(self.installed)]
        self.fs.write(f"{_DB}/installed", "".join(f"{record}\n\n" for record in records).encode())
        self.fs.write(f"{_DB}/scripts.tar", self._scripts_tar())
        lines = [" ".join((checksum, *globs)) for checksum, globs in self.triggers.items()]
        self.fs.write(f"{_DB}/triggers", "".join(f"{line}\n" for line in lines).encode())
        lock = self.fs.place(f"{_DB}/lock")
        if not lock.exists():
            lock.touch(0o600)
        self.write_world()

    def _scripts_tar(self) -> bytes:
        parts = []
        for name, (text, mtime) in self.scripts.items():
            parts += [dump_header(TarEntry(name, mode=0o755, size=len(text), mtime=mtime)), text, bytes(-len(text) % BLOCK)]
        return b"".join([*parts, bytes(2 * BLOCK)])
