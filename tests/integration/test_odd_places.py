# SPDX-License-Identifier: Apache-2.0
"""A checkout, a home and a folder for temporary files whose names have all that a name may have: the real ./ci/doit."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.images import boot
from pipeline.images.boot import MachineType
from pipeline.images.disk import boot_file, boot_files, take_boot_file
from tests.integration.conftest import Tiny

ALL = "-R&D it's grün 漢, a;b #1 %41 [x] (y) ~ back\\slash a|b=c `id` *?! <^> @@1"
"""Nothing that means something to a shell, to pip, to a Dockerfile, to mtools or to QEMU is lacking."""


def test_made_listed_built_and_replayed(tiny_at: Callable[[str], Tiny], tmp_path: Path, checkout: Path) -> None:
    tiny = tiny_at(f"{ALL}/-tower")
    # With an environment of its own, as on a new machine; what it would fetch is found among the packages of the tests.
    shutil.rmtree(tiny.folder / ".venv")
    shutil.copytree(checkout / "runtime", tiny.folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    tiny.write("ci/requirements.txt", "# none\n")
    packages = sysconfig.get_path("purelib")
    temporary = tmp_path / f"{ALL}:t"
    temporary.mkdir()
    odd = {
        "PYTHONPATH": packages,
        "TMPDIR": str(temporary),
        "CDPATH": "/usr",
        "PYTHONSAFEPATH": "1",
        "PYTHONHOME": "/nonexistent",
    }

    said = tiny.doit("list", env=odd)
    assert "making .venv" in said
    assert "replay" in said
    done = subprocess.run(
        [tiny.folder / ".venv/bin/tower", "--help"], capture_output=True, text=True, check=True, env=tiny.environment
    )
    assert done.stdout.startswith("usage: tower ")

    tiny.doit(env=odd)
    assert tiny.image
    assert "nothing to do" in tiny.doit(env=odd)
    assert "second works" in tiny.doit("replay", "stage=second", env=odd)
    assert list(temporary.iterdir()) == [], "what was temporary is gone"


def test_plain_doit_refuses_what_the_entry_refuses(tiny_at: Callable[[str], Tiny]) -> None:
    """doit finds the checkout by itself, past ci/doit."""
    for name in ("a:b", 'a"b', "$HOME", os.fsdecode(b"\xff")):
        tiny = tiny_at(name)
        done = subprocess.run(
            [tiny.folder / ".venv/bin/python", "-m", "pipeline", "list"],
            cwd=tiny.folder, env=tiny.environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (10, ""), done.stderr
        assert "a checkout cannot be used there" in done.stderr
        assert "hint: move it to another folder" in done.stderr
        assert "Traceback" not in done.stderr


# As firmware of a PC runs it from a disk's first sector: the text behind it goes to the first serial line.
_SAYS = bytes.fromhex("31c08ed8be157cbaf803ac84c07403eeebf8f4ebfd") + b"\r\nread from the disk\r\n\0"


def bootable(folder: Path) -> Path:
    """An image with a boot partition that has what a Raspberry Pi wants, and a first sector that says what it is."""
    folder.mkdir()
    fat = folder / "fat"
    subprocess.run(["mkfs.vfat", "-C", fat.name, "4096"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    names = {
        "config.txt": "kernel=kernel\ninitramfs initrd followkernel\n",
        "cmdline.txt": "root=x\n",
        "kernel": "k",
        "initrd": "i",
    }
    for name, text in {**names, "bcm2710-rpi-3-b.dtb": "d"}.items():
        subprocess.run(["mcopy", "-i", fat.name, "-", f"::{name}"], cwd=folder, input=text.encode(), check=True)
    sector = bytearray(_SAYS.ljust(512, b"\0"))
    sector[446:462] = struct.pack("<B3xB3xII", 0x80, 0x0C, 1, 4096 * 2)
    sector[510:] = b"\x55\xaa"
    image = folder / "disk.img"
    image.write_bytes(bytes(sector) + fat.read_bytes())
    fat.unlink()
    return image


def test_files_of_the_boot_partition(tmp_path: Path) -> None:
    image = bootable(tmp_path / ALL)
    assert "/cmdline.txt" in boot_files(image)
    assert boot_file(image, "/cmdline.txt") == b"root=x\n"
    assert take_boot_file(image, "/kernel", tmp_path / ALL / "kernel, taken").read_bytes() == b"k"


@pytest.mark.parametrize("machine", [one for one in MachineType if one.is_host])
def test_files_that_a_machine_is_given(tmp_path: Path, machine: MachineType) -> None:
    """QEMU begins another option at a comma."""
    scratch = tmp_path / f"{ALL},readonly=on"
    scratch.mkdir()
    arguments = boot._arguments(machine, bootable(tmp_path / ALL), scratch, {})
    options = [re.split(r"(?<!,),(?!,)", word) for word in arguments if "file=" in word]
    files = [Path(part.removeprefix("file=").replace(",,", ",")) for row in options for part in row if part.startswith("file=")]
    assert files
    assert [path for path in files if not path.is_file()] == []


def test_a_machine_reads_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = bootable(tmp_path / ALL)
    temporary = tmp_path / "t, 'x' #"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    stick = tmp_path / ALL / "stick"
    stick.write_bytes(bytes(1 << 20))
    with boot.started(MachineType.HOST_PC_BIOS, image, log=tmp_path / ALL / "log", limit=60, stick=stick) as guest:
        guest.wait("read from the disk", 50)
