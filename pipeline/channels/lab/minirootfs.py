# SPDX-License-Identifier: Apache-2.0
"""Alpine's mini root: the smallest installed system that has apk, from which builders are made.

It holds the files of its packages, the links to busybox, and apk's database (`lib/apk/db`), as a compressed tar.
"""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tower.base.regular import open_regular

from pipeline.apk.format.installed import InstalledPackage, dump_installed
from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import parse_dependency
from pipeline.base.errors import FormatError
from pipeline.channels.lab.from_installed import InstalledSystem
from pipeline.channels.lab.package_tree import LEVEL

WORLD: Final = ("alpine-baselayout", "alpine-keys", "alpine-release", "apk-tools", "busybox", "busybox-binsh", "musl-utils")
_KINDS: Final = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "symlink": tarfile.SYMTYPE}


def write_minirootfs(system: InstalledSystem, packages: Path, output: Path, arch: str, epoch: int) -> None:
    """Write the mini root; `packages` holds the repacked packages, whose checksums its database names.

    Equal systems and epochs give equal bytes. Raises FormatError if the system lacks a package of the mini root.
    """
    chosen = [_as_repacked(package, packages) for package in closure(system.packages, WORLD, system.where)]
    files: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
    for _package, before in chosen:
        for entry, content in system.entries(before):
            info = tarfile.TarInfo(entry.name)
            info.type, info.mode, info.uid, info.gid, info.linkname = (
                _KINDS[entry.kind], entry.mode, entry.uid, entry.gid, entry.target,
            )  # fmt: skip
            files.setdefault(entry.name, (info, content or b""))
    for path in system.applets:
        link = tarfile.TarInfo(path)
        link.type, link.mode, link.linkname = tarfile.SYMTYPE, 0o777, "/bin/busybox"
        files.setdefault(path, (link, b""))
    for path, data in _database(system, chosen, arch).items():
        files[path] = (tarfile.TarInfo(path), data)
    _fill_folders(files)
    with (
        output.open("wb") as out,
        gzip.GzipFile(filename="", fileobj=out, mode="wb", compresslevel=LEVEL, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for _, (info, data) in sorted(files.items(), key=lambda item: item[0].split("/")):
            info.size, info.mtime = len(data), epoch
            target.addfile(info, io.BytesIO(data))


def closure(packages: Iterable[InstalledPackage], world: Iterable[str], where: str) -> list[InstalledPackage]:
    """Return `world` and its dependencies, sorted by name: an installed system fulfils every dependency. Raises FormatError."""
    answers: dict[str, InstalledPackage] = {}
    for package in packages:
        for name in (package.entry.name, *(parse_dependency(item).name for item in package.entry.provides)):
            answers.setdefault(name, package)
    found: dict[str, InstalledPackage] = {}
    todo = list(world)
    while todo:
        name = todo.pop()
        answer = answers.get(name)
        if answer is None:
            raise FormatError(f"{where}: nothing in it is or provides {name}, which the mini root needs")
        if answer.entry.name not in found:
            found[answer.entry.name] = answer
            wanted = [parse_dependency(item) for item in answer.entry.depends]
            todo += [item.name for item in wanted if not item.conflict]
    return [found[name] for name in sorted(found)]


def _as_repacked(package: InstalledPackage, folder: Path) -> tuple[InstalledPackage, InstalledPackage]:
    """Return the package with the checksum of its repacked file, and the original."""
    with open_regular(folder / package.entry.file_name) as stream:
        checksum = read_package(stream, None, name=package.entry.file_name).checksum
    return replace(package, entry=replace(package.entry, checksum=checksum)), package


def _database(system: InstalledSystem, chosen: list[tuple[InstalledPackage, InstalledPackage]], arch: str) -> dict[str, bytes]:
    """Return apk's database of the chosen packages."""
    scripts = io.BytesIO()
    triggers = []
    with tarfile.open(fileobj=scripts, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for package, before in chosen:
            digest = base64.b64decode(package.entry.checksum.removeprefix("Q1")).hex()
            for kind, text in sorted(system.scripts_of(before).items()):
                info = tarfile.TarInfo(f"{package.entry.name}-{package.entry.version}.X1{digest}{kind}")
                info.size, info.mode = len(text), 0o755
                archive.addfile(info, io.BytesIO(text))
            if watched := system.triggers_of(before):
                triggers.append(f"{package.entry.checksum} {' '.join(watched)}\n")
    return {
        "etc/apk/arch": f"{arch}\n".encode(),
        "etc/apk/world": "".join(f"{name}\n" for name in sorted(WORLD)).encode(),
        "lib/apk/db/installed": dump_installed([package for package, _ in chosen]),
        "lib/apk/db/scripts.tar.gz": gzip.compress(scripts.getvalue(), mtime=0),
        "lib/apk/db/triggers": "".join(triggers).encode(),
    }


def _fill_folders(files: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
    for path in list(files):
        parent = path.rpartition("/")[0]
        while parent and parent not in files:
            info = tarfile.TarInfo(parent)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            files[parent] = (info, b"")
            parent = parent.rpartition("/")[0]
