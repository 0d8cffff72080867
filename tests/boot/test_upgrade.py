# SPDX-License-Identifier: Apache-2.0
"""A host that is a virtual machine, in a Tower whose other machines are light: `tower` on the thin client provisions it, installs
a package on it, and upgrades it in place to a newer image.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.base.version import OS_RELEASE
from tower.image.verify import sha256_of

from pipeline.images import blockmap
from pipeline.images.boot import LOGIN, MachineType, Tap, started
from pipeline.images.disk import put_root_file, root_file, unpacked
from pipeline.images.guest import FAILURES, Guest
from pipeline.light.machine import command
from pipeline.light.switches import plug_in_tap
from pipeline.sim import machines
from pipeline.sim.machines import USER
from pipeline.sim.plans import THIN_CLIENT
from pipeline.sim.prepared import light_tower
from tests.network.machines import root_files

GIB = 1 << 30
START = 600
"""Seconds of a processor that a start may take."""
BAD = (*FAILURES, "This host is not ready")
TAP = "vm-tap"
BUILDS = ".cache/tower/builds"
NEW = "99.1"
IDENTITY = "hostname; cat /etc/ssh/ssh_host_ed25519_key.pub /etc/os-release"
ENVIRONMENT = {"PYTHONPATH": "/usr/lib/tower", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Client:
    """The thin client, and who types there."""

    machine: machines.Machine

    def run(self, *argv: str, timeout: float = 600) -> str:
        """Run a command as the user; its output."""
        return self.machine.run(*argv, user=USER, env=ENVIRONMENT, timeout=timeout).stdout

    def ssh(self, line: str) -> str:
        """Run a command line on the virtual machine, as `ssh vm` does."""
        return self.run("ssh", "-n", "-oBatchMode=yes", "-oConnectTimeout=60", "vm", line)

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start a command as the user."""
        full = command(self.machine.pid, argv, user=USER, env=ENVIRONMENT)
        return subprocess.Popen(full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def newer_image(image: Path, folder: Path) -> Path:
    """The image as a later build would make it: another version in its root, in its name and in the files beside it."""
    new = folder / re.sub("host-[^-]+-", f"host-{NEW}-", image.name).removesuffix(".zst")
    raw = unpacked(image, folder)
    text = root_file(raw, str(OS_RELEASE)).decode()
    put_root_file(raw, str(OS_RELEASE), re.sub("(?m)^VERSION_ID=.*$", f"VERSION_ID={NEW}", text).encode(), folder)
    raw.rename(new)
    manifest = json.loads(image.with_name(f"{image.name}.manifest.json").read_bytes())
    manifest["version"] = NEW
    manifest["files"] = {new.name: {"sha256": sha256_of(new)}}
    new.with_name(f"{new.name}.manifest.json").write_text(json.dumps(manifest))
    new.with_name(f"{new.name}.bmap").write_bytes(blockmap.dump(blockmap.read_image(new)))
    return new


def lay(client: Client, image: Path) -> None:
    """Put an image into the user's folder of builds, with the files beside it."""
    folder = client.machine.path(f"home/{USER}/{BUILDS}")
    for ending in ("", ".bmap", ".manifest.json"):
        shutil.copyfile(image.with_name(image.name + ending), folder / f"{image.name}{ending}")


def encrypts(guest: Guest) -> None:
    """Wait until the system has moved to the encrypted disk, and restarts."""
    guest.wait("^.*tower-setup: restart$", START, failures=BAD)
    assert "login:" not in guest.text
    assert guest.ended(120)


@pytest.mark.qa("H17")
def test_an_upgrade_in_place_keeps_the_home_and_installs_the_packages_again(images: Path, checkout: Path, tmp_path: Path) -> None:
    (image,) = images.glob("toweros-host-*-lab-pc.img.zst")
    second, mirror = tmp_path / "second.img", checkout / "build" / "lab" / "mirror"
    with second.open("wb") as stream:
        stream.truncate(2 * GIB)
    with light_tower(root_files(), mirror, lambda _: None) as tower:
        client = Client(tower[THIN_CLIENT])
        plug_in_tap(tower.wires, "offline", TAP)
        disk = client.machine.path(f"home/{USER}/vm.img")

        def on(start: str) -> AbstractContextManager[Guest]:
            log = checkout / "build" / "log" / f"upgraded-host-{start}.log"
            return started(MachineType.HOST_PC_BIOS, disk, log=log, second=second, tap=Tap(tower.wires, TAP))

        client.run("mkdir", "-p", BUILDS)
        lay(client, image)
        written = ("--device-file", "vm.img", "--size", "2G", "--target", "pc")
        client.run("tower", "provision", "vm", "--offline", *written, "--yes", "--no-wait")
        with on("first") as guest:
            encrypts(guest)
        with on("installed") as guest:
            guest.wait(LOGIN, START, failures=BAD)
            client.run("tower", "provision", "--resume", "vm", "--timeout", "300")
            client.ssh("echo mine >note; doas sh -c 'echo lost >/etc/note'")
            client.run("tower", "install", "vm", "socat", "--yes")
            before = client.ssh(IDENTITY)
            assert f"VERSION_ID={NEW}" not in before
            # The files of the old version are not needed any more.
            client.run("sh", "-c", f"rm {BUILDS}/*")
            new = newer_image(image, tmp_path)
            lay(client, new)
            new.unlink()
            upgrade = client.start("tower", "upgrade", "vm", "--yes", "--timeout", "3000", "--json")
            assert guest.ended(START), guest.text[-2000:]
        with on("upgrading") as guest:
            guest.wait("home is kept", START, failures=BAD)
            encrypts(guest)
        with on("upgraded") as guest:
            guest.wait(LOGIN, START, failures=BAD)
            out, said = upgrade.communicate(timeout=START)
            assert upgrade.returncode == 0, f"{out}{said}"
            assert json.loads(out)["version"] == NEW
            after = client.ssh(IDENTITY)
            assert f"VERSION_ID={NEW}\n" in after
            name_and_key = slice(0, 2)
            assert after.splitlines()[name_and_key] == before.splitlines()[name_and_key]
            assert client.ssh("cat note; ls /etc/note 2>&1 || true").startswith("mine\nls: ")
            assert "/dev/tower/home /home " in client.ssh("cat /proc/mounts")
            # Nobody has installed it since.
            assert client.ssh("socat -V").startswith("socat by ")
            assert "socat" in client.ssh("cat /etc/apk/world").split()
