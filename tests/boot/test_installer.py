# SPDX-License-Identifier: Apache-2.0
"""The thin client installs itself: the ISO fills two blank disks without a network, and the boot device starts the result.

One live system does all for the tests here: it is asked for in the boot menu, asks its questions, and begins to install, when
the boot device is pulled out. With that in again it installs with Secure Boot, for which its firmware is in setup mode, and then,
when somebody's files are in the new home, upgrades what it has installed; the first try of that is killed. Then the keys of
Secure Boot are given up, the boot device is lost, and a new one is made. What starts afterwards writes to overlays of the disks:
UEFI starts the new installation, with Secure Boot, BIOS the upgraded one by its new boot device.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tower.hosts.secret import hash_password

from pipeline.images.boot import LOGIN
from pipeline.images.guest import ACCELERATION, Guest, running
from tests.boot.hardware import Hardware, secure_firmware
from tests.boot.idle import measure
from tests.gui.pictures import keep, near
from tests.gui.test_desktop import BAR, YELLOW

MIB = 1 << 20
LIMIT = 2400
LONG = 300
pytestmark = pytest.mark.timeout(LIMIT)
SWAP = 256
MOST_MEMORY, MOST_ROOT = 250, 1500
"""MiB; docs/figures.md has what it needs."""
LVM_AT = 17 * MIB + 4096
"""Where LVM writes on a root disk: behind the table of partitions and the header of LUKS2."""
USER, PASSWORD = "al", "correct horse"
START = "EFI/BOOT/BOOTX64.EFI"
"""What firmware starts from a removable disk."""
LIVE = r"\[root@thinclient [^\]]*\][#$] $"
PROMPT = rf"^\[{USER}@thinclient ~\]\$ $"
PC = (
    "qemu-system-x86_64", *ACCELERATION, "-display", "none", "-monitor", "none", "-serial", "chardev:console",
    # AES of the processor, also of an emulated one, is several times as fast.
    "-no-reboot", "-machine", "pc", "-cpu", "qemu64,-cx16,+aes,+pclmulqdq,+ssse3,+sse4.1,+sse4.2", "-m", "1536",
)  # fmt: skip
NETWORKS = ("-nic", "user,model=virtio-net-pci,restrict=on") * 2


HOME = "/run/old"
CLOSED_HOME = f"umount {HOME} && lvm vgchange -an tower && cryptsetup close old"
OPEN_HOME = (
    f"mkdir -p {HOME} /run/key && mount -t vfat -o ro /dev/sda1 /run/key && cryptsetup open --key-file "
    "/run/key/crypto_keyfile.bin /dev/vda1 old && umount /run/key && lvm vgchange -ay tower && lvm vgmknodes && "
    f"mount -t ext4 /dev/tower/home {HOME}"
)
FILES = f"cd {HOME} && find . -type f ! -path './*/docs/*' ! -path './*/builds/*' -exec sha256sum {{}} + | sort"
HOSTS = r"""
import os, sys
from ipaddress import IPv4Address
from tower.hosts import env, secret
from tower.hosts.env import InstallationType, TowerEnv
from tower.base.names import HostName, UserName
from tower.hosts.registry import ENV, HOST_KEY, KEY_FILE, USER_KEY, WORLD, tower_of_user
tower = tower_of_user()
for name, address in (("web", "192.168.2.200"), ("vault", "192.168.3.200")):
    pair, online = secret.new_key_pair(name), address.startswith("192.168.2.")
    def make(place):
        found = TowerEnv(
            hostname=HostName(name), username=UserName("al"), public_key=pair.public, password_hash="$6$salt$" + "a" * 86,
            keyboard_layout="us", keyboard_variant="us", timezone="UTC", lang="C.UTF-8", online=online, wlan=None,
            address=IPv4Address(address), installation_type=InstallationType.INSTALL, color=place.color, alpine_branch="lab",
        )
        public = pair.public.encode() + b"\n"
        return {
            ENV: env.dump(found), USER_KEY: pair.private, f"{USER_KEY}.pub": public, f"{HOST_KEY}.pub": public,
            KEY_FILE: b"x" * 512, WORLD: b"",
        }
    type(tower).check_new = lambda *_, **__: None
    tower.add(HostName(name), online=online, make=make)
"""
"""Makes two hosts known to the user whose home is $HOME."""


@dataclass(frozen=True)
class Installed:
    """The disks of a machine that was installed, and what the installer said."""

    root: Path
    boot: Path
    new_root: Path
    """The disks as they were before the upgrade."""
    new_boot: Path
    said: str
    pulled: str
    """The same, when its boot device was pulled out."""
    failing: str
    """The same of a disk that cannot be written everywhere."""
    planned: str
    log: str
    refused: str
    """What it said when one bit of a package on its medium was another one."""
    upgraded: str
    before: str
    """Checksums of the files in /home, before and after the upgrade."""
    after: str
    repaired: str
    lost: Path
    """The boot device that was replaced in the end by `boot`."""
    variables: Path
    """The firmware's variables after the installation."""
    locked: str
    """What the installer said to the same answers when the firmware had its keys."""
    keys: str
    """Modes, owners and names of the keys of Secure Boot after the upgrade."""
    address: str
    """Of eth0, in the live system."""


