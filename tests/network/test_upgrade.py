# SPDX-License-Identifier: Apache-2.0
"""`tower upgrade` on the ring: a host writes its own boot device over the network, cut off and killed in every way.

The boot device is a file of the host, since machines of the ring have no disks; and what the first start of an upgraded
host does to be known is done from here (`first_start`), until the product does it. All else is as in the product.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.network.home import FOLDER, HOME, User, child_of, make_hosts, unplugged
from tests.network.machines import Machine, Tower
from tests.unit.runtime.disks import BOOT, MIB, ROOT, check_disk, garbage, make_image

NAME = "offline1"
DEVICE = "/srv/boot.img"
IMAGES = f"{HOME}/images"
PIECES = "/var/lib/tower/upgrade"
# Asks for a new start, and leaves it at that; how it is called is in the words of `env`.
_REBOOT = """\
#!/bin/sh
case " $* " in *" reboot ") exec touch /run/reboot-asked ;; esac
exec /bin/busybox env "$@"
"""
# Stops the writing process and its children before the second write. By then the system's own dd is back.
_FREEZING_DD = """\
#!/bin/sh
case " $* " in *" conv=notrunc,fsync "*)
	if [ -e /run/dd-wrote ]; then
		ln -s /bin/busybox /bin/dd.new
		mv /bin/dd.new /bin/dd
		touch /run/dd-frozen
		kill -STOP 0
	fi
	touch /run/dd-wrote
	;;
esac
exec /bin/busybox dd "$@"
"""
_RECEIPT = """
import sys
from dataclasses import replace
from tower.provision import provision; from tower.disk import receipt
from tower.base.names import HostName
from tower.disk.receipt import Receipt, Stage, Target
from tower.hosts.registry import RECEIPT, HOST_KEY, tower_of_user
host = tower_of_user().host(HostName(sys.argv[1]))
first = Receipt("0" * 32, host.name, Stage.ANSWERED, "/x/toweros-host-1.1.0-lab-pc.img.zst", "0" * 64, "1.1.0", "lab",
    Target("/dev/sdb", 1 << 30, "S1", "Card", "usb"), receipt.now())
