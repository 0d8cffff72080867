# SPDX-License-Identifier: Apache-2.0
"""An encrypted root: LUKS2 with LVM in it, unlocked by a key that is not on its disk. Without the key it does not start.

Kernel, initramfs and root are made of the channel's packages, in the builder; the disk is filled by a machine of its own.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli.command_line import open_factory
from pipeline.images.boot import LOGIN
from pipeline.images.guest import ACCELERATION, Guest, running
from pipeline.sandbox.spec import CAPABILITIES, Sandbox
from pipeline.sandbox.stage_run import run_stage
from pipeline.sandbox.transfer import Input

MIB = 1 << 20
SCRIPTS = Path(__file__).parent / "encrypted"
KEY_SIZE, KEY_OFFSET = 64, 4096
LIMIT = 300
KEY_GUID = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0"
DISK_ID = "544f5745"
BASE = "console=ttyS0,115200 quiet panic=5 root=/dev/tower/root rootfstype=ext4 rootflags=rw"
PROMPT = r"^[^\n]*# $"


@dataclass(frozen=True)
class Parts:
    """What the machine is put together from."""

    folder: Path
    luks: str

    def argv(self, initramfs: str, cmdline: str, *disks: tuple[str, str]) -> list[str]:
        """QEMU's arguments; each disk is a file's name and options of its drive."""
        argv = ["qemu-system-x86_64", *ACCELERATION, "-display", "none", "-monitor", "none", "-no-reboot"]
        argv += ["-serial", "chardev:console", "-machine", "pc", "-cpu", "qemu64,-cx16", "-m", "768", "-nic", "none"]
        argv += ["-kernel", str(self.folder / "vmlinuz-lts"), "-initrd", str(self.folder / initramfs), "-append", cmdline]
        for name, options in disks:
            argv += ["-drive", f"file={self.folder / name},format=raw,if=virtio{options}"]
        return argv


def partitioned(path: Path, size: int, table: str) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["sfdisk", "-q", path], input=table, text=True, check=True, timeout=60)


@pytest.fixture(scope="module")
def parts(images: Path, checkout: Path, large_files: Path) -> Parts:
    """Kernel, initramfs and file systems from the builder; the disk is still empty, the key lies on another."""
    assert images.is_dir()  # so the channel's repository is built
    folder = large_files
    factory = open_factory(checkout)
    found = {name: factory.find(factory.plan.nodes[name]) for name in ("channel:repository:x86_64", "channel:keys")}
    repository, keys = found["channel:repository:x86_64"], found["channel:keys"]
    assert repository is not None
    assert keys is not None
    key = os.urandom(KEY_SIZE)
    sources = {path.name: path.read_bytes() for path in (*sorted(SCRIPTS.glob("*.sh")), checkout / "stages/host-boot/lvm.conf")}
    sandbox = Sandbox(
        name="encrypted",
        image=factory.builder(),
        argv=("sh", "/src/make.sh"),
        epoch=factory.plan.channel.epoch,
        inputs=(Input("/in/repository", repository), Input("/in/keys", keys), Input("/src", {**sources, "key": key})),
        env={"SOURCE_DATE_EPOCH": str(factory.plan.channel.epoch)},
        capabilities=tuple(sorted(CAPABILITIES)),
        timeout=LIMIT,
    )
    log = checkout / "build" / "log" / "encrypted-parts.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        run_stage(factory.engine, sandbox, outputs=folder, declared=None, log=stream, hint=f"see {log}")
    partitioned(folder / "disk.img", 400 * MIB, f"label: dos\nlabel-id: 0x{DISK_ID}\nstart=2048\n")
    partitioned(
        folder / "key.img", 4 * MIB, f"label: gpt\nstart=2048, size=2048, name=boot\nstart=4096, size=2048, uuid={KEY_GUID}\n"
    )
    with (folder / "key.img").open("r+b") as stream:
        stream.seek(4096 * 512 + KEY_OFFSET)
        stream.write(key)
    return Parts(folder, str(uuid.uuid4()))


@pytest.fixture(scope="module")
def filled(parts: Parts, checkout: Path) -> Parts:
    """The same, its disk encrypted with the key and filled."""
    cmdline = f"console=ttyS0,115200 quiet luks_uuid={parts.luks} key_offset={KEY_OFFSET} key_size={KEY_SIZE}"
    disks = (("disk.img", ""), ("key.img", ",readonly=on"), ("root.ext4", ",readonly=on"), ("home.ext4", ",readonly=on"))
    log = checkout / "build" / "log" / "encrypted-fill.log"
    with running("fill", parts.argv("maker", cmdline, *disks), log=log, limit=LIMIT, ports={}) as guest:
        guest.wait("^disk: filled$", LIMIT, failures=("disk: failed",))
        assert guest.ended(60)
    with (parts.folder / "disk.img").open("rb") as stream:
        stream.seek(MIB)
        assert stream.read(6) == b"LUKS\xba\xbe"
    return parts


@contextmanager
def started(parts: Parts, name: str, checkout: Path, initramfs: str, options: str, *disks: tuple[str, str]) -> Iterator[Guest]:
    argv = parts.argv(initramfs, f"{BASE} {options}", ("disk.img", ",snapshot=on"), *disks)
    with running(name, argv, log=checkout / "build" / "log" / f"{name}.log", limit=LIMIT, ports={}) as guest:
        yield guest


def check(guest: Guest, name: str) -> None:
    """Check that the machine is up, and that root and home are volumes on the unlocked device."""
    guest.wait(LOGIN, LIMIT)
    guest.login("root", prompt=PROMPT)
    mounts = guest.command("cat /proc/mounts").text
    assert "/dev/tower/home /home ext4" in mounts
    assert guest.command("cat /home/is-home").text.strip() == "home"
    # The name of the mapping, and what it is, as the kernel tells it.
    mapped = guest.command("cd /sys/class/block; grep . dm-*/dm/name dm-*/dm/uuid; ls dm-*/slaves; stat -c %d /").text
    assert f"name:{name}\n" in mapped
    assert "uuid:CRYPT-LUKS2-" in mapped
    assert {"name:tower-root", "name:tower-home"} <= {line.partition("/dm/")[2] for line in mapped.splitlines()}


@pytest.mark.qa("T01", simulated="the test lays the disk")
@pytest.mark.qa("H02", simulated="the test lays the disk; tests/boot/test_provision.py has the host that does")
def test_starts_with_the_key_alone(filled: Parts, checkout: Path) -> None:
    by_device = f"cryptroot=UUID={filled.luks} cryptdm=tower-crypt cryptkey=PARTUUID={KEY_GUID.lower()}:{KEY_OFFSET}:{KEY_SIZE}"
    within = f"cryptroot=PARTUUID={DISK_ID}-01 cryptdm=tower-crypt cryptkey=yes"
    with ExitStack() as stack:
        # It looks for its key for a while, in which the others start.
        without = stack.enter_context(started(filled, "encrypted-without-key", checkout, "starter", by_device))
        with started(filled, "encrypted-key-device", checkout, "starter", by_device, ("key.img", ",readonly=on")) as guest:
            check(guest, "tower-crypt")
        with started(filled, "encrypted-key-within", checkout, "keyed", within) as guest:
            check(guest, "tower-crypt")
        # Without its key there is nothing to start, and neither a question nor a shell.
        without.wait("Mounting root failed", LIMIT, failures=("login:", "recovery shell", "passphrase"))
        without.wait("Attempted to kill init", LIMIT, failures=("login:", "recovery shell", "passphrase"))
        assert without.ended(60)
        assert "login:" not in without.text