def attached(root: Path | None, boot: Path | None, kind: str) -> list[str]:
    """QEMU's arguments for the two disks; the boot device is a USB stick."""
    argv = ["-device", "qemu-xhci,id=usb"]
    if root is not None:
        argv += [
            "-drive",
            f"if=none,id=root,format={kind},file={root},cache=unsafe",
            "-device",
            "virtio-blk-pci,drive=root,serial=ROOT1",
        ]
    if boot is not None:
        argv += ["-drive", f"if=none,id=boot,format={kind},file={boot},cache=unsafe"]
        argv += ["-device", "usb-storage,drive=boot,serial=BOOT1,removable=on,bootindex=1"]
    return argv


def answers_drive(folder: Path) -> Path:
    """A drive with the answers, as somebody would make one."""
    rows = {
        "ROOT_DISK": "ROOT1", "BOOT_DEVICE": "BOOT1", "SWAP": f"{SWAP}M", "USERNAME": USER,
        "PASSWORD_HASH": hash_password(PASSWORD), "KEYBOARD_LAYOUT": "fr", "TIMEZONE": "Europe/Paris", "LANG": "fr_FR.UTF-8",
        "DESKTOP": "yes", "SECURE_BOOT": "yes",
    }  # fmt: skip
    (folder / "answers").write_text("".join(f"{name}='{value}'\n" for name, value in rows.items()))
    (folder / "hosts.py").write_text(HOSTS)
    drive = folder / "answers.img"
    with drive.open("wb") as stream:
        stream.truncate(16 * MIB)
    subprocess.run(["mkfs.vfat", "-n", "ANSWERS", drive], check=True, capture_output=True, timeout=60)
    for name in ("answers", "hosts.py"):
        subprocess.run(["mcopy", "-i", drive, folder / name, f"::{name}"], check=True, timeout=60)
    return drive


@pytest.fixture(scope="module")
def iso(images: Path) -> Path:
    (found,) = images.glob("toweros-thinclient-*-lab-x86_64.iso")
    return found


@pytest.fixture(scope="module")
def installed(iso: Path, checkout: Path, large_files: Path) -> Installed:
    folder = large_files
    root, boot, spare, bad = (folder / f"{name}.img" for name in ("root", "boot", "spare", "bad"))
    for path, size in ((root, 6144 * MIB), (boot, 300 * MIB), (spare, 300 * MIB), (bad, 6144 * MIB)):
        with path.open("wb") as stream:
            stream.truncate(size)
    hardware = Hardware(folder / "qmp")
    variables = folder / "variables.fd"
    argv = [*PC, *secure_firmware(variables), *NETWORKS, *attached(root, None, "raw"), *hardware.argv]
    for name, path in (("boot", boot), ("spare", spare)):
        argv += ["-blockdev", f"driver=raw,node-name={name},cache.no-flush=on,file.driver=file,file.filename={path}"]
    argv += ["-device", "usb-storage,id=boot,drive=boot,bus=usb.0,serial=BOOT1,removable=on"]
    argv += ["-drive", f"file={iso},format=raw,media=cdrom,readonly=on,if=none,id=cd"]
    argv += ["-device", "ide-cd,drive=cd,bootindex=0"]
    argv += ["-drive", f"file={answers_drive(folder)},format=raw,if=none,id=answers,readonly=on"]
    argv += ["-device", "virtio-blk-pci,drive=answers"]
    argv += ["-drive", f"if=none,id=bad,format=raw,{unwritable(bad, LVM_AT)}", "-device", "virtio-blk-pci,drive=bad,serial=BAD1"]
    log = checkout / "build" / "log" / "installer.log"
    with running("installer", argv, log=log, limit=LIMIT, ports={}) as guest:
        guest.wait("Install TowerOS", 300)
        # Ctrl-N is the next entry.
        guest.press("\x0e\r")
        guest.wait(LOGIN, 600)
        guest.type("root")
        pulled = with_the_boot_device_pulled(guest, hardware)
        assert said(guest, "mkdir /run/usb && mount -t vfat -o ro /dev/vdb /run/usb") == ""
        failing = on_a_failing_disk(guest)
        planned = said(guest, "tower setup --answers /run/usb/answers --dry-run 2>&1", 300)
        text = said(guest, "tower setup --answers /run/usb/answers --yes 2>&1", LIMIT)
        kept = said(guest, "cat /var/log/tower-setup.log")
        locked = once_more(guest, "/run/usb/answers")
        refused = with_a_flipped_bit(guest)
        for path in (root, boot, variables):
            # All is written and closed.
            subprocess.run(["cp", "--sparse=always", path, path.with_suffix(".new")], check=True, timeout=300)
        upgraded, before, after, keys = upgrade(guest)
        repaired = with_a_new_boot_device(guest, hardware)
        address = said(guest, "cat /sys/class/net/eth0/address")
        guest.type("poweroff")
        assert guest.ended(300)
    new = (root.with_suffix(".new"), boot.with_suffix(".new"))
    return Installed(
        root, spare, *new, text, pulled, failing, planned, kept, refused, upgraded, before, after, repaired, boot,
        variables.with_suffix(".new"), locked, keys, address,
    )  # fmt: skip


