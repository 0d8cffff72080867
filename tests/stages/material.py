# SPDX-License-Identifier: Apache-2.0
"""A repository of tiny packages, signed by the tests' key: what the stages' worlds name, with a file or two in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.apk.format.index import entry_of, write_index
from pipeline.apk.format.package import TarEntry, write_package
from pipeline.apk.format.pkginfo import PkgInfo
from pipeline.apk.format.signature import Signer
from pipeline.apk.format.writer import tree_entries
from tests.stages.bench import BRANCH, EPOCH, KEY

ODD = "etc/an odd näme & 'quotes' $(x)"
RELEASE = "6.1.0-0-tiny"
LOCKED_ROOT = tuple(f"{name}=1.0-r0" for name in ("alpine-base", "kmod", "linux-tiny", "mkinitfs", "tiny-system", "tiny-users"))
"""All packages of the root that tests make: what a lock names for `alpine-base mkinitfs linux-tiny`."""
LOCKED_BASE = tuple(one for one in LOCKED_ROOT if one.startswith(("alpine-", "tiny-")))
"""What a lock names for `alpine-base`."""
LOCKED_MEDIUM = (*LOCKED_ROOT, "linux-firmware=1.0-r0", "wireless-regdb=1.0-r0")
"""What a lock names for all that mkimage.sh and its update-kernel ask for."""
LOCKED_BOOT = tuple(
    f"{name}=1.0-r0" for name in ("grub-bios", "grub-efi", "raspberrypi-bootloader", "raspberrypi-bootloader-common")
)
"""What a lock names for the boot loaders of both targets."""
Entry = tuple[TarEntry, bytes | Path | None]

_PASSWD = b"root:x:0:0:root:/root:/bin/sh\ntiny:x:120:130::/:/sbin/nologin\n"
_GROUP = b"root:x:0:\nshadow:x:42:\ntiny:x:130:\n"
_SHADOW = b"root:*::0:::::\ntiny:!::0:::::\n"
# A user whom no package brings as a file: known where scripts have run, and else at the first start.
_LATE = b"#!/bin/sh\necho late:x:121:131::/:/sbin/nologin >>/etc/passwd\necho late:x:131: >>/etc/group\n"


def _folder(name: str, mode: int = 0o755, owner: str = "root") -> Entry:
    return TarEntry(name, kind="dir", mode=mode, uname=owner, gname=owner), None


def _file(name: str, content: bytes, mode: int = 0o644, owner: str = "root", group: str = "") -> Entry:
    return TarEntry(name, mode=mode, uname=owner, gname=group or owner), content


def _link(name: str, target: str) -> Entry:
    return TarEntry(name, kind="symlink", mode=0o777, target=target), None


def _users(parts: Path, arch: str) -> Iterator[Entry]:
    """Folders and users that a root starts with, and a shell where scripts can run."""
    yield from (_folder(name) for name in ("bin", "dev", "etc", "lib", "proc", "run", "sys", "var"))
    yield _folder("tmp", 0o1777)
    yield _folder("root", 0o700)
    yield _file("etc/passwd", _PASSWD)
    yield _file("etc/group", _GROUP)
    yield _file("etc/busybox-paths.d/busybox", b"bin/sh\nbin/true\n")
    if arch == "x86_64":
        yield _file("bin/busybox", (parts / "bin/busybox").read_bytes(), 0o755)
        yield _link("bin/sh", "busybox")
        yield _file("lib/ld-musl-x86_64.so.1", (parts / "lib/ld-musl-x86_64.so.1").read_bytes(), 0o755)
    else:
        yield _file("bin/busybox", b"of another architecture\n", 0o755)


def _system() -> Iterator[Entry]:
    """Kinds of files that get lost easily: odd names, modes, owners, links."""
    yield _file("etc/shadow", _SHADOW, 0o640, group="shadow")
    yield _file(ODD, b"odd\n")
    yield _file("bin/setuid", b"#!/bin/sh\n", 0o4755)
    yield _folder("var/tiny", 0o750, "tiny")
    yield _file("var/tiny/own", b"own\n", 0o600, "tiny")
    yield _file("var/late", b"late\n", 0o640, "late")
    yield _link("etc/mtab", "../proc/mounts")


def _initramfs() -> Iterator[Entry]:
    """What mkinitfs takes from a root."""
    yield _file("etc/mkinitfs/mkinitfs.conf", b'features="base"\n')
    yield _file("etc/mkinitfs/features.d/base.files", b"/bin/busybox\n/bin/sh\n")
    yield _file("etc/mkinitfs/features.d/base.modules", b"kernel/fs/tiny\n")
    yield _file("usr/share/mkinitfs/initramfs-init", b"#!/bin/sh\n", 0o755)
    yield _file("usr/share/mkinitfs/fstab", b"/dev/cdrom /media/cdrom iso9660 noauto,ro 0 0\n")
    yield _file("usr/share/mkinitfs/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
    yield _file("usr/share/mkinitfs/group", b"root:x:0:root\n")


def _kernel() -> Iterator[Entry]:
    yield _file("boot/vmlinuz-tiny", b"kernel\n")
    yield _file("boot/dtbs-tiny/broadcom/bcm2837-rpi-3-b.dtb", b"device tree\n")
    yield _file("boot/dtbs-tiny/overlays/uart.dtbo", b"overlay\n")
    yield _file("usr/share/kernel/tiny/kernel.release", f"{RELEASE}\n".encode())
    yield from (_file(f"lib/modules/{RELEASE}/modules.{name}", b"") for name in ("builtin", "dep", "order"))


def _taken(parts: Path, *folders: str) -> Iterator[Entry]:
    """Files of the builder's own packages."""
    for folder in folders:
        for entry, source in tree_entries(parts / folder):
            if entry.kind == "file":
                content = (parts / folder / entry.name).read_bytes()
                yield _file(f"{folder}/{entry.name}", content, entry.mode)
            elif entry.kind == "symlink":
                yield _link(f"{folder}/{entry.name}", entry.target)
            assert entry.kind != "hardlink", source


