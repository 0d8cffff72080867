# SPDX-License-Identifier: Apache-2.0
"""The lab's own apk 3, as Alpine built it: it says what the grammar knows, and the device's `packages` works with it."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from tower.base import proc
from tower.base.errors import PackageError
from tower.base.files import make_folder, write_file
from tower.base.names import HostName, UserName
from tower.base.proc import Done
from tower.base.view import View
from tower.hosts import secret
from tower.hosts.env import InstallationType, TowerEnv
from tower.hosts.registry import USER_KEY, WORLD, Host, Tower
from tower.install.bundle import PROGRAM as BUNDLE
from tower.install.bundle import Bundle, read_state, send, sign
from tower.install.bundle_install import _bundle, _install
from tower.install.bundle_job import BundleJob
from tower.install.choose import copy_of
from tower.install.install import Installation
from tower.ssh.sessions import as_root

from pipeline.apk.adb.writer import write_index as write_third_index
from pipeline.apk.adb.writer import write_package as write_third
from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.signature import Signer
from pipeline.apk.format.tarstream import TarEntry
from pipeline.apk.format.writer import write_package
from tests.conftest import CHECKOUT
from tests.unit.apkwords.scenarios import EPOCH, capture, info, key_pair, parts, read
from tests.unit.apkwords.words import KEPT_FROM_APK, REFUSED

ARCH = platform.machine()
PROGRAM = "/usr/libexec/tower/packages"
_MANY = 4000
# What the program finds in a machine; the end of its process namespace is a power cut.
_START = """
mount --bind "$0" "$0" && hostname web && mount -t proc proc "$0/proc" && mount -t tmpfs run "$0/run" &&
mount -t tmpfs dev "$0/dev" && mknod -m 666 "$0/dev/null" c 1 3 && mknod -m 666 "$0/dev/zero" c 1 5 && exec chroot "$0" "$@"
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")


@pytest.fixture(scope="module")
def system(alpine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Alpine's mini root with the devices' programs."""
    root = tmp_path_factory.mktemp("system") / "root"
    shutil.copytree(alpine, root, symlinks=True)
    for overlay, name in (("common", "usr/libexec/tower"), ("common", "usr/share/tower"), ("host", "usr/libexec/tower")):
        shutil.copytree(CHECKOUT / "overlays" / overlay / name, root / name, dirs_exist_ok=True)
    # What the mini root lacks; it keeps to folders of its own.
    _lay_program(root, "ssh-keygen")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nal:x:1000:1000::/home/al:/bin/sh\n")
    return root


def _lay_program(root: Path, name: str) -> None:
    """A program of this machine, with its libraries."""
    program = shutil.which(name) or ""
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for path in (program, *re.findall(r"(/\S+)", libraries)):
        (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(path).resolve(), root / path[1:])


def test_apk_writes_what_the_transcripts_say(apk: tuple[str, ...]) -> None:
    """If another version says something else: make the transcript anew, and see that the grammar reads it."""
    said = read((CHECKOUT / "tests/unit/apkwords/said-3.0.8.txt").read_text())
    for name, lines in said.items():
        assert _measured(capture(apk, name)) == _measured(lines), name


def _measured(lines: Sequence[str]) -> list[str]:
    """Without sizes: those of packages differ by the key that signs them."""
    return [re.sub(r"[0-9.]+ (B|KiB)|[0-9]+/[0-9]+ install", "SIZE", line) for line in lines if line]


@dataclass
class Device:
    """A machine of the device's kind as far as packages go: `Place` of tower.install.install."""

    root: Path
    world: Path
    name: str = "web"
    online: bool = True
    init: int = 0
    kind: str = ""
    """The beginning of the lines of its repositories: that of their format."""

    def repositories(self) -> str:
        return ""

    def alive(self) -> bool:
        return True

    @contextmanager
    def lead(self, port: int) -> Iterator[int]:
        yield port

    def argv(self, *words: str) -> list[str]:
        return ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "sh", "-euc", _START, str(self.root), *words]

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
def device(system: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Device]:
    """Nothing is installed but a package with a tag; two repositories lie on it, of apk's second format or as a test says."""
    third = getattr(request, "param", 2) > 2
    made = Device(system, tmp_path / "world", kind="v3 " if third else "")
    for name in ("srv", "lib/apk", "etc/apk", "usr/share/many", "var/lib/tower"):
        shutil.rmtree(system / name, ignore_errors=True)
    (system / "etc/apk/keys").mkdir(parents=True)
    (system / "etc/apk/arch").write_text(f"{ARCH}\n")
    for place, content in zip((tmp_path / "test.rsa", system / "etc/apk/keys/test.rsa.pub"), key_pair(), strict=True):
        place.write_bytes(content)
    signer = Signer(tmp_path / "test.rsa", "test.rsa.pub")
    stocks = {
        "main": [*parts(12), info("sedutil", "2022.12.27~7a0cda7f-r2"), info("many"), info("odd", provides=["cmd:[=1"])],
        "edge": [info("foo", "2.0-r0"), info("new", "1.0_p1~0f-r0")],
    }
    for name, stock in stocks.items():
        folder = system / "srv" / name / ARCH
        folder.mkdir(parents=True)
        for one in stock:
            count = _MANY if one.name == "many" else 1
            files = [(TarEntry(f"usr/share/many/{one.name}{number}"), b"x" * 2000) for number in range(count)]
            with (folder / f"{one.name}-{one.version}.apk").open("wb") as out:
                (write_third if third else write_package)(out, one, {}, files, epoch=EPOCH, signer=signer)
        with (folder / "APKINDEX.tar.gz").open("wb") as out:
            entries = [entry_of(path, arch=ARCH) for path in sorted(folder.glob("*.apk"))]
            if third:
                write_third_index(out, name, entries, signer)
            else:
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