def unwritable(disk: Path, place: int) -> str:
    """A part of a drive's options: its file, of which the sector at `place` cannot be written."""
    fault = f"event=none,file.inject-error.0.iotype=write,file.inject-error.0.errno=5,file.inject-error.0.sector={place >> 9}"
    return f"file.driver=blkdebug,file.image.driver=file,file.image.filename={disk},file.inject-error.0.{fault}"


def with_the_boot_device_pulled(guest: Guest, hardware: Hardware) -> str:
    """Answer what the first login asks, and pull the boot device as soon as it is written; what is said. It is put in again."""
    start = len(guest.text)
    answer(guest)
    guest.wait(r"\[3/11\] dividing both disks: ", LONG)
    hardware.pull("boot")
    guest.wait("Not installed", LONG)
    guest.wait(LIVE, 60)
    text = guest.text[start:]
    put_in(guest, hardware, "boot", "BOOT1")
    return text


def put_in(guest: Guest, hardware: Hardware, drive: str, serial: str) -> None:
    """Put a USB stick in, and wait until the guest has it."""
    hardware.put_in(drive, serial)
    until(guest, "test -b /dev/sda")


def on_a_failing_disk(guest: Guest) -> str:
    """Install on a disk that cannot be written everywhere; what it says."""
    said(guest, "sed s/ROOT1/BAD1/ /run/usb/answers >/run/bad-answers")
    done = guest.command("tower setup --answers /run/bad-answers --yes 2>&1", LONG)
    assert done.status != 0, done.text
    return done.text


def with_a_new_boot_device(guest: Guest, hardware: Hardware) -> str:
    """Lose the boot device, of whose key there is a copy, and make a new one; what that said."""
    said(guest, "mount -t vfat -o ro /dev/sda1 /run/key && cp /run/key/crypto_keyfile.bin /run/copy && umount /run/key")
    hardware.pull("boot")
    until(guest, "test ! -e /dev/sda")
    put_in(guest, hardware, "spare", "BOOT2")
    repair = "tower setup --repair --key-file /run/copy --boot-device BOOT2"
    wrong = guest.command(f"{repair} --yes 2>&1".replace("/run/copy", "/run/written"), LONG)
    assert wrong.status != 0, wrong.text
    return f"{wrong.text}\n{said(guest, f'{repair} --yes 2>&1', LIMIT)}"


def answer(guest: Guest) -> None:
    """Answer the questions, after going back once, and let it install."""
    rows = [
        ("The disk for the system", "/dev/vda"), ("The boot device", "back"), ("The disk for the system", ""),
        ("The boot device", "BOOT1"), ("Size of swap", f"{SWAP}M"), ("Your user name", USER), ("Your password", "wrong"),
        ("The same again", "another"), ("Your password", PASSWORD), ("The same again", PASSWORD), ("Keyboard layout", "fr"),
        ("Variant of the keyboard", ""), ("Time zone", "Europe/Paris"), ("Language", "fr_FR.UTF-8"),
        ("Start the desktop", "yes"), ("Secure Boot with keys", "back"), ("Start the desktop", ""),
        ("Secure Boot with keys", "yes"),
    ]  # fmt: skip
    for question, line in rows:
        guest.wait(rf"{question}.*: ?$", 300)
        guest.type(line)
    guest.wait(r"All on /dev/vda \(serial ROOT1, .*\) and on /dev/sda \(QEMU HARDDISK, serial BOOT1, .*\) will be lost", 300)
    guest.type("yes")


def with_a_flipped_bit(guest: Guest) -> str:
    """Install once more, while a package of the medium differs by one bit; what it says. The disks stay as they are."""
    flip = "p = '/run/bad'; d = bytearray(open(p, 'rb').read()); d[len(d) // 2] ^= 1; open(p, 'wb').write(d)"
    said(guest, "good=$(find /media/*/apks -name '*.apk' | sort | head -n 1) && cp $good /run/bad")
    said(guest, f'python3 -c "{flip}" && mount --bind /run/bad $good')
    said(guest, "grep -v SECURE_BOOT /run/usb/answers >/run/plain-answers")
    text = once_more(guest, "/run/plain-answers")
    return f"{said(guest, 'basename $good; umount $good')}\n{text}"


