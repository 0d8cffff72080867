# SPDX-License-Identifier: Apache-2.0
"""`tower upgrade` on the ring: a host writes its own boot device over the network, cut off and killed in every way.

The boot device is a file of the host, since machines of the ring have no disks; all else is as in the product, but that a
machine of the ring cannot be started anew: its `reboot` does what the first start of an upgraded host does to be known,
taking the receipt from the boot partition.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.network.home import FOLDER, HOME, User, child_of, make_hosts, plug_in, unplugged
from tests.network.machines import Machine, Tower
from tests.unit.runtime.disks import BOOT, MIB, ROOT, check_disk, garbage, make_image

NAME = "offline1"
DEVICE = "/srv/boot.img"
IMAGES = f"{HOME}/images"
PIECES = "/var/lib/tower/upgrade"
_REBOOT = f"""\
#!/bin/sh
mkdir -p /etc/tower
MTOOLS_SKIP_CHECK=1 mcopy -n -o -i {DEVICE}@@{BOOT[0]} ::tower-receipt.json /etc/tower/tower-receipt.json
"""
_RECEIPT = """
import sys
from dataclasses import replace
from tower import provision, receipt
from tower.names import HostName
from tower.receipt import Receipt, Stage, Target
from tower.sshconf import RECEIPT, HOST_KEY, tower_of_user
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
        return self.machine.root / DEVICE.lstrip("/")

    @property
    def folder(self) -> Path:
        """What the thin client keeps about it."""
        return self.user.machine.root / FOLDER.lstrip("/") / "hosts" / NAME

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
            "import os, signal, sys, time\nfrom tower import cli, inplace, upgrade\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "def at(module, name, call):\n    whole = getattr(module, name)\n"
            "    setattr(module, name, lambda *a, **k: (call(), whole(*a, **k))[1])\n"
        )
        program = f"{before}{code}\nsys.exit(cli.main(sys.argv[1:]))"
        argv = [sys.executable, "-c", program, "upgrade", NAME, *self.words(*words, resume=resume)]
        env = ("env", "-i", f"HOME={HOME}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8")
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(self.user.machine.argv(*env, *argv), stdin=null, stdout=pipe, stderr=pipe, text=True)

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
        assert not (self.machine.root / PIECES.lstrip("/")).exists()
        assert not list((self.user.machine.root / f"{HOME}/.cache/tower".lstrip("/")).glob(".*"))


@pytest.fixture(scope="module")
def known(machines: Tower) -> User:
    return make_hosts(machines, (NAME,))


@pytest.fixture
def host(known: User, machines: Tower) -> Iterator[Host]:
    """A host of version 1.1.0, whose boot device was used before."""
    machine = machines[NAME]
    images = known.machine.root / IMAGES.lstrip("/")
    if not images.is_dir():
        images.mkdir()
        make_image(images, compress="zstd")
    (image,) = images.glob("*.img.zst")
    for old in ("upgrade", ".upgrade.gone"):
        shutil.rmtree(known.machine.root / f"{FOLDER}/hosts/{NAME}/{old}".lstrip("/"), ignore_errors=True)
    known.machine.run(sys.executable, "-c", _RECEIPT, NAME, env={"HOME": HOME})
    known.machine.write(f"{FOLDER}/hosts/{NAME}/world", "")
    machine.run("rm", "-rf", PIECES, "/etc/tower/tower-receipt.json")
    machine.write("usr/local/bin/reboot", _REBOOT, 0o755)
    found = Host(known, machine, f"{IMAGES}/{image.name}")
    used = bytearray(garbage(96 * MIB, seed=3))
    raw = subprocess.run(("zstd", "-dcq", image), check=True, capture_output=True, timeout=30).stdout
    used[: BOOT[0]] = raw[: BOOT[0]]
    found.device.parent.mkdir(exist_ok=True)
    found.device.write_bytes(used)
    yield found
    plug_in(machine)
    machine.run("sh", "-c", "[ ! -e /usr/bin/dd.fast ] || mv /usr/bin/dd.fast /usr/bin/dd")


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


def slow(host: Host) -> None:
    """A host whose disk is slow."""
    host.machine.run("cp", "/usr/bin/dd", "/usr/bin/dd.fast")
    host.machine.write("usr/bin/dd.slow", '#!/bin/sh\ncase "$*" in *notrunc*) sleep 0.3 ;; esac\nexec dd.fast "$@"\n', 0o755)
    host.machine.run("mv", "/usr/bin/dd.slow", "/usr/bin/dd")


