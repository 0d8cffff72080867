# SPDX-License-Identifier: Apache-2.0
"""The lab channel with a real Debian mirror and the pinned wheel: mirrored, locked, signed, and what happens when it fails."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.apk.format.index import read_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing
from pipeline.base.errors import FetchError, LockError, VerifyError
from pipeline.base.paths import Paths
from pipeline.channels.alpine.driver import AlpineDriver
from pipeline.channels.drivers import open_driver
from pipeline.channels.lab.debian import SETTING
from pipeline.channels.lab.mirror import LabMirror
from pipeline.config.channel import Channel
from pipeline.config.toml import Problems
from pipeline.plan.planner import load_channel
from pipeline.supply import lockfile
from pipeline.supply.lock import Lock, Worlds
from pipeline.supply.vault import Vault

CHECKOUT = Path(__file__).resolve().parents[2]
WORLD = frozenset({"alpine-baselayout", "apk-tools", "busybox", "doas", "iptables", "zstd"})
NOWHERE = "http://127.0.0.1:9/debian"


class Bar:
    def advance(self, amount: int) -> None:
        pass


class Progress:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "B") -> Iterator[Bar]:
        self.said.append(title)
        yield Bar()


class Lab:
    """A checkout of its own with a small world, made if it is not there, and the user's real cache of downloads."""

    def __init__(self, folder: Path) -> None:
        (folder / "runtime").mkdir(exist_ok=True)
        for name in ("pipeline", "pyproject.toml", "runtime/requirements.lock"):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(CHECKOUT / name)
        channel = load_channel(Paths(CHECKOUT), "lab", Problems())
        settings = {**channel.settings, "builder": ["apk-tools", "busybox", "zstd"]}
        self.channel: Channel = replace(channel, architectures=("x86_64",), settings=settings)
        self.folder = folder
        self.progress = Progress()

    def driver(self, world: frozenset[str] = WORLD) -> AlpineDriver:
        """A new driver, as the next run of the factory makes one."""
        made = open_driver(self.channel, Worlds({"x86_64": (world,)}), Paths(self.folder))
        assert isinstance(made, AlpineDriver)
        return made

    def keep(self, lock: Lock) -> Lock:
        """Keep the lock as the factory does."""
        path = lockfile.lock_path(Paths(self.folder), self.channel)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lockfile.render(lock))
        return lock


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def lock(lab: Lab) -> Lock:
    driver = lab.driver()
    lock = lab.keep(driver.lock(lab.progress))
    driver.fetch(lock, lab.progress)
    return lock


def repository(lab: Lab, lock: Lock, name: str) -> Path:
    output = lab.folder / name
    lab.driver().repository(lock, "x86_64", output, io.BytesIO())
    return output / "v3.23" / "main" / "x86_64"


def mirror_of(driver: AlpineDriver) -> LabMirror:
    assert isinstance(driver.mirror, LabMirror)
    return driver.mirror


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_lock_names_every_package(lab: Lab, lock: Lock) -> None:
    versions = {file.name: file.version for file in lock.packages["x86_64"]}
    assert {"doas", "zstd", "iptables", "libc6", "busybox", "musl", "apk-tools"} <= set(versions)
    assert not set(versions) & {"dpkg", "debconf", "systemd", "perl-base"}
    assert versions["apk-tools"].startswith("3."), "Alpine's own"
    assert {"zstd", "libc6", "apk-tools"} <= {file.name for file in lock.builder}
    assert {file.signer for file in lock.packages["x86_64"]} == {lab.driver().key.name}
    assert [file.name for file in lock.media] == ["alpine-minirootfs-x86_64", "aports-scripts"]
    assert Lock.from_json(lock.to_json(), "here") == lock
    assert lock.made_from == lab.driver().lock_key()
    assert lab.driver(WORLD | {"less"}).lock_key() != lock.made_from


def test_the_repository_is_signed_and_complete(lab: Lab, lock: Lock) -> None:
    folder = repository(lab, lock, "first")
    keys = KeyRing(lab.driver().keys())
    with (folder / "APKINDEX.tar.gz").open("rb") as stream:
        index = read_index(stream, keys)
    found = {entry.name: entry for entry in index.entries}
    assert {path.name for path in folder.glob("*.apk")} <= {entry.file_name for entry in index.entries}
    assert {path.name for path in folder.glob("*.apk")} == {f"{file.name}-{file.version}.apk" for file in lock.packages["x86_64"]}
    for path in folder.glob("*.apk"):
        with path.open("rb") as stream:
            package = read_package(stream, keys)
            entry = found[package.info.name]
            assert (package.verify_data(), package.checksum) == (entry.size, entry.checksum)
    assert any(item.startswith("gnu:libc.so.6=") for item in found["libc6"].provides)
    assert "gnu:libc.so.6" in found["zstd"].depends
    assert "so:libc.musl-x86_64.so.1" in found["busybox"].depends
    assert f"cmd:doas={found['doas'].version}" in found["doas"].provides
    assert "ip6tables" in found["iptables"].provides