def once_more(guest: Guest, answers: str) -> str:
    """Install once more, which is refused; what it says. Nothing is written to the disks."""
    said(guest, "cat /sys/block/vda/stat /sys/block/sda/stat | awk '{ print $7 }' >/run/written")
    done = guest.command(f"tower setup --answers {answers} --yes 2>&1", LONG)
    assert done.status != 0, done.text
    said(guest, "cat /sys/block/vda/stat /sys/block/sda/stat | awk '{ print $7 }' | cmp - /run/written")
    return done.text


def upgrade(guest: Guest) -> tuple[str, str, str, str]:
    """Lay somebody's files and hosts in the new home, and upgrade; what that said, and checksums of /home before and after.

    Then the keys of Secure Boot are removed, as somebody would who gives it up; last, how they lay there is returned.
    What kills the first try leaves apk at work in the new root: the second one has to end it before it can unmount.
    """
    said(guest, OPEN_HOME, LONG)
    said(guest, f"HOME={HOME}/{USER} PYTHONPATH=/run/tower/python python3 -P /run/usb/hosts.py", LONG)
    said(
        guest,
        f"cd {HOME}/{USER} && umask 077 && mkdir notes && head -c 99999 /dev/urandom >notes/a && ln -s a notes/b; umask 022",
    )
    said(guest, f"chown -R 1000:1000 {HOME}/{USER}")
    before = said(guest, FILES)
    said(guest, f"cd / && {CLOSED_HOME}", LONG)
    wait = "while ! pgrep -f initdb; do kill -0 $! || break; sleep 1; done"
    said(guest, f"tower setup --upgrade --yes >/run/first 2>&1 & {wait}", 900)
    guest.command("kill -9 $!; pgrep -f initdb")
    # Steps are said when they are done.
    assert said(guest, "cat /run/first").splitlines()[-1].startswith("[4/9] making a new root file system: ")
    upgraded = said(guest, "tower setup --upgrade --yes 2>&1", LIMIT)
    said(guest, OPEN_HOME, LONG)
    after = said(guest, FILES)
    keys = f"{HOME}/root/etc/tower/secure-boot"
    said(guest, f"mkdir {HOME}/root && mount -t ext4 /dev/tower/root {HOME}/root")
    found = said(guest, f"cd {keys} && stat -c '%a %U %n' . *")
    said(guest, f"cd / && rm -r {keys} && umount {HOME}/root && rmdir {HOME}/root")
    said(guest, CLOSED_HOME, LONG)
    return upgraded, before, after, found


def overlay(disk: Path, folder: Path) -> Path:
    made = folder / f"{disk.stem}.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, made], check=True, timeout=60, capture_output=True
    )
    return made


@pytest.fixture(scope="module")
def guest(installed: Installed, hardware: Hardware, checkout: Path, large_files: Path) -> Iterator[Guest]:
    """The installed machine, started from its boot device by its BIOS, with its user logged in."""
    folder = large_files / "installed"
    folder.mkdir()
    disks = attached(overlay(installed.root, folder), overlay(installed.boot, folder), "qcow2")
    log = checkout / "build" / "log" / "installed.log"
    with running("installed", [*PC, *NETWORKS, *disks, *hardware.argv], log=log, limit=LIMIT, ports={}) as machine:
        machine.wait(LOGIN, 600)
        assert not log_in(machine, "wrong")
        machine.wait(LOGIN, 60)
        assert log_in(machine, PASSWORD)
        yield machine


@pytest.fixture(scope="module")
def hardware(tmp_path_factory: pytest.TempPathFactory) -> Hardware:
    """Keyboard, screen and power button of that machine."""
    return Hardware(tmp_path_factory.mktemp("hardware") / "qmp")


def log_in(machine: Guest, password: str) -> bool:
    """Whether the user comes in with a password, typed at a login prompt that was waited for before."""
    for _ in range(10):
        machine.type(USER)
        machine.wait("Password: ?$", 60)
        machine.type(password)
        found = machine.wait(rf"(?s)(.*?)(Login incorrect|{PROMPT})", 90)
        if found[2] != "Login incorrect":
            return True
        # What came before `login` had switched the echo off was thrown away, or a part of it: that was no try.
        if not found[1].strip():
            return False
        machine.wait(LOGIN, 60)
    raise machine.error("every password was typed too early")


def said(guest: Guest, line: str, timeout: float = 60) -> str:
    done = guest.command(line, timeout)
    assert done.status == 0, done.text
    return done.text.strip()


