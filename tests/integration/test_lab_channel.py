# SPDX-License-Identifier: Apache-2.0
"""The lab channel against a real Debian mirror: locked, fetched, converted, signed, and what happens when things fail."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pipeline.lab.driver import LabDriver

from pipeline.apk.index import read_index
from pipeline.apk.package import read_package
from pipeline.apk.signature import KeyRing
from pipeline.channel import Channel, Lock
from pipeline.config import Problems
from pipeline.errors import FetchError, LockError, VerifyError
from pipeline.lab.debian import SETTING
from pipeline.paths import Paths
from pipeline.planner import load_channel

CHECKOUT = Path(__file__).resolve().parents[2]
WORLD = frozenset({"doas", "zstd", "iptables"})
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
    """A checkout of its own with a world of three packages, and the user's real cache of downloads."""

    def __init__(self, folder: Path) -> None:
        for name in ("pipeline", "pyproject.toml"):
            (folder / name).symlink_to(CHECKOUT / name)
        (folder / "runtime").mkdir()
        (folder / "runtime" / "requirements.lock").symlink_to(CHECKOUT / "runtime" / "requirements.lock")
        channel = load_channel(Paths(CHECKOUT), "lab", Problems())
        settings = {**channel.settings, "builder": ["zstd"], "builder_packages": []}
        self.channel: Channel = replace(channel, architectures=("x86_64",), settings=settings)
        self.folder = folder
        self.progress = Progress()

    def driver(self, world: frozenset[str] = WORLD) -> LabDriver:
        return LabDriver(self.channel, {"x86_64": world}, Paths(self.folder))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def lock(lab: Lab) -> Lock:
    driver = lab.driver()
    lock = driver.lock(lab.progress)
    driver.fetch(lock, lab.progress)
    return lock


def repository(lab: Lab, lock: Lock, name: str) -> Path:
    output = lab.folder / name
    lab.driver().repository(lock, "x86_64", output, io.BytesIO())
    return output / "lab" / "main" / "x86_64"


def test_a_lock_names_every_package(lab: Lab, lock: Lock) -> None:
    names = {deb.name for deb in lock.packages["x86_64"]}
    assert {"opendoas", "zstd", "iptables", "libc6"} <= names
    assert not names & {"dpkg", "debconf", "systemd", "perl-base"}
    assert {"dpkg", "zstd", "libc6"} <= {deb.name for deb in lock.builder}
    assert Lock.from_json(lock.to_json(), "here") == lock
    assert lock.made_from == lab.driver().lock_key()
    assert lab.driver(WORLD | {"less"}).lock_key() != lock.made_from


def test_the_repository_is_signed_and_complete(lab: Lab, lock: Lock) -> None:
    folder = repository(lab, lock, "first")
    keys = KeyRing(lab.driver().keys())
    with (folder / "APKINDEX.tar.gz").open("rb") as stream:
        index = read_index(stream, keys)
    found = {entry.name: entry for entry in index.entries}
    assert {entry.file_name for entry in index.entries} == {path.name for path in folder.glob("*.apk")}
    for entry in index.entries:
        with (folder / entry.file_name).open("rb") as stream:
            package = read_package(stream, keys)
            assert (package.verify_data(), package.checksum) == (entry.size, entry.checksum)
    assert any(item.startswith("so:libc.so.6=") for item in found["libc6"].provides)
    assert "so:libc.so.6" in found["zstd"].depends
    assert f"cmd:doas={found['doas'].version}" in found["doas"].provides
    assert "ip6tables" in found["iptables"].provides


def test_the_same_again_gives_the_same_bytes(lab: Lab, lock: Lock) -> None:
    first = {path.name: path.read_bytes() for path in repository(lab, lock, "second").iterdir()}
    for path in (lab.folder / "build" / "lab" / "apk").glob("*.apk"):
        path.unlink()
    second = {path.name: path.read_bytes() for path in repository(lab, lock, "third").iterdir()}
    assert first == second


def test_a_flipped_bit_in_a_download_is_refused_and_mended(lab: Lab, lock: Lock) -> None:
    driver = lab.driver()
    deb = next(deb for deb in lock.packages["x86_64"] if deb.name == "opendoas")
    path = driver.vault.path(deb)
    data = path.read_bytes()
    info = path.stat()
    path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    # As a disk does it: without a trace in the time stamp.
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    with pytest.raises(VerifyError, match="sha256"):
        repository(lab, lock, "damaged")
    driver.fetch(lock, lab.progress)
    assert path.read_bytes() == data


def test_a_filled_cache_needs_no_mirror(lab: Lab, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, NOWHERE)
    lab.driver().fetch(lock, lab.progress)
    assert repository(lab, lock, "offline").is_dir()


def test_an_unreachable_mirror_and_an_empty_cache(lab: Lab, lock: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, NOWHERE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for act in (lambda: lab.driver().lock(lab.progress), lambda: lab.driver().fetch(lock, lab.progress)):
        with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/debian") as caught:
            act()
        assert SETTING in caught.value.hint


def test_a_package_that_debian_lacks(lab: Lab) -> None:
    with pytest.raises(LockError, match="no-such-package"):
        lab.driver(WORLD | {"no-such-package"}).lock(lab.progress)
