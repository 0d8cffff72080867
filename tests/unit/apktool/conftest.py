# SPDX-License-Identifier: Apache-2.0
"""The lab's stand-ins laid as their packages lay them, and small repositories to try them on."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from pipeline.apk.index import entry_of, write_index
from pipeline.apk.installed import InstalledPackage, parse_installed
from pipeline.apk.package import Source, TarEntry, write_package
from pipeline.apk.pkginfo import PkgInfo
from pipeline.apk.signature import Signer, generate_key

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGES = CHECKOUT / "pipeline/lab/packages"
EPOCH = 1_700_000_000


@pytest.fixture(scope="session")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the files of apk-tools, abuild and alpine-conf."""
    root = tmp_path_factory.mktemp("stand-ins")
    for name in ("apk-tools", "abuild", "alpine-conf"):
        table = tomllib.loads((PACKAGES / name / "package.toml").read_text())
        for place, source in table.get("sources", {}).items():
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            if (CHECKOUT / source).is_dir():
                shutil.copytree(CHECKOUT / source, root / place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(CHECKOUT / source, root / place)
        if (PACKAGES / name / "root").is_dir():
            shutil.copytree(PACKAGES / name / "root", root, dirs_exist_ok=True)
    compileall.compile_dir(root / "usr/lib/lab-apk", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return root


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the public key test.rsa.pub, beside it the private one and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "trusted").mkdir()
    for name in ("test", "stranger"):
        generate_key(folder, name, bits=2048)
    shutil.copy(folder / "test.rsa.pub", folder / "trusted")
    return folder / "trusted"


class Lab:
    """A repository in the making, a root, and `apk` to bring the one into the other."""

    def __init__(self, prefix: Path, keys: Path, folder: Path) -> None:
        self.prefix = prefix
        self.keys = keys
        self.repository = folder / "repository"
        self.root = folder / "root"
        self.address = str(self.repository)
        (self.repository / "x86_64").mkdir(parents=True)
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
        **fields: object,
    ) -> Path:
        """Add a package; a file's content is bytes, a symbolic link's target a text."""
        owner = {"uid": os.getuid(), "gid": os.getgid(), "uname": "", "gname": ""}
        entries: list[tuple[TarEntry, Source]] = list(extra)
        folders: set[str] = set()
        for path, content in (files or {}).items():
            folders.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
            if isinstance(content, str):
                entries.append((TarEntry(path, "symlink", 0o777, target=content, **owner), None))  # type: ignore[arg-type]
            else:
                mode = (modes or {}).get(path, 0o644)
                entries.append((TarEntry(path, "file", mode, **owner), content))  # type: ignore[arg-type]
        entries += [(TarEntry(path, "dir", 0o755, **owner), None) for path in sorted(folders)]  # type: ignore[arg-type]
        info = PkgInfo(name, version, "x86_64", f"test package {name}", **fields)  # type: ignore[arg-type]
        target = self.repository / "x86_64" / f"{name}-{version}.apk"
        with target.open("wb") as out:
            write_package(out, info, scripts or {}, entries, epoch=EPOCH, signer=self.signer)
        return target

    def publish(self, *paths: Path, signer: Signer | None = None) -> Path:
        """Write the index, of all packages unless some are named."""
        index = self.repository / "x86_64" / "APKINDEX.tar.gz"
        chosen = paths or sorted(self.repository.glob("x86_64/*.apk"))
        with index.open("wb") as out:
            write_index(out, "test 1", [entry_of(path) for path in chosen], signer or self.signer, EPOCH)
        return index

    def run(self, *arguments: str, status: int | None = 0, stdin: str = "") -> str:
        """Run apk with the keys and the repository; returns what it wrote, errors after output."""
        roots = ("--root", str(self.root), "--keys-dir", str(self.keys), "--arch", "x86_64")
        sources = ("--repositories-file", os.devnull, "--repository", self.address)
        apk = str(self.prefix / "usr/sbin/apk")
        argv = [sys.executable, "-IS", apk, arguments[0], *roots, *sources, *arguments[1:]]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, input=stdin)
        assert "Traceback" not in done.stderr, done.stderr
        assert status is None or done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def add(self, *arguments: str, status: int | None = 0) -> str:
        """`apk add`, into a new root if there is none."""
        new = () if (self.root / "lib/apk/db/installed").exists() else ("--initdb",)
        return self.run("add", *new, *arguments, status=status)

    def installed(self) -> dict[str, InstalledPackage]:
        """The installed database, read by the factory's own parser."""
        data = (self.root / "lib/apk/db/installed").read_bytes()
        return {package.entry.name: package for package in parse_installed(data)}

    def versions(self) -> dict[str, str]:
        """Installed packages and their versions."""
        return {name: package.entry.version for name, package in self.installed().items()}

    def world(self) -> list[str]:
        """The wanted packages."""
        return (self.root / "etc/apk/world").read_text().split()


@pytest.fixture
def lab(prefix: Path, keys: Path, tmp_path: Path) -> Lab:
    """An empty repository and no root yet."""
    return Lab(prefix, keys, tmp_path)