def test_the_plan_names_what_would_be_wiped(installed: Installed) -> None:
    assert re.search(r"root disk +/dev/vda \(serial ROOT1, virtio, 6.44 GB\): will be wiped", installed.planned)
    assert re.search(r"boot device +/dev/sda \(QEMU HARDDISK, serial BOOT1, usb, 315 MB\): will be wiped", installed.planned)


def test_no_secret_is_in_what_the_installer_said_or_logged(installed: Installed) -> None:
    for text in (installed.said, installed.planned, installed.log, installed.upgraded):
        assert "$6$" not in text
        assert PASSWORD not in text


def test_a_medium_with_one_flipped_bit_is_refused_before_a_disk_is_changed(installed: Installed) -> None:
    name, _, said = installed.refused.partition("\n")
    assert name.endswith(".apk")
    assert re.search(rf"tower setup: packages of the medium: .*{re.escape(name)}", said), said
    assert "the medium is damaged: write it again" in said


def test_a_boot_device_that_is_pulled_out_is_named_and_the_state_of_the_disks(installed: Installed) -> None:
    """Afterwards the fixture put it in again, and installed."""
    gone = r"/dev/sda \(QEMU HARDDISK, serial BOOT1, usb, 315 MB\): was taken out, or has lost its connection"
    assert re.search(rf"tower setup: {gone}", installed.pulled), installed.pulled
    assert "put it in again, or take another one; /dev/vda and /dev/sda are wiped and hold no whole system" in installed.pulled


def test_a_disk_that_fails_is_named(installed: Installed) -> None:
    """Not the program that met it."""
    bad = r"/dev/vdc \(serial BAD1, virtio, 6.44 GB\): is failing: the kernel says: .*I/O error, dev vdc, sector [0-9]+"
    assert re.search(rf"tower setup: {bad}", installed.failing), installed.failing
    assert "/dev/vdc and /dev/sda are wiped and hold no whole system: run it again" in installed.failing


def test_a_new_boot_device_is_made_with_a_copy_of_the_key(installed: Installed) -> None:
    """With it starts what is tested here as `guest`. Another key is refused."""
    wrong, _, right = installed.repaired.partition("hint:")
    assert "this key does not open it" in wrong
    assert re.search(r"root disk +/dev/vda .*: stays as it is", right), right
    assert re.search(r"boot device +/dev/sda .*serial BOOT2.*: will be wiped", right), right
    assert "repaired: take the medium out" in right


def test_the_new_boot_device_is_another_one(guest: Guest) -> None:
    """The system mounts it as the old one, and has the same kernel."""
    row, release = said(guest, "grep -o '^UUID=[^[:space:]]*[[:space:]]*/boot' /etc/fstab; uname -r").splitlines()
    assert f'UUID="{row.split()[0].removeprefix("UUID=")}"' in said(guest, "doas /sbin/blkid /dev/sda1")
    assert " /boot vfat " in said(guest, "cat /proc/mounts")
    assert said(guest, "cat /usr/share/kernel/lts/kernel.release").strip() == release


def test_an_upgrade_leaves_a_whole_boot_device(installed: Installed) -> None:
    """The same files as an installation, and the key stays."""

    def files(disk: Path) -> list[str]:
        argv = ["mdir", "-/", "-b", "-i", f"{disk}@@1M", "::"]
        return sorted(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split())

    def content(disk: Path, name: str) -> bytes:
        argv = ["mtype", "-i", f"{disk}@@1M", f"::{name}"]
        return subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout

    assert files(installed.lost) == files(installed.new_boot)
    for name in ("crypto_keyfile.bin", "vmlinuz-lts"):
        assert content(installed.lost, name) == content(installed.new_boot, name), name
    assert content(installed.boot, "crypto_keyfile.bin") == content(installed.lost, "crypto_keyfile.bin")


@pytest.mark.qa("T01")
def test_the_root_disk_is_locked(installed: Installed) -> None:
    with installed.root.open("rb") as stream:
        stream.seek(MIB)
        assert stream.read(6) == b"LUKS\xba\xbe"
    found = subprocess.run(
        ["grep", "-c", "-a", "-m", "1", "tower-home", installed.root], stdout=subprocess.PIPE, timeout=120, check=False
    )
    assert found.stdout.strip() == b"0"


@pytest.mark.qa("T01")
def test_without_the_boot_device_it_does_not_start(installed: Installed, checkout: Path, tmp_path: Path) -> None:
    # Without graphics the BIOS speaks on the serial line.
    argv = [*PC, "-machine", "pc,graphics=off", "-nic", "none", *attached(overlay(installed.root, tmp_path), None, "qcow2")]
    with running("no-boot-device", argv, log=checkout / "build/log/no-boot-device.log", limit=LIMIT, ports={}) as machine:
        machine.wait("Missing OS", 120, failures=("login:", "Linux version"))