provision.keep_receipt(host, first)
host.file(HOST_KEY).write_bytes(b"the host's own key\\n")
"""


@dataclass(frozen=True, slots=True)
class Host:
    """The host, and whoever upgrades it."""

    user: User
    machine: Machine
    image: str

    @property
    def device(self) -> Path:
        return self.machine.path(DEVICE)

    @property
    def folder(self) -> Path:
        """What the thin client keeps about it."""
        return self.user.machine.path(f"{FOLDER}/hosts/{NAME}")

    def upgrade(self, *words: str, status: int = 0, resume: bool = False) -> str:
        done = self.user.tower("upgrade", NAME, *self.words(*words, resume=resume), timeout=120)
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if status == 0 else done.stderr

    def words(self, *words: str, resume: bool = False) -> tuple[str, ...]:
        how = ("--resume",) if resume else ("--image", self.image, "--boot-device", DEVICE)
        return (*how, "--unsigned", "--yes", "--json", "--timeout", "20", *words)

    def start(self, code: str, *words: str, resume: bool = False) -> subprocess.Popen[str]:
        """`tower upgrade` with `code` run before; it knows `inplace`, `upgrade` and `at(module, name, call)`."""
        before = (
            "import os, signal, sys, time\nfrom tower.cli import main as cli\nfrom tower.upgrade import inplace, upgrade\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def at(module, name, call):\n    whole = getattr(module, name)\n"
            "    setattr(module, name, lambda *a, **k: (call(), whole(*a, **k))[1])\n"
        )
        program = f"{before}{code}\nsys.exit(cli.main(sys.argv[1:]))"
        argv = self.user.python_argv("-c", program, "upgrade", NAME, *self.words(*words, resume=resume))
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(argv, stdin=null, stdout=pipe, stderr=pipe, text=True)

    def digest(self) -> str:
        return hashlib.sha256(self.device.read_bytes()).hexdigest()

    def check_done(self, tmp_path: Path) -> None:
        """Fail unless all is as it should be after an upgrade."""
        copy = tmp_path / "copy"
        shutil.copyfile(self.device, copy)
        assert check_disk(copy, tmp_path)["size"] == 96 * MIB - ROOT[0]
        for name in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "tower-receipt.json"):
            argv = ("mcopy", "-i", f"{copy}@@{BOOT[0]}", f"::{name}", "-")
            found = subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout
            assert found == (self.folder / name).read_bytes(), name
        assert "INSTALLATION_TYPE='upgrade'" in (self.folder / "tower.env").read_text()
        assert (self.folder / "ssh_host_ed25519_key").read_bytes() == b"the host's own key\n"
        receipt = json.loads((self.folder / "receipt.json").read_text())
        assert (receipt["stage"], receipt["version"]) == ("answered", "1.2.0")
        assert not (self.folder / "upgrade").exists()
        assert not self.machine.path(PIECES).exists()
        assert not list(self.user.machine.path(f"{HOME}/.cache/tower").glob(".*"))


@pytest.fixture(scope="module")
def known(machines: Tower) -> User:
    return make_hosts(machines, (NAME,))


@pytest.fixture
def host(known: User, machines: Tower) -> Iterator[Host]:
    """A host of version 1.1.0, whose boot device was used before."""
    machine = machines[NAME]
    images = known.machine.path(IMAGES)
    if not images.is_dir():
        images.mkdir()
        make_image(images, compress="zstd")
    (image,) = images.glob("*.img.zst")
    for old in ("upgrade", ".upgrade.gone"):
        shutil.rmtree(known.machine.path(f"{FOLDER}/hosts/{NAME}/{old}"), ignore_errors=True)
    known.python(_RECEIPT.replace("sys.argv[1]", repr(NAME)))
    known.machine.write(f"{FOLDER}/hosts/{NAME}/world", "")
    machine.run("rm", "-rf", PIECES, "/etc/tower/tower-receipt.json", "/run/dd-wrote", "/run/dd-frozen")
    found = Host(known, machine, f"{IMAGES}/{image.name}")
    used = bytearray(garbage(96 * MIB, seed=3))
    raw = subprocess.run(("zstd", "-dcq", image), check=True, capture_output=True, timeout=30).stdout
    used[: BOOT[0]] = raw[: BOOT[0]]
    found.device.parent.mkdir(exist_ok=True)
    found.device.write_bytes(used)
    with quick_starts(machine):
        yield found


def until(what: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.02)


def state(host: Host) -> str:
    try:
        return host.machine.read(f"{PIECES}/state").strip()
    except OSError:
        return ""


@contextmanager
def frozen_while_it_writes(host: Host, *words: str) -> Iterator[subprocess.Popen[str]]:
    """An upgrade whose host has begun to write and stopped, for as long as the context lasts."""
    machine = host.machine
    machine.write("bin/dd", _FREEZING_DD, 0o755)
    child = host.start("", *words)
    try:
        until(lambda: machine.path("run/dd-frozen").exists())
        assert state(host).startswith("writing")
        yield child
    finally:
        # Not there if it was started anew meanwhile.
        machine.run("sh", "-c", f"read -r pid _ <{PIECES}/pid; kill -CONT -$pid", check=False)


@contextmanager
def quick_starts(machine: Machine) -> Iterator[None]:
    """A host that asks for a new start gets what its first start makes of it, without the wait."""
    machine.write("usr/bin/env", _REBOOT, 0o755)
    over = threading.Event()
    machine.run("rm", "-f", "/run/reboot-asked")

    def watch() -> None:
        while not over.wait(0.02):
            # Its place is another one after each start.
            if (asked := machine.path("run/reboot-asked")).exists():
                first_start(machine)
                asked.unlink()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        machine.restore("usr/bin/env")


def first_start(machine: Machine) -> None:
    """What an upgraded host will do to be known: it takes the receipt from its boot partition."""
    receipt = machine.path("etc/tower/tower-receipt.json")
    argv = ("mcopy", "-n", "-o", "-i", f"{machine.path(DEVICE)}@@{BOOT[0]}", "::tower-receipt.json", receipt)
    subprocess.run(argv, check=True, timeout=30, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})


def test_a_host_upgrades_its_boot_device_in_place(host: Host, machines: Tower, tmp_path: Path) -> None:
    before = host.digest()
    found = json.loads(host.upgrade("--dry-run"))
    assert found["version"] == "1.1.0 becomes 1.2.0"
    assert DEVICE in found["overwrites"]
    assert host.digest() == before
    assert not (host.folder / "upgrade").exists()
    assert not host.machine.path(PIECES).exists()
    host.machine.restore("usr/bin/env")
    with machines.firmware(NAME, before=first_start):
        found = json.loads(host.upgrade("--timeout", "60"))
    assert (found["state"], found["version"]) == ("answered", "1.2.0")
    host.check_done(tmp_path)
    assert "very image" in json.loads(host.upgrade())["next"]


def test_the_next_start_is_the_upgrade(host: Host, tmp_path: Path) -> None:
    assert json.loads(host.upgrade("--no-restart"))["state"] == "written"
    assert not host.machine.path("etc/tower/tower-receipt.json").exists()
    assert "has already begun" in host.upgrade(status=11)
    first_start(host.machine)
    assert json.loads(host.upgrade(resume=True))["state"] == "answered"
    host.machine.run("rm", "-rf", PIECES)
    host.check_done(tmp_path)


def test_packages_that_cannot_be_installed_again(host: Host, tmp_path: Path) -> None:
    """The new version is there; what is left to do is done by the next command."""
    (host.folder / "world").write_text("no-such-package\n")
    done = host.user.tower("upgrade", NAME, *host.words(), timeout=120)
    assert done.returncode not in (0, 1), done.stdout
    assert f"tower upgrade --resume {NAME}" in done.stderr
    assert json.loads((host.folder / "receipt.json").read_text())["stage"] == "answered"
    assert (host.folder / "upgrade").is_dir()
    host.upgrade("--no-packages", resume=True)
    host.check_done(tmp_path)
    assert (host.folder / "world").read_text() == "no-such-package\n"


def test_the_link_is_lost_while_the_image_is_sent(host: Host, tmp_path: Path) -> None:
    before = host.digest()
    child = host.start("at(inplace, 'read_piece', lambda: time.sleep(0.1))")
    until(lambda: any(len(path.name) == 64 for path in host.machine.path(PIECES).glob("*")))
    with unplugged(host.machine):
        _, said = child.communicate(timeout=60)
    assert child.returncode == 15, said
    assert f"tower upgrade --resume {NAME}" in said
    assert host.digest() == before
    assert state(host) == ""
    host.upgrade(resume=True)
    host.check_done(tmp_path)


def test_the_link_is_lost_while_the_host_writes(host: Host, tmp_path: Path) -> None:
    """The host goes on by itself; tower finds it again."""
    with ExitStack() as stack:
        with frozen_while_it_writes(host) as child:
            stack.enter_context(unplugged(host.machine))
        until(lambda: state(host) == "done")
    out, said = child.communicate(timeout=90)
    assert child.returncode == 0, said
    assert json.loads(out)["state"] == "answered"
    host.check_done(tmp_path)


def test_the_host_loses_its_power_while_it_writes(host: Host, machines: Tower, tmp_path: Path) -> None:
    """The boot partition is written last, so it starts as before; the upgrade is then done again."""
    boot = slice(0, sum(BOOT))
    before = host.device.read_bytes()
    with frozen_while_it_writes(host) as child:
        host.machine.pull_the_plug()
        machines.turn_on(host.machine)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 14, said
    assert "stopped" in said
    assert host.device.read_bytes()[boot] == before[boot]
    assert host.device.read_bytes() != before
    # A disk would be the one that it was; a file is another one after a new start.
    assert "name it: --boot-device" in host.upgrade(resume=True, status=14)
    host.upgrade("--boot-device", DEVICE, resume=True)
    host.check_done(tmp_path)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        *((step, signal.SIGKILL) for step in ("upgrade.begin", "inplace.pieces", "inplace.start", "upgrade.adopt")),
        *((step, signal.SIGTERM) for step in ("inplace._send", "upgrade.restart")),
        *((step, signal.SIGINT) for step in ("inplace.watch", "upgrade.forget")),
    ],
)
def test_stopped_at_every_step_and_continued(host: Host, tmp_path: Path, step: str, number: signal.Signals) -> None:
    module, name = step.split(".")
    child = host.start(f"at({module}, {name!r}, lambda: os.kill(os.getpid(), signal.{number.name}))")
    _, said = child.communicate(timeout=60)
    assert child.returncode in (128 + number, -number), said
    assert "Traceback" not in said
    host.upgrade(resume=(host.folder / "upgrade").is_dir())
    host.check_done(tmp_path)


def test_killed_while_it_sends(host: Host, tmp_path: Path) -> None:
    child = host.start("at(inplace, 'read_piece', lambda: time.sleep(0.1))")
    until(lambda: any(len(path.name) == 64 for path in host.machine.path(PIECES).glob("*")))
    subprocess.run(["kill", "-9", str(child_of(child))], check=True, timeout=10)
    child.communicate(timeout=30)
    host.upgrade(resume=True)
    host.check_done(tmp_path)


def test_a_piece_that_came_to_harm_is_not_written(host: Host, tmp_path: Path) -> None:
    before = host.digest()
    child = host.start("at(inplace, 'start', lambda: os.kill(os.getpid(), signal.SIGKILL))")
    child.communicate(timeout=60)
    piece = max(host.machine.path(PIECES).glob("?" * 64), key=lambda path: path.stat().st_size)
    data = bytearray(piece.read_bytes())
    data[100] ^= 1
    piece.write_bytes(data)
    plan = host.machine.path(f"{PIECES}/plan").read_bytes()
    digest = hashlib.sha256(plan).hexdigest()
    said = host.machine.run("sh", f"{PIECES}/upgrade.sh", "look", DEVICE).stdout
    identity = next(line for line in said.splitlines() if line.startswith("identity=")).partition("=")[2]
    host.machine.run("sh", f"{PIECES}/upgrade.sh", "start", DEVICE, digest, identity)
    until(lambda: state(host).startswith("failed"))
    assert host.digest() == before
    host.upgrade(resume=True)
    host.check_done(tmp_path)


def refused(host: Host, *words: str, status: int) -> str:
    before = host.digest()
    said = host.upgrade(*words, status=status)
    assert host.digest() == before
    assert not (host.folder / "upgrade").exists()
    return said


def test_a_boot_device_that_is_too_small(host: Host) -> None:
    with host.device.open("r+b") as stream:
        stream.truncate(64 * MIB)
    assert "the image needs" in refused(host, status=14)


def test_a_device_that_is_no_boot_device(host: Host) -> None:
    host.device.write_bytes(garbage(96 * MIB))
    assert "no partition table" in refused(host, status=14)
    host.device.unlink()
    assert "no such device" in host.upgrade(status=14)


def test_a_boot_device_without_our_receipt_must_be_named(host: Host) -> None:
    found = host.user.tower("upgrade", NAME, "--image", host.image, "--unsigned", "--yes")
    assert found.returncode == 14, found.stderr
    assert "--device" in found.stderr


def test_a_host_without_room(host: Host) -> None:
    host.machine.run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "/var/lib")
    try:
        before = host.digest()
        assert "MiB free" in host.upgrade(status=14)
        assert host.digest() == before
    finally:
        host.machine.run("umount", "/var/lib")


def test_older_versions_are_refused(host: Host) -> None:
    path = host.folder / "receipt.json"
    path.write_text(path.read_text().replace('"1.1.0"', '"1.10.0"'))
    assert "--older" in refused(host, status=13)
    assert json.loads(host.upgrade("--older", "--dry-run"))["version"] == "1.10.0 becomes 1.2.0"


def test_an_image_that_is_not_signed(host: Host) -> None:
    """A thin client of the same channel for development would take it."""
    before = host.digest()
    release = host.user.machine.read("etc/os-release")
    host.user.machine.write("etc/os-release", release.replace("TOWER_CHANNEL=lab", "TOWER_CHANNEL=alpine-v3.24"))
    done = host.user.tower("upgrade", NAME, "--image", host.image, "--boot-device", DEVICE, "--yes")
    host.user.machine.write("etc/os-release", release)
    assert done.returncode == 13, done.stderr
    assert "not signed" in done.stderr
    assert host.digest() == before
