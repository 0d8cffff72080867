# SPDX-License-Identifier: Apache-2.0
"""Make packages of an installed Alpine again: the database tells which package each file belongs to, and what it must be.

It reads the ext4 file system of a machine on which apk installed Alpine. Names, versions, dependencies, scripts, triggers,
owners and modes come from apk's database (`lib/apk/db`, see apk-tools' apk-v2(5) and apk-db), contents from the disk. Every
file must have its checksum of the database; the few that the maker of the disk has edited are restored first.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import BinaryIO, Final

from pipeline.apk.format.gzipstream import GzipMember, RawSource
from pipeline.apk.format.installed import InstalledFile, InstalledFolder, InstalledPackage, parse_installed
from pipeline.apk.format.package import TarEntry, write_package
from pipeline.apk.format.pkginfo import SCRIPTS, PkgInfo
from pipeline.apk.format.tarstream import read_tar
from pipeline.base.errors import FormatError, VerifyError
from pipeline.channels.lab.package_tree import LEVEL
from pipeline.formats.ext4 import Ext4, Inode

_DATABASE: Final = "lib/apk/db"
_MOST_SCRIPTS: Final = 16 << 20
_SCRIPT_NAME: Final = re.compile(r"(?P<package>.+)\.X1(?P<checksum>[0-9a-f]{40})(?P<kind>\.[a-z-]+)")
_MOST_SHOWN: Final = 10
_LINK_MODE: Final = 0o777
_PROGRAMS: Final = frozenset({"bin", "sbin", "usr/bin", "usr/sbin"})


def _without_last(lines: int) -> Callable[[bytes], bytes]:
    """Return a function that removes the last `lines` lines, which were appended to a file."""
    return lambda data: b"".join(data.splitlines(keepends=True)[:-lines])


def _passwordless(data: bytes) -> bytes:
    """Return `/etc/shadow` without the added accounts, and root without a password or the day of its change."""
    kept = data.splitlines(keepends=True)[:-2]
    return b"".join(b"root:::0:::::\n" if line.startswith(b"root:") else line for line in kept)


def _stock_rc_conf(data: bytes) -> bytes:
    """Return `/etc/rc.conf` with the changed settings as OpenRC ships them: commented out."""
    stock = {b"rc_parallel": b'"NO"', b"rc_sys": b'""', b"rc_controller_cgroups": b'"YES"'}
    for name, value in stock.items():
        data = re.sub(rb"^" + name + rb"=.*$", b"#" + name + b"=" + value, data, flags=re.MULTILINE)
    return data


RESTORED: Final[Mapping[str, Callable[[bytes], bytes]]] = MappingProxyType(
    {
        "etc/group": _without_last(2),
        "etc/hostname": lambda _: b"localhost\n",
        "etc/hosts": lambda _: b"127.0.0.1\tlocalhost localhost.localdomain\n::1\t\tlocalhost localhost.localdomain\n",
        "etc/modules": _without_last(3),
        "etc/mtab": lambda _: b"../proc/mounts",
        "etc/passwd": _without_last(2),
        "etc/rc.conf": _stock_rc_conf,
        "etc/shadow": _passwordless,
    }
)
"""Files that differ from what apk installed, with the function that restores them. A link's content is its target."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A file or link of the disk: its content (a link's is its target), and whether it is a link."""

    data: bytes
    link: bool


class InstalledSystem:
    """The packages of an installed Alpine on the ext4 file system in `disk`; `where` is its name in messages.

    Raises FormatError for a damaged file system or database, VerifyError for files that differ from the database.
    """

    def __init__(self, disk: BinaryIO, where: str) -> None:
        self.where = where
        self._ext4 = Ext4(disk, where)
        self._inodes: dict[str, Inode] = dict(self._ext4.walk())
        self.packages: tuple[InstalledPackage, ...] = parse_installed(
            self._content(f"{_DATABASE}/installed"), f"{where}: {_DATABASE}/installed"
        )
        if not self.packages:
            raise FormatError(f"{where}: its database names no package")
        self._triggers = self._read_triggers()
        self._scripts = self._read_scripts()

    def _content(self, path: str) -> bytes:
        inode = self._inodes.get(path)
        if inode is None or not stat.S_ISREG(inode.mode):
            raise FormatError(f"{self.where}: there is no file {path}; expected an installed Alpine")
        return self._ext4.read(inode)

    def _read_triggers(self) -> dict[str, tuple[str, ...]]:
        """Return the watched folders by the checksum of their package."""
        rows = (line.split() for line in self._content(f"{_DATABASE}/triggers").decode().splitlines())
        return {row[0]: tuple(row[1:]) for row in rows if row}

    def _read_scripts(self) -> dict[str, dict[str, bytes]]:
        """Return the scripts by the checksum of their package (`Q1...`) and their name (`.post-install`)."""
        where = f"{self.where}: {_DATABASE}/scripts.tar.gz"
        source = RawSource(io.BytesIO(self._content(f"{_DATABASE}/scripts.tar.gz")), where)
        member = GzipMember(source, "scripts", max_raw=_MOST_SCRIPTS, max_plain=_MOST_SCRIPTS)
        found: dict[str, dict[str, bytes]] = {}
        for entry, content in read_tar(member, where):
            match = _SCRIPT_NAME.fullmatch(entry.name)
            if match is None or match["kind"] not in SCRIPTS:
                raise FormatError(f"{where}: {entry.name!r} is not named NAME-VERSION.X1CHECKSUM.KIND")
            checksum = _q1(bytes.fromhex(match["checksum"]))
            found.setdefault(checksum, {})[match["kind"]] = content.read()
        unknown = sorted(set(found) - {package.entry.checksum for package in self.packages})
        if unknown:
            raise FormatError(f"{where}: scripts of packages that are not installed: {', '.join(unknown)}")
        return found

    @cached_property
    def _names(self) -> tuple[dict[int, str], dict[int, str]]:
        """Return the names of users and of groups by number: packages have their owners' names, the database their numbers."""

        def read(path: str) -> dict[int, str]:
            rows = (line.split(":") for line in RESTORED[path](self._content(path)).decode().splitlines())
            return {int(row[2]): row[0] for row in rows if len(row) > 2}

        return read("etc/passwd"), read("etc/group")

    def _found(self, path: str, file: InstalledFile) -> _Found:
        """Return the content of `file` on the disk, restored if it was edited, and checked against the database."""
        inode = self._inodes.get(path)
        if inode is None or not (stat.S_ISREG(inode.mode) or stat.S_ISLNK(inode.mode)):
            raise VerifyError(f"{self.where}: {path}: {'is not a file' if inode else 'is missing'}")
        found = _Found(self._ext4.read(inode), stat.S_ISLNK(inode.mode))
        # A link's checksum is that of its target: without this, a file that contains the target would pass for the link.
        if wrong := "" if path in RESTORED else _differs(inode, file):
            raise VerifyError(f"{self.where}: {path}: {wrong}")
        if _sha1(found.data) != file.checksum and path in RESTORED:
            found = _Found(RESTORED[path](found.data), found.link)
        if _sha1(found.data) != file.checksum:
            raise VerifyError(
                f"{self.where}: {path}: checksum {_sha1(found.data)}, the database says {file.checksum or 'nothing'}"
            )
        return found

    @property
    def applets(self) -> tuple[str, ...]:
        """Return the links to busybox that its script made at its installation: in the folders of programs, and nowhere else."""
        links = (
            path for path, inode in self._inodes.items() if stat.S_ISLNK(inode.mode) and path.rpartition("/")[0] in _PROGRAMS
        )
        return tuple(sorted(path for path in links if self._ext4.read(self._inodes[path]) == b"/bin/busybox"))

    def check(self) -> int:
        """Check every file of every package against the database; return their number.

        Raises a VerifyError that names the first ten files that differ or are missing.
        """
        wrong: list[str] = []
        count = 0
        for package in self.packages:
            for folder in package.folders:
                inode = self._inodes.get(folder.path)
                if folder.path and (inode is None or not stat.S_ISDIR(inode.mode)):
                    wrong.append(f"{folder.path}: {'is not a folder' if inode else 'is missing'}")
                elif folder.path and inode is not None and (said := _differs(inode, folder)):
                    wrong.append(f"{folder.path}: {said}")
                for file in folder.files:
                    count += 1
                    try:
                        self._found(f"{folder.path}/{file.name}".lstrip("/"), file)
                    except VerifyError as error:
                        wrong.append(error.message.removeprefix(f"{self.where}: "))
        if wrong:
            more = [f"and {len(wrong) - _MOST_SHOWN} more"] if len(wrong) > _MOST_SHOWN else []
            raise VerifyError("\n  ".join([f"{self.where}: differs from its database", *wrong[:_MOST_SHOWN], *more]))
        return count

    def write(self, package: InstalledPackage, out: BinaryIO, arch: str, epoch: int) -> PkgInfo:
        """Write `package` unsigned, in format 2, for `arch`; return its info. Equal disks and epochs give equal bytes.

        The size in the database is kept; the build date is Alpine's. Times of files become `epoch`, in seconds.
        """
        entry = package.entry
        info = PkgInfo(
            name=entry.name,
            version=entry.version,
            # The repository's: apk looks for a package in the folder of the architecture that the index names.
            arch=arch,
            description=entry.description,
            url=entry.url,
            license=entry.license,
            origin=entry.origin,
            maintainer=entry.maintainer,
            size=entry.installed_size,
            builddate=entry.builddate,
            commit=entry.commit,
            depends=entry.depends,
            provides=entry.provides,
            install_if=entry.install_if,
            replaces=entry.replaces,
            replaces_priority=entry.replaces_priority,
            provider_priority=entry.provider_priority,
            triggers=self.triggers_of(package),
        )
        return write_package(out, info, self.scripts_of(package), self.entries(package), epoch=epoch, level=LEVEL)

    def scripts_of(self, package: InstalledPackage) -> Mapping[str, bytes]:
        """Return the scripts of `package` by name (`.post-install`)."""
        return self._scripts.get(package.entry.checksum, {})

    def triggers_of(self, package: InstalledPackage) -> tuple[str, ...]:
        """Return the folders that the trigger of `package` watches."""
        return self._triggers.get(package.entry.checksum, ())

    def entries(self, package: InstalledPackage) -> Iterator[tuple[TarEntry, bytes | None]]:
        """Yield folders, files and links of `package`, each checked against the database, with the content of files.

        Raises VerifyError for differences.
        """
        users, groups = self._names

        def entry(path: str, kind: str, owner: tuple[int, int, int], target: str = "") -> TarEntry:
            uid, gid, mode = owner
            names = {"uname": users.get(uid, ""), "gname": groups.get(gid, "")}
            return TarEntry(path, kind, mode, uid, gid, target=target, **names)  # type: ignore[arg-type]

        for folder in package.folders:
            if folder.path:
                yield entry(folder.path, "dir", (folder.uid, folder.gid, folder.mode)), None
            for file in folder.files:
                path = f"{folder.path}/{file.name}".lstrip("/")
                found = self._found(path, file)
                if found.link:
                    yield entry(path, "symlink", (file.uid, file.gid, 0o777), found.data.decode()), None
                else:
                    yield entry(path, "file", (file.uid, file.gid, file.mode)), found.data


def _differs(inode: Inode, noted: InstalledFile | InstalledFolder) -> str:
    """Return which of kind, owner and mode differs from the database; "" if none does."""
    # The database has no letter for links, but their mode is 777, which no file of Alpine has.
    link = isinstance(noted, InstalledFile) and noted.mode == _LINK_MODE
    if stat.S_ISLNK(inode.mode) != link:
        return f"is a {'file' if link else 'link'}, the database says a {'link' if link else 'file'}"
    if (inode.uid, inode.gid) != (noted.uid, noted.gid):
        return f"belongs to {inode.uid}:{inode.gid}, the database says {noted.uid}:{noted.gid}"
    if not link and stat.S_IMODE(inode.mode) != noted.mode:
        return f"mode {stat.S_IMODE(inode.mode):04o}, the database says {noted.mode:04o}"
    return ""


def _q1(digest: bytes) -> str:
    return "Q1" + base64.b64encode(digest).decode()


def _sha1(data: bytes) -> str:
    return _q1(hashlib.sha1(data, usedforsecurity=False).digest())