@pytest.mark.qa("T01")
@pytest.mark.qa("T03")
def test_the_user_logs_in(guest: Guest) -> None:
    """The fixture did, after a wrong password."""
    assert said(guest, "id -un") == USER
    rows = said(guest, "doas cat /etc/shadow").splitlines()
    assert [row.split(":")[1] for row in rows if row.startswith("root:")] == ["!"]


@pytest.mark.qa("T02")
def test_the_login_says_where_the_manual_is(guest: Guest) -> None:
    assert "The manual: in the folder docs" in guest.text


@pytest.mark.qa("T04")
def test_keyboard(guest: Guest) -> None:
    assert said(guest, "grep ^KEYMAP= /etc/conf.d/loadkmap") == "KEYMAP=/etc/keymap/fr.bmap.gz"
    assert "started" in said(guest, "rc-service loadkmap status 2>&1")


@pytest.mark.qa("T05")
def test_time_zone(guest: Guest) -> None:
    assert said(guest, "date -d '2026-07-01 00:00' +%Z; echo $LANG").split() == ["CEST", "fr_FR.UTF-8"]


@pytest.mark.qa("T06")
def test_prompt(guest: Guest) -> None:
    guest.type("cd /usr/share")
    guest.wait(rf"^\[{USER}@thinclient share\]\$ $", 60)


@pytest.mark.qa("T07")
def test_volumes(guest: Guest) -> None:
    rows = said(guest, "doas lvm lvs --noheadings --units b --nosuffix -o lv_name,lv_size tower").splitlines()
    sizes = {name: int(size) for name, size in (row.split() for row in rows if len(row.split()) == 2)}
    assert sizes.keys() == {"swap", "home", "root"}
    assert sizes["swap"] == SWAP * MIB
    assert abs(sizes["home"] / (sizes["home"] + sizes["root"]) - 0.2) < 0.01
    assert "/home ext4" in said(guest, "cat /proc/mounts")
    assert said(guest, "tail -n +2 /proc/swaps").split()[2] == str(SWAP * 1024 - 4)


@pytest.mark.qa("T08")
def test_cron(guest: Guest) -> None:
    assert "started" in said(guest, "rc-service crond status 2>&1")


@pytest.mark.qa("T09")
@pytest.mark.parametrize("program", ["doas", "sudo"])
def test_root_without_a_password(guest: Guest, program: str) -> None:
    assert said(guest, f"{program} id -u") == "0"


@pytest.mark.qa("T10")
def test_documentation(guest: Guest) -> None:
    assert "TowerOS" in said(guest, "less ~/docs/index.md | cat")
    assert said(guest, "stat -c %U ~/docs/index.md") == USER


@pytest.mark.qa("T11")
def test_manual(guest: Guest) -> None:
    assert "tower" in said(guest, "man tower | head -n 5")


@pytest.mark.qa("T12")
def test_addresses(guest: Guest) -> None:
    text = said(guest, "ip -o -4 addr")
    assert re.search(r"eth0 +inet 192\.168\.2\.100/24", text)
    assert re.search(r"eth1 +inet 192\.168\.3\.100/24", text)


@pytest.mark.qa("T14")
def test_firewall(guest: Guest) -> None:
    assert "started" in said(guest, "doas rc-service firewall status 2>&1")
    said(guest, "doas rc-service firewall check")


@pytest.mark.qa("T19")
def test_version(guest: Guest) -> None:
    text = said(guest, "tower version", 120)
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', said(guest, "cat /etc/os-release"), re.MULTILINE))
    assert release["VERSION_ID"] in text
    assert f"TowerOS thin client {release['VERSION_ID']} (lab)" in text


def test_the_key_is_roots_alone(guest: Guest) -> None:
    modes = said(guest, "doas stat -c '%a %U %n' /crypto_keyfile.bin /boot/crypto_keyfile.bin /boot").splitlines()
    assert modes[0] == "400 root /crypto_keyfile.bin"
    assert modes[2] == "700 root /boot"
    assert guest.command("cat /boot/crypto_keyfile.bin /crypto_keyfile.bin").status != 0


def test_host_images_came_along(guest: Guest, images: Path) -> None:
    names = said(guest, "ls ~/.cache/tower/builds").split()
    for path in images.glob("toweros-host-*.img.zst"):
        assert {path.name, f"{path.name}.bmap", f"{path.name}.manifest.json"} <= set(names)


def test_secure_boot_is_refused_unless_the_firmware_is_in_setup_mode(installed: Installed) -> None:
    """As it is no more after the first installation; the fixture has seen that nothing was written."""
    assert "needs a firmware in setup mode; here: Secure Boot is" in installed.locked
    assert "choose Reset to Setup Mode, or delete the platform key (PK)" in installed.locked


