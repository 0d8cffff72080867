# SPDX-License-Identifier: Apache-2.0
"""The stages of the host's image, each on a few files."""

from __future__ import annotations

import gzip
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.bench import Bench
from tests.stages.material import LOCKED_BOOT

Repository = Callable[[str], Path]
ARCHITECTURES = {"rpi": "aarch64", "pc": "x86_64"}
LOADERS = {
    "rpi": ("rpi", ("raspberrypi-bootloader", "raspberrypi-bootloader-common")),
    "pc": ("grub", ("grub-bios", "grub-efi")),
}


@pytest.fixture
def disks(bench: Bench, tmp_path: Path) -> Path:
    """A boot partition and a root, of a few MiB, with the first sectors of a boot loader."""
    bench.make(
        tmp_path / "disks", "sh", "-euc",
        "truncate -s 5M /out/boot.fat; mkfs.vfat --invariant -n TOWER-BOOT /out/boot.fat >/dev/null; mkdir /work/root; "
        "truncate -s 6M /out/root.ext4; mke2fs -q -t ext4 -d /work/root /out/root.ext4; "
        "head -c 440 /dev/zero | tr '\\0' m >/out/mbr.bin; head -c 3000 /dev/zero | tr '\\0' c >/out/core.bin",
    )  # fmt: skip
    for name in ("boot", "system", "no-loader"):
        (tmp_path / name).mkdir()
    for name in ("boot.fat", "mbr.bin", "core.bin"):
        (tmp_path / "boot" / name).write_bytes((tmp_path / "disks" / name).read_bytes())
        (tmp_path / "no-loader" / name).write_bytes((tmp_path / "disks" / name).read_bytes() if name == "boot.fat" else b"")
    (tmp_path / "system/root.ext4").write_bytes((tmp_path / "disks/root.ext4").read_bytes())
    return tmp_path


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_host_root(bench: Bench, host_root: Repository, target: str) -> None:
    bench.compare(f"host-root.{target}", host_root(ARCHITECTURES[target]))


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_host_boot(bench: Bench, host_root: Repository, repository: Repository, keys: Path, tmp_path: Path, target: str) -> None:
    loader, packages = LOADERS[target]
    arch = ARCHITECTURES[target]
    bench.run(
        "host-boot", tmp_path / "out", inputs={"root": host_root(arch), "repository": repository(arch), "keys": keys},
        options={"loader": loader, "flavor": "tiny", "features": ("base",), "packages": packages,
        "cmdline": "root=LABEL=x", "free_mib": 1},
        locked=LOCKED_BOOT, arch=arch, target=target,
    )  # fmt: skip
    bench.compare(f"host-boot.{target}", tmp_path / "out")
    copy = ["mcopy", "-n", "-i", str(tmp_path / "out/boot.fat"), "::/initramfs-tiny", str(tmp_path / "initramfs")]
    subprocess.run(copy, check=True, timeout=60)
    assert devices(gzip.decompress((tmp_path / "initramfs").read_bytes())) == {b"0" * 16}


def devices(archive: bytes) -> set[bytes]:
    """The numbers of the devices that the files of an archive of cpio (newc) came from: another one in each sandbox."""
    found, place = set[bytes](), 0
    while archive[place : place + 6] == b"070701":
        size, name = (int(archive[place + at : place + at + 8], 16) for at in (54, 94))
        found.add(archive[place + 62 : place + 78])
        if archive[place + 110 : place + 110 + name] == b"TRAILER!!!\0":
            return found
        place += -(-(110 + name) // 4) * 4 + -(-size // 4) * 4
    raise AssertionError(f"not an archive of cpio at byte {place}")


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_host_system(
    bench: Bench, host_root: Repository, repository: Repository, own_packages: Path, keys: Path, tmp_path: Path, target: str
) -> None:
    arch = ARCHITECTURES[target]
    inputs = {"root": host_root(arch), "packages": own_packages, "repository": repository(arch), "keys": keys}
    bench.run(
        "host-system",
        tmp_path / "out",
        inputs=inputs,
        options={"world": ("toweros-tiny",), "repositories": ("https://a.test/v3.99/main",), "free_mib": 1},
        arch=arch,
        target=target,
    )
    bench.compare(f"host-system.{target}", tmp_path / "out")


def test_host_image(bench: Bench, disks: Path) -> None:
    bench.run(
        "host-image", disks / "out", inputs={"boot": disks / "boot", "system": disks / "system"}, options={"boot_flag": "esp"}
    )
    bench.compare("host-image.pc", disks / "out")
    image = (disks / "out/image.img").read_bytes()
    boot, system = (disks / "boot/boot.fat").read_bytes(), (disks / "system/root.ext4").read_bytes()
    assert image[:440] == b"m" * 440
    assert image[512 : 512 + 3000] == b"c" * 3000
    assert image[4 << 20 :][: len(boot)] == boot
    assert image[12 << 20 :][: len(system)] == system


def test_host_image_without_a_boot_loader(bench: Bench, disks: Path) -> None:
    bench.run("host-image", disks / "out", inputs={"boot": disks / "no-loader", "system": disks / "system"}, target="rpi")
    bench.compare("host-image.rpi", disks / "out")


@pytest.mark.parametrize("compress", ["zstd", "xz", "none"])
def test_host_compress(bench: Bench, tmp_path: Path, compress: str) -> None:
    image = tmp_path / "image"
    image.mkdir()
    content = b"first" * 1000 + bytes((1 << 20) - 5000) + b"last" * 1000
    (image / "image.img").write_bytes(content)
    bench.run("host-compress", tmp_path / "out", inputs={"image": image}, options={"compress": compress})
    bench.compare(f"host-compress.{compress}", tmp_path / "out")
    (packed,) = (tmp_path / "out").glob("image.img*")
    unpack = {"zstd": ("zstd", "-qdc"), "xz": ("xz", "-dc"), "none": ("cat",)}[compress]
    assert subprocess.run((*unpack, packed), capture_output=True, check=True).stdout == content


def test_host_image_of_a_damaged_root(bench: Bench, disks: Path) -> None:
    system = {"root.ext4": b"no file system" * 100}
    said = "input system: root.ext4 is no ext4 file system"
    bench.refused("host-image", disks / "out", said, inputs={"boot": disks / "boot", "system": system})


def test_host_image_with_a_boot_loader_that_has_no_room(bench: Bench, disks: Path) -> None:
    (disks / "boot/core.bin").write_bytes(bytes(4 << 20))
    said = "input boot: core.bin is larger than the room"
    bench.refused("host-image", disks / "out", said, inputs={"boot": disks / "boot", "system": disks / "system"})