def test_the_same_again_gives_the_same_bytes(lab: Lab, lock: Lock) -> None:
    mirror = mirror_of(lab.driver())
    first = contents(mirror.folder)
    for name in ("apk", "base", "mirror"):
        shutil.rmtree(mirror.home / name)
    mirror_of(lab.driver()).make(lab.progress)
    second = contents(mirror.folder)
    assert first.keys() == second.keys()
    assert not [name for name in first if first[name] != second[name]]
    assert mirror_of(lab.driver()).make(lab.progress) == mirror.folder


def test_a_file_changed_in_the_mirror_is_not_taken(lab: Lab, lock: Lock) -> None:
    """Whoever may write there could change what is signed: the lock names every byte."""
    driver = lab.driver()
    path = next((mirror_of(driver).folder / "v3.23/main/x86_64").glob("doas-*.apk"))
    data = path.read_bytes()
    path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    with pytest.raises(VerifyError, match="differs from the lock"):
        repository(lab, lock, "changed")
    lab.driver().fetch(lock, lab.progress)
    assert path.read_bytes() == data
    assert repository(lab, lock, "mended").is_dir()


def flip(path: Path) -> None:
    """Change a file without a trace in its times."""
    data, info = bytearray(path.read_bytes()), path.stat()
    data[len(data) // 2] ^= 1
    path.unlink()  # the vault may have the same file by another name
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize(
    "name",
    ["v3.23/main/x86_64/doas-*.apk", "v3.23/main/x86_64/APKINDEX.tar.gz", "v3.23/releases/x86_64/*.tar.gz", "aports/*/*.gz"],
)
def test_locking_from_a_mirror_that_was_changed(lab: Lab, lock: Lock, name: str) -> None:
    """Locking names what was changed and makes the mirror again, instead of refusing it for ever."""
    mirror = mirror_of(lab.driver())
    before = contents(mirror.folder)
    (path,) = mirror.folder.glob(name)
    flip(path)
    lab.progress.said.clear()
    assert lab.driver().lock(lab.progress) == lock
    assert f"{path}: was changed since it was made; the mirror is made again" in lab.progress.said
    assert contents(mirror.folder) == before


@pytest.mark.parametrize("name", ["apk/doas.*.apk", "base/*/busybox-*.apk"])
def test_a_mirror_is_not_made_of_what_was_changed(lab: Lab, lock: Lock, name: str) -> None:
    """Neither of converted packages nor of those out of the wheel: each is recorded, and made again."""
    mirror = mirror_of(lab.driver())
    before = contents(mirror.folder)
    path = min(mirror.home.glob(name))
    flip(path)
    shutil.rmtree(mirror.folder)
    lab.progress.said.clear()
    mirror_of(lab.driver()).make(lab.progress)
    assert any(line.startswith(f"{path}: was changed since it was made") for line in lab.progress.said), lab.progress.said
    assert contents(mirror.folder) == before


def test_a_flipped_bit_in_a_download_is_refused_and_mended(lab: Lab, lock: Lock) -> None:
    mirror = mirror_of(lab.driver())
    (deb,) = (deb for deb in mirror.debian().packages["x86_64"] if deb.name == "opendoas")
    path = Vault(Paths(lab.folder).cache / "vault").path(deb)
    data, info = path.read_bytes(), path.stat()
    path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    # As a disk does it: without a trace in the time stamp.
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    shutil.rmtree(mirror.home / "apk")
    shutil.rmtree(mirror.folder)
    try:
        with pytest.raises(VerifyError, match="sha256"):
            mirror.make(lab.progress)
        mirror_of(lab.driver()).make(lab.progress)
        assert path.read_bytes() == data
    finally:
        # The cache is the user's, and whole again whatever happened.
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def test_a_filled_cache_needs_no_mirror(lab: Lab, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, NOWHERE)
    shutil.rmtree(mirror_of(lab.driver()).folder)
    lab.driver().fetch(lock, lab.progress)
    assert repository(lab, lock, "offline").is_dir()


def test_an_unreachable_mirror_and_an_empty_cache(lab: Lab, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "tower"
    cache.mkdir()
    # The wheels are there: it is Debian that cannot be reached.
    shutil.copytree(Paths(lab.folder).cache / "wheel-sets", cache / "wheel-sets")
    mirror = mirror_of(lab.driver())
    vault = Vault(Paths(lab.folder).cache / "vault")
    for wheel in (*mirror.debian().wheels["x86_64"], *lock.wheels.get("x86_64", ())):
        target = cache / vault.path(wheel).relative_to(Paths(lab.folder).cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(vault.path(wheel), target)
    monkeypatch.setenv(SETTING, NOWHERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shutil.rmtree(mirror.folder)
    for act in (lambda: lab.driver().lock(lab.progress, renew=True), lambda: lab.driver().fetch(lock, lab.progress)):
        with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/debian") as caught:
            act()
        assert SETTING in caught.value.hint


def test_a_package_that_debian_lacks(lab: Lab) -> None:
    with pytest.raises(LockError, match="no-such-package"):
        lab.driver(WORLD | {"no-such-package"}).lock(lab.progress)
