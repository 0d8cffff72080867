# SPDX-License-Identifier: Apache-2.0
"""A disk that `tower provision` made of the factory's own image: whole, with the host's files; started, the host encrypts its
second disk, copies the system onto it, starts from there, makes itself ready and answers.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.hosts.registry import HOST_KEY
from tower.provision import progress
from tower.provision.progress import ForeignError

from pipeline.images.boot import LOGIN, SSH, MachineType, check_banner, started
from pipeline.images.disk import boot_file, boot_files, check_root, partitions, put_boot_file, root_file, unpacked
from pipeline.images.guest import FAILURES
from pipeline.images.new_host import new_host
from tests.boot.hardware import Hardware
from tests.boot.idle import measure
from tests.boot.test_images import SCRIPTS

MIB = 1 << 20
GIB = 1 << 30
MONTH = 30 * 86400
MOST_MEMORY, MOST_ROOT = 200, 600
"""MiB; docs/figures.md has what a host needs."""
START = 600
"""Seconds that a start may take on a machine that does other things beside."""
BOOT_DEVICE_OUT = (
    r"the boot device, sda \(QEMU HARDDISK, (serial number BOOT1, )?[0-9]+ MB\), was taken out: "
    "put it in, and switch this host off and on"
)


@pytest.fixture(scope="module")
def provisioned(images: Path, large_files: Path) -> tuple[Path, Path]:
    """The disk of a host, and the folder that the thin client keeps about it."""
    (image,) = images.glob("toweros-host-*-lab-pc.img.zst")
    home = large_files / "home"
    home.mkdir()
    target = home / "vm.img"
    argv = [
        sys.executable,
        "-P",
        "-m",
        "tower",
        "provision",
        "vm",
        "--offline",
        "--username",
        "al",
        "--unsigned",
        "--no-wait",
        "--yes",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    options = ["--image", str(image), "--device-file", str(target), "--size", "2G", "--json"]
    done = subprocess.run([*argv, *options], cwd=home, env=env, check=True, capture_output=True, timeout=300)
    assert json.loads(done.stdout)["state"] == "written"
    return target, home / ".local/tower/hosts/vm"


def test_the_disk_is_whole_and_has_the_hosts_files(provisioned: tuple[Path, Path]) -> None:
    disk, folder = provisioned
    boot, root = partitions(disk)
    assert root.start + root.size == disk.stat().st_size == 2 * GIB
    assert root.start == boot.start + boot.size
    for name in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json"):
        assert boot_file(disk, name) == (folder / name).read_bytes(), name
    check_root(disk)
    assert b"ID=toweros\n" in root_file(disk, "/etc/os-release")


def has(path: Path, *needles: bytes) -> list[bytes]:
    """Which of them are somewhere in a file, which may be large."""
    found: set[bytes] = set()
    rest = b""
    with path.open("rb") as stream:
        while block := stream.read(16 << 20):
            text = rest + block
            found |= {needle for needle in needles if needle in text}
            rest = text[-1024:]
    return sorted(found)


def secrets_of(folder: Path) -> list[bytes]:
    """What must not be found on a disk: lines of the private key, the password's hash, the name of the user's key."""
    settings = dict(line.split("=", 1) for line in (folder / "tower.env").read_text().splitlines())
    key = (folder / "ssh_host_ed25519_key").read_bytes().splitlines()
    return [*key[1:-1], settings["PASSWORD_HASH"].encode(), settings["PUBLIC_KEY"].strip("'").encode()]


def check_steps(log: str, kept: Path) -> None:
    """The host took the steps that `tower provision` counts, in their order; the log stays beside those of the machines."""
    kept.write_text(log)
    names = [re.split("[ :]", line)[1] for line in log.splitlines()]
    last_start = names[len(names) - 1 - names[::-1].index("disk") + 1 : -1]
    counted = [*progress.ENCRYPTING, *progress.MAKING]
    # One start was cut off among them: what it had begun, the next one did again.
    last_start = list(dict.fromkeys(name for name in last_start if name != "failed"))
    # This disk was made at the start before, as this host's: only the system is copied again.
    assert last_start == [name for name in counted if name not in {"partition", "encrypt", "volumes"}], log
    assert names[-1] == "ready"


@dataclass(frozen=True)
class Encrypted:
    """A host after its first start, which gave it an encrypted disk."""

    disk: Path
    second: Path
    folder: Path


def wait_for_step(name: str, port: int, folder: Path) -> None:
    """Until a host, asked as the thin client asks it, says that it has begun this step of its first start."""
    ends, said = time.monotonic() + START, "nothing"
    while time.monotonic() < ends:
        with suppress(OSError, ForeignError):
            if found := progress.ask(("127.0.0.1", port), folder / HOST_KEY):
                said = str(found)
                if any(step == name for step, _ in found.steps):
                    return
        time.sleep(0.2)
    pytest.fail(f"the host has not said that it began {name}, but {said}")


@pytest.fixture(scope="module")
def encrypted(provisioned: tuple[Path, Path], checkout: Path, large_files: Path) -> Encrypted:
    """Its first start was cut off three times: by the power while its second disk was encrypted, by pulling out its boot device
    while the system was copied onto that disk, and again in its last steps, on that disk.
    """
    disk, folder = provisioned
    made = Encrypted(large_files / "encrypted.img", large_files / "second.img", folder)
    subprocess.run(["cp", "--sparse=always", disk, made.disk], check=True, timeout=120)
    with made.second.open("wb") as stream:
        stream.truncate(2 * GIB)
    bad = (*FAILURES, "This host is not ready")
    hardware = Hardware(made.second.with_name("qmp"))
    for number, last in enumerate(("encrypt", "system", "restart")):
        log = checkout / "build" / "log" / f"provisioned-first-start-{number}.log"
        qmp = hardware.place if last == "system" else None
        with started(MachineType.HOST_PC_BIOS, made.disk, log=log, second=made.second, qmp=qmp) as guest:
            if last == "restart":
                wait_for_step("system", guest.ports[SSH], folder)
            guest.wait(f"^.*tower-setup: {last}$", START, failures=bad)
            # What was not finished is made again, what was stays.
            assert ("tower-setup: partition" in guest.text) != ("home is kept" in guest.text), guest.text
            assert last != "restart" or "home is kept" in guest.text, guest.text
            # Before that, nothing of it is open.
            assert "login:" not in guest.text
            if last == "system":
                hardware.pull("boot")
                guest.wait(f"tower-setup: failed at: system: {BOOT_DEVICE_OUT}", START)
            if last == "restart":
                assert guest.ended(120)
    log = checkout / "build" / "log" / "provisioned-last-steps.log"
    with started(MachineType.HOST_PC_BIOS, made.disk, log=log, second=made.second, qmp=hardware.place) as guest:
        guest.wait("tower-setup: time_source$", START, failures=bad)
        hardware.pull("boot")
        guest.wait(f"tower-setup: (failed at: )?(time_source|receipt|secrets): {BOOT_DEVICE_OUT}", START, failures=("login:",))
        guest.wait("This host is not ready", START, failures=("login:",))
        assert "tower-setup: ready" not in guest.text
    return made


def test_a_second_disk_that_fails_is_named(provisioned: tuple[Path, Path], checkout: Path, tmp_path: Path) -> None:
    """One of its sectors cannot be written; the host says so, and starts nothing from there."""
    disk, second = (tmp_path / name for name in ("vm.img", "second.img"))
    subprocess.run(["cp", "--sparse=always", provisioned[0], disk], check=True, timeout=120)
    second.touch()
    os.truncate(second, 2 * GIB)
    log = checkout / "build" / "log" / "provisioned-failing.log"
    # In the volume of the root, behind that of home, which has a fifth of the disk.
    with started(MachineType.HOST_PC_BIOS, disk, log=log, second=second, broken=540 * MIB) as guest:
        guest.wait(r"tower-setup: failed at: system: vdb \(2147 MB\) is failing, or was taken out", START)
        guest.wait("This host is not ready", START)
        assert "login:" not in guest.text
    assert b"root=LABEL=tower-root" in boot_file(disk, "/grub/grub.cfg")
    assert boot_file(disk, "tower.env") == (provisioned[1] / "tower.env").read_bytes()


def test_a_host_that_runs_from_its_boot_device_says_that_it_was_pulled_out(images: Path, checkout: Path, tmp_path: Path) -> None:
    """It has nothing else to start a program from, then. At the next start, by UEFI this time, it goes on."""
    (image,) = images.glob("toweros-host-*-lab-pc.img.zst")
    disk, other = unpacked(image, tmp_path), tmp_path / "other.img"
    for name, data in new_host().items():
        put_boot_file(disk, f"/{name}", data, tmp_path)
    other.touch()
    os.truncate(other, 16 * MIB)
    hardware = Hardware(tmp_path / "qmp")
    log = checkout / "build" / "log" / "unencrypted-pulled.log"
    with started(MachineType.HOST_PC_BIOS, disk, log=log, second=other, qmp=hardware.place) as guest:
        guest.wait("tower-setup: time_source$", START)
        hardware.pull("boot")
        said = f"tower-setup: (failed at: )?(time_source|receipt|secrets): {BOOT_DEVICE_OUT}"
        guest.wait(said, START, failures=("login:", "tower-setup: ready"))
    log = log.with_name("unencrypted-put-in.log")
    with started(MachineType.HOST_PC_UEFI, disk, log=log, second=other) as guest:
        guest.wait("tower-setup: ready", START)
        guest.wait(LOGIN, START)
        check_banner(guest, guest.banner(SSH, START))
        # The scripts of its packages ran when its root was made: none is left for the device.
        assert re.findall(SCRIPTS, guest.text) == [], guest.text[-4000:]
    assert not {"/tower.env", "/ssh_host_ed25519_key"} & set(boot_files(disk))


def test_no_secret_is_left_on_what_is_not_encrypted(encrypted: Encrypted, provisioned: tuple[Path, Path]) -> None:
    key = encrypted.folder / "crypto_keyfile.bin"
    left = set(boot_files(encrypted.disk))
    assert "/initramfs-key" in left
    assert not {"/tower.env", "/crypto_keyfile.bin", "/ssh_host_ed25519_key", "/ssh_host_ed25519_key.pub"} & left
    secrets = secrets_of(encrypted.folder)
    # They were there: else this would prove nothing.
    assert len(has(provisioned[0], *secrets)) == len(set(secrets))
    assert has(encrypted.disk, *secrets) == []
    assert has(encrypted.second, key.read_bytes(), *secrets, b"ID=toweros") == []
    # The key is where the loader gives it to the kernel, and nowhere else.
    assert has(encrypted.disk, key.read_bytes()) == []
    archive = gzip.decompress(boot_file(encrypted.disk, "/initramfs-key"))
    listed = subprocess.run(
        ["cpio", "-tv", "--quiet"], input=archive, capture_output=True, check=True, timeout=60
    ).stdout.decode()
    assert listed.startswith("-r--------")
    assert listed.split()[-1] == "crypto_keyfile.bin"
    assert key.read_bytes() in archive


@pytest.mark.qa("H02")
def test_the_disk_does_not_start_without_the_boot_device(encrypted: Encrypted, checkout: Path) -> None:
    log = checkout / "build" / "log" / "provisioned-no-boot-device.log"
    with started(MachineType.HOST_PC_UEFI, encrypted.second, log=log) as guest:
        guest.wait(
            "BdsDxe: No bootable option|UEFI Interactive Shell|Start PXE over", START, failures=("login:", "Linux version")
        )


@pytest.mark.qa("H01")
@pytest.mark.qa("H02")
@pytest.mark.qa("H04")
@pytest.mark.qa("H08")
@pytest.mark.qa("H11")
@pytest.mark.qa("H13")
@pytest.mark.qa("H18")
def test_the_host_starts_from_its_encrypted_disk_and_answers(encrypted: Encrypted, checkout: Path) -> None:
    log = checkout / "build" / "log" / "provisioned-second-start.log"
    folder, machine = encrypted.folder, MachineType.HOST_PC_UEFI
    # Its disks have changed their names since, and nobody has told it the time.
    with started(machine, encrypted.disk, log=log, second=encrypted.second, swapped=True, clock="1970-01-01T00:00:00") as guest:
        guest.wait(LOGIN, START)
        check_banner(guest, guest.banner(SSH, machine.limit / 2))
        assert "vm login:" in guest.text
        config, port = folder.parents[1] / "config", guest.ports[SSH]
        to_host = ("-oBatchMode=yes", "-oHostName=127.0.0.1", f"-oPort={port}", "-oConnectTimeout=60")

        def on_host(line: str) -> str:
            argv = ["ssh", "-F", str(config), *to_host, "-n", "vm", line]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            return str(done.stdout)

        assert on_host("hostname; id -un; doas id -un").split() == ["vm", "al", "root"]
        assert on_host("cat /sys/block/vda/size /sys/block/vdb/size").split() == ["4194304", "4194304"]
        assert 'LABEL="TOWER-BOOT"' in on_host("doas /sbin/blkid /dev/vdb1")
        # The firmware may correct what it takes for an empty battery, but it does not know the time.
        assert time.time() - int(on_host("date +%s")) > MONTH
        assert on_host("cat /etc/tower/tower-receipt.json") == (folder / "tower-receipt.json").read_text()
        on_host("doas /usr/libexec/tower/firewall check && doas /sbin/rc-service -q firewall status")
        radio = on_host(
            "doas /sbin/rc-service -q tower-radio status; cat /sys/class/rfkill/*/soft 2>/dev/null | grep -c 0 || true"
        )
        assert radio.strip() == "0"
        # Root and home are volumes on the opened disk, and home is a fifth of them.
        mounts = {row.split()[1]: row.split()[0] for row in on_host("cat /proc/mounts").splitlines()}
        sizes = on_host("cd /sys/class/block; for d in dm-*; do echo $(cat $d/dm/name $d/size); done").splitlines()
        volumes = {row.split()[0]: int(row.split()[1]) for row in sizes}
        assert (mounts["/"], mounts["/home"]) == ("/dev/tower/root", "/dev/tower/home")
        assert volumes["tower-home"] / (volumes["tower-home"] + volumes["tower-root"]) == pytest.approx(0.2, abs=0.01)
        assert on_host("cat /sys/class/block/dm-*/dm/uuid").startswith("CRYPT-LUKS2-")
        needs = measure(on_host, checkout / "build" / "log" / "idle-host.json")
        assert needs["memory_mib"] < MOST_MEMORY, needs
        assert needs["root_mib"] < MOST_ROOT, needs
        left = on_host("doas mount /boot && doas ls /boot; doas umount /boot").split()
        assert {"tower-receipt.json", "initramfs-key"} <= set(left)
        assert not {"tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key"} & set(left)
        assert on_host("doas ls /var/lib/tower/setup").split() == ["done", "ready", "steps"]
        check_steps(on_host("doas cat /var/log/tower-setup.log"), checkout / "build" / "log" / "provisioned-steps.log")
