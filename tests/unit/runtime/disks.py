# SPDX-License-Identifier: Apache-2.0
"""A small image of a host, as the factory makes large ones, and used media to write it to."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
from pathlib import Path

from pipeline.images import blockmap

MIB = 1 << 20
BOOT = (4 * MIB, 40 * MIB)
ROOT = (44 * MIB, 24 * MIB)
NAME = "toweros-host-1.2.0-lab-pc.img"


def tool(*argv: str | Path, **extra: str) -> str:
    done = subprocess.run(
        argv, check=True, capture_output=True, text=True, timeout=60, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **extra}
    )
    return done.stdout


def garbage(size: int, seed: int = 1) -> bytes:
    block = random.Random(seed).randbytes(MIB)
    return (block * (size // MIB + 1))[:size]


def make_image(folder: Path, *, compress: str = "") -> Path:
    """An image with manifest and block map in `folder`: FAT32 and ext4, both with files that hold zeros."""
    fat, root, tree = folder / "fat", folder / "root", folder / "tree"
    tree.mkdir()
    zeros = b"begin" + bytes(300_000) + b"end"
    (tree / "file").write_bytes(zeros)
    (tree / "random").write_bytes(garbage(2 * MIB + 17))
    fat.write_bytes(b"")
    with fat.open("r+b") as stream:
        stream.truncate(BOOT[1])
    tool("mkfs.vfat", "--invariant", "-F", "32", fat)
    tool("mcopy", "-i", fat, tree / "file", "::vmlinuz")
    with root.open("wb") as stream:
        stream.truncate(ROOT[1])
    tool("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, "-L", "tower-root", root)
    image = folder / NAME
    sector = bytearray(512)
    for row, (kind, (start, size)) in enumerate(((0x0C, BOOT), (0x83, ROOT))):
        struct.pack_into("<B3xB3xII", sector, 446 + 16 * row, 0, kind, start // 512, size // 512)
    sector[510:] = b"\x55\xaa"
    image.write_bytes(bytes(sector) + bytes(BOOT[0] - 512) + fat.read_bytes() + root.read_bytes())
    found = blockmap.dump(blockmap.read_image(image))
    if compress:
        tool(compress, "-q", "-1", "-k", image)
        image.unlink()
        suffix = {"zstd": ".zst", "xz": ".xz"}[compress]
        image = image.with_name(image.name + suffix)
    image.with_name(f"{image.name}.bmap").write_bytes(found)
    write_manifest(image)
    return image


def write_manifest(image: Path, *, channel: str = "lab", releasable: bool = False) -> None:
    files = {image.name: {"sha256": hashlib.sha256(image.read_bytes()).hexdigest(), "size": image.stat().st_size}}
    row = {
        "schema": 1,
        "version": "1.2.0",
        "channel": {"name": channel, "branch": "lab", "releasable": releasable},
        "files": files,
    }
    image.with_name(f"{image.name}.manifest.json").write_text(json.dumps(row))


def check_disk(path: Path, folder: Path) -> dict[str, int]:
    """Fail unless both file systems of a disk are clean; where the root begins and how large it is."""
    sector = path.read_bytes()[:512]
    start, count = struct.unpack_from("<II", sector, 446 + 16 + 8)
    data = path.read_bytes()
    (folder / "p1").write_bytes(data[BOOT[0] : BOOT[0] + BOOT[1]])
    (folder / "p2").write_bytes(data[start * 512 : (start + count) * 512])
    tool("fsck.vfat", "-n", folder / "p1")
    tool("e2fsck", "-f", "-n", folder / "p2")
    return {"start": start * 512, "size": count * 512}