def _packages(parts: Path, arch: str) -> Mapping[str, tuple[list[Entry], dict[str, bytes], tuple[str, ...]]]:
    """Name -> entries, scripts, what it depends on."""
    scripts = {".pre-install": _LATE, ".post-install": b"#!/bin/sh\necho ran >/etc/post-install\n"}
    found: dict[str, tuple[list[Entry], dict[str, bytes], tuple[str, ...]]] = {
        "tiny-users": (list(_users(parts, arch)), {}, ()),
        "tiny-system": (list(_system()), scripts, ("tiny-users",)),
        "alpine-base": ([_file("etc/alpine-release", b"9.9.0\n")], {}, ("tiny-system",)),
        "linux-tiny": (list(_kernel()), {}, ()),
        "kmod": ([], {".trigger": b"#!/bin/sh\necho ran >/etc/trigger\n"}, ("tiny-users",)),
        "mkinitfs": (list(_initramfs()), {}, ("kmod",)),
        "linux-firmware": ([_file("lib/firmware/tiny.bin", b"firmware\n")], {}, ()),
        "wireless-regdb": ([_file("lib/firmware/regulatory.db", b"rules\n")], {}, ()),
        "raspberrypi-bootloader": ([_file("boot/start.elf", b"start\n")], {}, ()),
        "raspberrypi-bootloader-common": ([_file("boot/bootcode.bin", b"code\n")], {}, ()),
    }
    if arch == "x86_64":
        found["grub-bios"] = (list(_taken(parts, "usr/lib/grub/i386-pc")), {}, ())
        found["grub-efi"] = (list(_taken(parts, "usr/lib/grub/x86_64-efi")), {}, ())
        found["syslinux"] = (list(_taken(parts, "usr/share/syslinux")), {}, ())
    return found


def write_repository(folder: Path, parts: Path, arch: str, keys: Path) -> Path:
    """The channel's repository as stages get it: <branch>/main/<arch>/."""
    place = folder / BRANCH / "main" / arch
    place.mkdir(parents=True)
    signer = Signer(keys / KEY.removesuffix(".pub"), KEY)
    for name, (entries, scripts, depends) in _packages(parts, arch).items():
        info = PkgInfo(
            name, "1.0-r0", arch, description=f"tiny {name}", license="Apache-2.0", origin=name, depends=depends,
            triggers=("/lib/modules/*",) if ".trigger" in scripts else (),
        )  # fmt: skip
        with (place / f"{name}-1.0-r0.apk").open("wb") as out:
            write_package(out, info, scripts, entries, epoch=EPOCH, signer=signer, level=1)
    rows = [entry_of(path) for path in sorted(place.glob("*.apk"))]
    with (place / "APKINDEX.tar.gz").open("wb") as out:
        write_index(out, "tiny", rows, signer, EPOCH)
    return folder


def write_own_packages(folder: Path, keys: Path) -> Path:
    """Our own repository as the stage `repository` makes it, with one package: <arch>/."""
    signer = Signer(keys / KEY.removesuffix(".pub"), KEY)
    for arch in ("aarch64", "x86_64"):
        place = folder / arch
        place.mkdir(parents=True)
        info = PkgInfo("toweros-tiny", "1.2.3-r0", "noarch", description="tiny overlay", license="Apache-2.0", origin="toweros")
        with (place / "toweros-tiny-1.2.3-r0.apk").open("wb") as out:
            write_package(out, info, {}, [_file("etc/tower/tiny.conf", b"tiny=1\n")], epoch=EPOCH, signer=signer)
        with (place / "APKINDEX.tar.gz").open("wb") as out:
            write_index(out, "own", [entry_of(place / "toweros-tiny-1.2.3-r0.apk", arch=arch)], signer, EPOCH)
    return folder
