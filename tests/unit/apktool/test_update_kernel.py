# SPDX-License-Identifier: Apache-2.0
"""update-kernel: kernel, initramfs and modloop of signed packages; the real script, apk and mkinitfs, on small packages."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.unit.apktool.conftest import CHECKOUT, EPOCH, PACKAGES, Lab

RELEASE = "6.12.1-lab"
MODULES = f"lib/modules/{RELEASE}"
MKINITFS = PACKAGES / "mkinitfs/root"


def module(*facts: str) -> bytes:
    """The least of a kernel module that modinfo and depmod read: an ELF file with a section of facts."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = b"".join(fact.encode() + b"\0" for fact in facts)
    head, size = 64, 64

    def section(name: int, kind: int, offset: int, length: int) -> bytes:
        return struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, offset, length, 0, 0, 1, 0)

    table = head + len(info) + len(names)
    sections = section(0, 0, 0, 0) + section(1, 1, head, len(info)) + section(10, 3, head + len(info), len(names))
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, size, 3, 2)
    return header + info + names + sections


@pytest.fixture
def kernel(lab: Lab, tmp_path: Path) -> Lab:
    """A repository with a kernel, its firmware, mkinitfs and a root to start from."""
    for program in ("mksquashfs", "unsquashfs", "depmod", "openssl", *(() if os.geteuid() == 0 else ("fakeroot",))):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{program}: not on this machine")
    lab.package("alpine-base", files={"usr/bin/tool": b"#!/bin/sh\n", "bin": "usr/bin", "etc/words": b"words"})
    features = {
        f"etc/mkinitfs/features.d/{name}": text
        for name, text in {
            "base.files": b"/usr/bin/tool\n",
            "squashfs.modules": b"kernel/one.ko\n",
            "words.files": b"/etc/words\n",
        }.items()
    }
    lab.package("mkinitfs", files=features)
    files: dict[str, bytes | str] = {
        "boot/vmlinuz-lts": b"kernel",
        "boot/config-lts": b"CONFIG=y",
        "usr/share/kernel/lts/kernel.release": RELEASE.encode() + b"\n",
        f"{MODULES}/kernel/one.ko": module("name=one", "firmware=chip/fw.bin"),
        f"{MODULES}/kernel/two.ko": module("name=two"),
        f"{MODULES}/modules.dep": b"kernel/one.ko:\nkernel/two.ko:\n",
        f"{MODULES}/build": "/usr/src/nowhere",
        "boot/dtbs-lts/board.dtb": b"tree",
        "boot/dtbs-lts/overlays/more.dtbo": b"more",
    }
    lab.package("linux-lts", files=files)
    firmware: dict[str, bytes | str] = {
        f"usr/lib/firmware/{name}": name.encode() for name in ("chip/fw.bin", "other.bin", "wanted.bin")
    }
    lab.package("linux-firmware", files=firmware)
    lab.package("extra-modules", files={f"{MODULES}/extra/three.ko": module("name=three")})
    lab.publish()
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, program in (("apk", lab.prefix / "usr/sbin/apk"), ("mkinitfs", MKINITFS / "usr/sbin/mkinitfs")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{program}" "$@"\n')
        (tools / name).chmod(0o755)
    (tmp_path / "repositories").write_text(f"{lab.address}\n")
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/mkinitfs.conf").write_text('features="base"\ninitfscomp="none"\n')
    (tmp_path / "scratch").mkdir()
    return lab


def update_kernel(lab: Lab, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    folder = lab.root.parent
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin",
        "TMPDIR": str(folder / "scratch"),
        "HOME": str(folder),
        "DATADIR": str(MKINITFS / "usr/share/mkinitfs"),
        "SYSCONFDIR": str(folder / "settings"),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        **(env or {}),
    }
    script = CHECKOUT / "pipeline/lab/packages/alpine-conf/root/usr/sbin/update-kernel"
    argv = ["sh", str(script), "--arch", "x86_64", "--keys-dir", str(lab.keys)]
    argv += ["--repositories-file", str(folder / "repositories"), *arguments]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert list((folder / "scratch").iterdir()) == [], "whatever happens, its temporary folder goes"
    return done


def made(lab: Lab, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Path:
    target = lab.root.parent / name
    done = update_kernel(lab, *arguments, "--flavor", "lts", str(target), env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def in_initramfs(path: Path) -> set[str]:
    done = subprocess.run(["cpio", "-t", "--quiet"], stdin=path.open("rb"), capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def in_modloop(path: Path) -> set[str]:
    done = subprocess.run(["unsquashfs", "-l", "-d", "", path], capture_output=True, text=True, check=True)
    return {line.removeprefix("/") for line in done.stdout.splitlines()}


def test_a_medium_gets_all_it_starts_from(kernel: Lab) -> None:
    target = made(kernel, "medium", "--media", "--feature", "base words", "--package", "linux-firmware")
    assert (target / "boot/vmlinuz-lts").read_bytes() == b"kernel"
    assert (target / "boot/config-lts").read_bytes() == b"CONFIG=y"
    assert (target / "boot/dtbs-lts/overlays/more.dtbo").read_bytes() == b"more"
    inside = in_initramfs(target / "boot/initramfs-lts")
    assert {"init", "usr/bin/tool", "etc/words", f"usr/{MODULES}/kernel/one.ko", "etc/apk/keys"} <= inside
    assert f"usr/{MODULES}/kernel/two.ko" not in inside
    modules = in_modloop(target / "boot/modloop-lts")
    assert {f"modules/{RELEASE}/kernel/one.ko", f"modules/{RELEASE}/kernel/two.ko", "modules/firmware/chip/fw.bin"} <= modules
    assert not {f"modules/{RELEASE}/build", "modules/firmware/other.bin", "modules/firmware/wanted.bin"} & modules


def test_a_disk_gets_it_without_a_folder_boot(kernel: Lab) -> None:
    target = made(kernel, "disk", "--feature", "base")
    assert {path.name for path in target.iterdir()} == {"vmlinuz-lts", "config-lts", "initramfs-lts", "modloop-lts", "dtbs"}
    assert (target / "dtbs/dtbs-lts/board.dtb").read_bytes() == b"tree"


def test_modules_and_firmware_of_other_packages(kernel: Lab) -> None:
    options = ("--package", "extra-modules", "--package", "linux-firmware", "--modloopfw", "wanted.bin")
    modules = in_modloop(made(kernel, "more", *options) / "modloop-lts")
    assert {f"modules/{RELEASE}/extra/three.ko", "modules/firmware/wanted.bin"} <= modules
    assert "modules/firmware/other.bin" not in modules


def test_a_signed_modloop(kernel: Lab) -> None:
    private = kernel.keys.parent / "test.rsa"
    keys = {"PACKAGER_PRIVKEY": str(private), "PACKAGER_PUBKEY": str(private.with_name("test.rsa.pub"))}
    stranger = kernel.keys.parent / "stranger.rsa.pub"
    target = made(kernel, "signed", "--media", "--modloopsign", "--apk-pubkey", str(stranger), env=keys)
    signature = "var/cache/misc/modloop-lts.SIGN.RSA.test.rsa.pub"
    assert {signature, "etc/apk/keys/stranger.rsa.pub"} <= in_initramfs(target / "boot/initramfs-lts")
    with (target / "boot/initramfs-lts").open("rb") as stream:
        subprocess.run(["cpio", "-i", "-d", "--quiet", signature], stdin=stream, cwd=target, check=True)
    public = str(kernel.keys / "test.rsa.pub")
    argv = ["openssl", "dgst", "-sha1", "-verify", public, "-signature", str(target / signature)]
    subprocess.run([*argv, target / "boot/modloop-lts"], check=True, capture_output=True)
    assert "PACKAGER_PRIVKEY is not set" in update_kernel(kernel, "--modloopsign", "-f", "lts", str(target)).stderr


def test_the_same_packages_give_the_same_bytes(kernel: Lab) -> None:
    first, second = (made(kernel, name, "--package", "linux-firmware") for name in ("first", "second"))
    for path in first.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "lts"), "DESTDIR is missing"),
        (("{target}",), "--flavor is missing"),
        (("-f", "lts", "{target}", "{target}"), "more than one DESTDIR"),
        (("--nonsense", "x", "-f", "lts", "{target}"), "unknown option --nonsense"),
        (("{target}", "-f"), "-f needs a value"),
        (("-f", "rpi", "{target}"), "linux-rpi"),
        (("-f", "lts", "--package", "no-such-package", "{target}"), "no-such-package"),
        (("-f", "lts", "--modloopfw", "no-such.bin", "{target}"), "the firmware no-such.bin is in no package"),
    ],
)
def test_what_it_cannot_do(kernel: Lab, arguments: tuple[str, ...], message: str) -> None:
    target = kernel.root.parent / "target"
    done = update_kernel(kernel, *(word.format(target=target) for word in arguments))
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not target.exists()


def test_packages_that_nobody_trusted_signed(kernel: Lab) -> None:
    target = kernel.root.parent / "target"
    kernel.keys = kernel.root.parent / "no-keys"
    kernel.keys.mkdir()
    done = update_kernel(kernel, "-f", "lts", str(target))
    assert done.returncode != 0
    assert "UNTRUSTED" in (done.stdout + done.stderr).upper()
    assert not target.exists()


def test_a_run_that_fails_leaves_the_old_kernel(kernel: Lab) -> None:
    target = made(kernel, "kept")
    before = {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()}
    done = update_kernel(kernel, "-f", "lts", "--modloopfw", "no-such.bin", str(target))
    assert done.returncode != 0
    assert {path.name: path.read_bytes() for path in target.iterdir() if path.is_file()} == before