def test_keys_are_roots_alone_and_an_upgrade_keeps_them(installed: Installed, tmp_path: Path) -> None:
    rows = installed.keys.splitlines()
    assert rows[0] == "700 root ."
    names = {f"{name}.{end}" for name in ("PK", "KEK", "db") for end in ("crt", "key")}
    assert {row.split()[-1] for row in rows[1:]} == {*names, "version"}
    assert {row.rpartition(" ")[0] for row in rows[1:]} == {"600 root"}
    assert signer(installed.lost, tmp_path) == signer(installed.new_boot, tmp_path)


def test_nothing_on_the_boot_device_starts_unsigned(installed: Installed) -> None:
    """It has no boot loader, and no initramfs beside the signed file."""
    for disk in (installed.new_boot, installed.lost):
        argv = ["mdir", "-/", "-b", "-i", f"{disk}@@1M", "::"]
        names = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        files = {name for name in names if not name.endswith("/") and "config-" not in name and "System.map" not in name}
        assert files == {"::/crypto_keyfile.bin", "::/vmlinuz-lts", "::/EFI/BOOT/BOOTX64.EFI"}


def signer(disk: Path, folder: Path) -> bytes:
    """The certificate of whose key the firmware's file on a boot device is signed."""
    start, signature = folder / "start", folder / "signature"
    signature.unlink(missing_ok=True)
    start.write_bytes(on_boot_device(disk))
    subprocess.run(["sbattach", "--detach", signature, start], check=True, capture_output=True, timeout=60)
    argv = ["openssl", "pkcs7", "-inform", "DER", "-print_certs", "-in", str(signature)]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


def on_boot_device(disk: Path) -> bytes:
    argv = ["mtype", "-i", f"{disk}@@1M", f"::{START}"]
    return subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.qa("T01")
def test_the_installed_system_starts_by_uefi_with_secure_boot(installed: Installed, checkout: Path, tmp_path: Path) -> None:
    """From its unlocked root, by the file that it has signed. There it signs a new one when apk has changed the kernel."""
    disks = attached(overlay(installed.new_root, tmp_path), overlay(installed.new_boot, tmp_path), "qcow2")
    log = checkout / "build" / "log" / "installed-uefi.log"
    argv = [*PC, *secure_firmware(tmp_path / "variables.fd", installed.variables), *NETWORKS, *disks]
    with running("installed-uefi", argv, log=log, limit=LIMIT, ports={}) as machine:
        machine.wait(LOGIN, 600)
        assert log_in(machine, PASSWORD)
        assert "Secure boot enabled" in said(machine, "doas dmesg | grep -i secureboot")
        assert "[integrity]" in said(machine, "doas cat /sys/kernel/security/lockdown")
        keys = "/etc/tower/secure-boot"
        assert machine.command(f"ls {keys}").status != 0
        said(machine, f"doas cp /boot/{START} /root/before && echo 1 | doas tee {keys}/version")
        signed = said(machine, "doas apk add --no-network --repositories-file /dev/null bash 2>&1", LONG)
        assert "signing what is started: " in signed
        said(machine, f"doas sbverify --cert {keys}/db.crt /boot/{START} && ! doas cmp -s /boot/{START} /root/before")
        assert "signing" not in said(machine, "doas apk add --no-network --repositories-file /dev/null bash 2>&1", LONG)