def test_a_file_with_the_name_of_a_package_is_not_one(device: Device, tower: Tower) -> None:
    for folder in ("", "root", "srv"):
        (device.root / folder).mkdir(exist_ok=True)
        (device.root / folder / "sedutil~2022.12").write_text("no package")
    assert install(device, tower, "sedutil~2022.12") == ("Installing sedutil (2022.12.27~7a0cda7f-r2)",)


def test_a_missing_package_is_refused_with_the_reason_and_no_change(device: Device, tower: Tower) -> None:
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


@dataclass
class Line:
    """A connection to a device, as far as bundles need one: `Session` of tower.ssh.sessions."""

    device: Device
    host: Host

    def run(self, argv: Sequence[str], *, timeout: float, check: bool = True, most: int = 0) -> Done:
        return proc.run(self.device.argv(*argv), timeout=timeout, check=check)

    @contextmanager
    def popen(self, argv: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
        words = [*argv[argv.index(BUNDLE) :]]
        with proc.running(self.device.argv("/usr/bin/env", "DOAS_USER=al", *words), stdin=proc.PIPE, stderr=proc.PIPE) as child:
            yield child

    def alive(self) -> bool:
        return True


@pytest.fixture
def line(device: Device, tmp_path: Path) -> Line:
    """The device knows the user's key, and finds its packages on servers."""
    pair = secret.new_key_pair("al@web")
    make_folder(tmp_path / "host")
    write_file(tmp_path / "host" / USER_KEY, pair.private)
    keys = device.root / "home/al/.ssh/authorized_keys"
    keys.parent.mkdir(parents=True, exist_ok=True)
    keys.write_text(f"{pair.public}\n")
    (device.root / "etc/apk/repositories").write_text(f"{device.kind}http://a.test/main\n{device.kind}@edge http://a.test/edge\n")
    shutil.rmtree(device.root / "var/lib/tower", ignore_errors=True)
    settings = TowerEnv(
        hostname=HostName("web"),
        username=UserName("al"),
        public_key=pair.public,
        password_hash=f"$6$salt${'a' * 86}",
        keyboard_layout="fr",
        keyboard_variant="fr-bepo",
        timezone="Europe/Paris",
        lang="fr_FR.UTF-8",
        online=False,
        wlan=None,
        address=IPv4Address("192.168.3.200"),
        installation_type=InstallationType.INSTALL,
        color="#4363d8",
        alpine_branch="v3.24",
    )
    return Line(device, Host(tmp_path / "host", settings))


def choose(line: Line, stack: ExitStack, *words: str) -> BundleJob:
    """Read and choose, by the lab's apk in place of the thin client's."""
    any_line: Any = line
    state = read_state(any_line, lambda _: None)
    copy = stack.enter_context(copy_of(state, "web"))
    places = [line.device.root / "srv" / name / ARCH / "APKINDEX.tar.gz" for name in ("main", "edge")]
    indexes = [copy.check_index(number, place, {}) for number, place in enumerate(places)]
    return BundleJob(any_line, copy, copy.choose(words, indexes))


def fetched(line: Line, job: BundleJob) -> dict[str, Path]:
    names = ("main", "edge")
    found = {one.checksum: line.device.root / "srv" / names[number] / ARCH / one.file_name for number, one in job.choice.packages}
    job.copy.check_packages(sorted(found.values()))
    return found


@pytest.fixture
def thin_apk(apk: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thin client's apk is that of the base, too."""
    program = tmp_path / "bin" / "apk"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.join(apk)} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("device", [2, 3], indirect=True)
def test_a_bundle_of_all_kinds_of_words(line: Line, thin_apk: None, tmp_path: Path) -> None:
    words = ("part12", "sedutil=2022.12.27~7a0cda7f-r2", "cmd:[", "new@edge>=1")
    with ExitStack() as stack:
        job = choose(line, stack, *words)
        assert len(job.choice.packages) == 15
        assert "Installing new@edge (1.0_p1~0f-r0)" in job.choice.steps
        any_line: Any = line
        assert send(any_line, _bundle(job, words, fetched(line, job), {}), lambda _: None) > 0
        _install(job, words, View())
    assert sorted((tmp_path / "host" / WORLD).read_text().split()) == sorted(words)
    assert (line.device.root / "usr/share/many/new0").is_file()
    with ExitStack() as stack:
        assert choose(line, stack, *words).choice.steps == ()


def test_a_bundle_with_an_unknown_line(line: Line) -> None:
    """Though it is signed by the user's own key."""
    any_line: Any = line
    good = Bundle(line.host, read_state(any_line, lambda _: None), ("nano",), 1, ()).manifest
    digest = "0" * 64
    rows = [
        # Some of each kind: the expressions themselves are held against all of them elsewhere.
        *(f"add {word}" for word in (*REFUSED, *KEPT_FROM_APK)[::4] if not set(word) & {"\n", "\r"}),
        *("add ../x.apk", "add --allow-untrusted", "add a.apk", "add a b", "add $(id)", f"add {'a' * 251}"),
        *(f"file {digest} 1 0 {name}" for name in ("../x.apk", ".x.apk", "a b.apk", "a/b.apk", "-x.apk", "x" * 251, "")),
        *(f"repository 2 {tag}" for tag in ("@", "@a b", "@a/b", "edge", "@a;b", "")),
        *(f"file {digest} {'1' * 13} 0 x.apk", "run id", "host web2 x", "", " "),
    ]
    for row in rows:
        said = offer(line, good + f"{row}\n".encode())
        assert "lines that this host does not know" in said, (row, said)
        assert row.strip()[:100] in said
    # What is right is only missing then.
    for row in ("add nano@edge>=8~0f-r1", "add cmd:[", "repository 1 @v3.19"):
        assert "does not know" not in offer(line, good + f"{row}\n".encode())
    assert "ends in the middle" in offer(line, good + f"file {digest} 1 0 a-1~0f-r0.apk\n".encode())


def offer(line: Line, manifest: bytes) -> str:
    """What the device says to a manifest that the user has signed; empty if it takes it."""
    signed = manifest + sign(manifest, line.host)
    with line.popen(as_root([BUNDLE, "receive"])) as child:
        _, errors = child.communicate(b"%d\n%s" % (len(signed), signed), timeout=30)
    return errors.decode(errors="replace").strip()