def test_in_place(host: Host, tmp_path: Path) -> None:
    before = host.digest()
    found = json.loads(host.upgrade("--dry-run"))
    assert found["version"] == "1.1.0 becomes 1.2.0"
    assert DEVICE in found["overwrites"]
    assert host.digest() == before
    assert not (host.folder / "upgrade").exists()
    assert not (host.machine.root / PIECES.lstrip("/")).exists()
    found = json.loads(host.upgrade())
    assert (found["state"], found["version"]) == ("answered", "1.2.0")
    host.check_done(tmp_path)
    assert "very image" in json.loads(host.upgrade())["next"]


def test_the_next_start_is_the_upgrade(host: Host, tmp_path: Path) -> None:
    assert json.loads(host.upgrade("--no-restart"))["state"] == "written"
    assert not (host.machine.root / "etc/tower/tower-receipt.json").exists()
    assert "begun already" in host.upgrade(status=11)
    host.machine.run("/usr/local/bin/reboot")
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
    until(lambda: any(len(path.name) == 64 for path in (host.machine.root / PIECES.lstrip("/")).glob("*")))
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
    slow(host)
    child = host.start("")
    until(lambda: state(host).startswith("writing"))
    with unplugged(host.machine):
        until(lambda: state(host) == "done")
    out, said = child.communicate(timeout=90)
    assert child.returncode == 0, said
    assert json.loads(out)["state"] == "answered"
    host.check_done(tmp_path)


def test_the_host_loses_its_power_while_it_writes(host: Host, tmp_path: Path) -> None:
    """The boot partition is written last, so it starts as before; the upgrade is then done again."""
    slow(host)
    boot = slice(0, sum(BOOT))
    before = host.device.read_bytes()
    child = host.start("")
    until(lambda: state(host).startswith("writing"))
    until(lambda: state(host).split()[1] != "0")
    host.machine.run("sh", "-c", f"read -r pid _ <{PIECES}/pid; kill -9 -$pid || kill -9 $pid")
    _, said = child.communicate(timeout=60)
    assert child.returncode == 14, said
    assert "stopped" in said
    assert host.device.read_bytes()[boot] == before[boot]
    assert host.device.read_bytes() != before
    host.upgrade(resume=True)
    host.check_done(tmp_path)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        *((step, signal.SIGKILL) for step in ("upgrade.begin", "inplace.pieces", "inplace.start", "upgrade.adopt")),
        *((step, signal.SIGTERM) for step in ("inplace._send", "upgrade.restart")),
        *((step, signal.SIGINT) for step in ("inplace.watch", "upgrade.forget")),
    ],
)
def test_stopped_at_every_step_and_gone_on_with(host: Host, tmp_path: Path, step: str, number: signal.Signals) -> None:
    module, name = step.split(".")
    child = host.start(f"at({module}, {name!r}, lambda: os.kill(os.getpid(), signal.{number.name}))")
    _, said = child.communicate(timeout=60)
    assert child.returncode in (128 + number, -number), said
    assert "Traceback" not in said
    host.upgrade(resume=(host.folder / "upgrade").is_dir())
    host.check_done(tmp_path)


def test_killed_while_it_sends(host: Host, tmp_path: Path) -> None:
    child = host.start("at(inplace, 'read_piece', lambda: time.sleep(0.1))")
    until(lambda: any(len(path.name) == 64 for path in (host.machine.root / PIECES.lstrip("/")).glob("*")))
    subprocess.run(["kill", "-9", str(child_of(child))], check=True, timeout=10)
    child.communicate(timeout=30)
    host.upgrade(resume=True)
    host.check_done(tmp_path)


def test_a_piece_that_came_to_harm_is_not_written(host: Host, tmp_path: Path) -> None:
    before = host.digest()
    child = host.start("at(inplace, 'start', lambda: os.kill(os.getpid(), signal.SIGKILL))")
    child.communicate(timeout=60)
    piece = max((host.machine.root / PIECES.lstrip("/")).glob("?" * 64), key=lambda path: path.stat().st_size)
    data = bytearray(piece.read_bytes())
    data[100] ^= 1
    piece.write_bytes(data)
    plan = (host.machine.root / PIECES.lstrip("/") / "plan").read_bytes()
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
    before = host.digest()
    done = host.user.tower("upgrade", NAME, "--image", host.image, "--boot-device", DEVICE, "--yes")
    assert done.returncode == 13, done.stderr
    assert "not signed" in done.stderr
    assert host.digest() == before