@pytest.mark.parametrize("what", ["one bit", "another loader"])
def test_the_firmware_refuses_a_changed_boot_device(installed: Installed, iso: Path, tmp_path: Path, what: str) -> None:
    """One bit of the kernel is another one, or the medium's GRUB lies in the place of what is signed."""
    start, disk = tmp_path / "start", tmp_path / "boot.img"
    subprocess.run(["cp", "--sparse=always", installed.new_boot, disk], check=True, timeout=300)
    if what == "one bit":
        data = bytearray(on_boot_device(disk))
        data[len(data) // 2] ^= 1
        start.write_bytes(data)
    else:
        grub = ["xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", "/efi/boot/bootx64.efi", str(start)]
        subprocess.run(grub, check=True, capture_output=True, timeout=60)
    subprocess.run(["mcopy", "-o", "-i", f"{disk}@@1M", start, f"::{START}"], check=True, timeout=60)
    argv = [*PC, *secure_firmware(tmp_path / "variables.fd", installed.variables), "-nic", "none", *attached(None, disk, "raw")]
    with running("refused", argv, log=tmp_path / "refused.log", limit=LIMIT, ports={}) as machine:
        machine.wait("BdsDxe: failed to load .* USB .*: Access Denied", 120, failures=("Linux version", "Loading"))


@pytest.mark.qa("T13")
def test_the_address_of_eth0_stays(guest: Guest, installed: Installed) -> None:
    """Of two interfaces the same one is eth0, as it was when the machine ran the live system."""
    assert installed.address == "52:54:00:12:34:56"
    assert said(guest, "cat /sys/class/net/eth0/address") == installed.address


@pytest.mark.qa("T15")
def test_radio_is_blocked(guest: Guest) -> None:
    """That of the kernel's simulated adapters, which come long after the start."""
    said(guest, "doas modprobe -a mac80211_hwsim hci_vhci", 120)
    script = "import os,glob;f=os.open('/dev/vhci',2);os.write(f,bytes([255,0]));" + (
        "[print(open(p+'/type').read().strip(),open(p+'/soft').read().strip()) for p in glob.glob('/sys/class/rfkill/*')]"
    )
    rows = set(said(guest, f'doas python3 -c "{script}"').splitlines())
    assert rows == {"wlan 1", "bluetooth 1"}
    assert "started" in said(guest, "rc-service tower-radio status 2>&1")


def test_memory_and_space(guest: Guest, checkout: Path) -> None:
    """Of a system on which one user is logged in, without a desktop."""
    found = measure(lambda line: said(guest, line), checkout / "build/log/idle-thinclient.json")
    assert found["memory_mib"] < MOST_MEMORY, found
    assert found["root_mib"] < MOST_ROOT, found


def test_no_service_has_crashed(guest: Guest) -> None:
    """As root sees it: nobody else may read the process numbers of busybox's services, and takes them for crashed."""
    assert guest.command("doas rc-status --crashed 2>&1").text.strip() == ""


@pytest.mark.qa("T20")
def test_the_shell_completes_words_of_tower(guest: Guest) -> None:
    # Several commands begin so: they are listed.
    guest.press("tower p\t\t")
    guest.wait(r"\bprovision\b", 60)
    for more, whole in (("r\t", "tower provision "), ("\x15tower status w\t", "tower status web ")):
        guest.press(more)
        guest.wait(rf"{whole}$", 60)
    # Ctrl-U: nothing of it is run.
    guest.press("\x15")


@pytest.mark.qa("T23")
def test_an_upgrade_keeps_home_and_hosts(guest: Guest, installed: Installed) -> None:
    """The fixture did, after a first try was killed while it installed packages."""
    assert installed.before.count(" ./al/.local/tower/hosts/") >= 12
    assert installed.after == installed.before
    assert "/home stays" in installed.upgraded
    assert said(guest, "readlink ~/notes/b; stat -c '%U %a' ~/notes").split() == ["a", USER, "700"]
    assert guest.command("doas ls /home/.tower-upgrade").status != 0
    found = guest.command("tower status --json 2>&1", 180).text
    assert '"web"' in found
    assert '"vault"' in found


def on_screen(guest: Guest, words: str) -> None:
    """Wait until the first console shows these words."""
    until(guest, f"doas cat /dev/vcs1 | grep -q '{words}'")


def until(guest: Guest, line: str) -> None:
    """Wait until a command is successful."""
    ends = time.monotonic() + 900
    while guest.command(line).status != 0:
        assert time.monotonic() < ends, f"never so: {line}"
        time.sleep(1)


@pytest.mark.qa("T16")
@pytest.mark.qa("T17")
def test_the_desktop_starts_at_login(guest: Guest, hardware: Hardware, checkout: Path) -> None:
    """As chosen at the installation: on the first console, on a screen of the machine, with its own drivers."""
    assert said(guest, "startw --show | grep at_login") == "at_login=yes"
    on_screen(guest, "thinclient login:")
    hardware.type(USER, french=True)
    on_screen(guest, "Password:")
    hardware.type(PASSWORD, french=True)
    until(guest, "pgrep -x waybar")
    ends = time.monotonic() + 900
    while True:
        found = hardware.screen()
        if found.share(BAR, found.width // 3, found.height - 28, found.width // 2, found.height - 2) > 0.8:
            break
        assert time.monotonic() < ends, (
            f"{keep(found, 'no desktop on the screen')}: {said(guest, 'cat ~/.cache/tower/desktop.log')}"
        )
        time.sleep(1)
    keep(found, "desktop on the screen")
    measure(lambda line: said(guest, line), checkout / "build/log/idle-desktop.json")
    assert sum(near(found.at(x, y), YELLOW) for y in range(0, found.height, 4) for x in range(0, found.width, 4)) > 50
    said(guest, "pkill -x labwc")
    # No shell is left on that console.
    on_screen(guest, "thinclient login:")


@pytest.mark.qa("T21", simulated="the emulated machine has a power button, but no lid")
def test_the_power_button_shuts_down(guest: Guest, hardware: Hardware) -> None:
    """The last test here: what it leaves is off."""
    hardware.do({"execute": "system_powerdown"})
    guest.wait("Unmounting|Remounting", 180)
    assert guest.ended(180)
