# SPDX-License-Identifier: Apache-2.0
"""Take pictures for the manual: docs/pictures/first-start.png of a host's image, and installer.png of the thin client's.

    python ci/pictures.py dist/toweros-host-0.1.0-lab-pc.img.zst
    python ci/pictures.py dist/toweros-thinclient-0.1.0-lab-x86_64.iso

A PC shows the steps on its screen. One in QEMU has a serial line, which its system prefers: here the loader's file on its boot
partition names the screen last. The installer is started and answered on the keyboard, up to its last question. The tests take
the other pictures, and keep them in build/gui.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tower.hosts.registry import HOST_KEY
from tower.provision import progress
from tower.provision.progress import ForeignError

from ci.installer_cuts import BOOT_SIZE, PC, ROOT_SIZE
from ci.power_cuts import provision
from pipeline.images.boot import LOGIN, SSH, MachineType, started
from pipeline.images.disk import boot_file, put_boot_file
from pipeline.images.guest import running
from tests.boot.hardware import Hardware
from tests.gui.pictures import Picture

PICTURES: Final = Path("docs/pictures")
LOG: Final = Path("build/log/pictures.log")
SCREEN: Final = "console=tty0"
SECOND: Final = 2 << 30
LIMIT: Final = 1800
STILL: Final = 4
"""Seconds without a change after which a screen waits for somebody."""
BEGIN: Final = 20
"""The same while the installer begins: it looks for disks before it says anything."""
CURSOR: Final = 16
"""Rows of pixels of one line of text, in which the cursor blinks."""
ANSWERS: Final = ("/dev/vda", "/dev/sda", "", "alice", "tower", "tower", "de", "", "", "", "yes")
"""To the installer's questions. Keys that take no shift."""


def first_start(image: Path, home: Path) -> Picture:
    """Start a host, and look at its screen while it copies its system. Raises RuntimeError if it never does."""
    disk, second, hardware = provision(image, home), home / "second.img", Hardware(home / "qmp")
    second.touch()
    os.truncate(second, SECOND)
    loader = boot_file(disk, "/grub/grub.cfg").decode()
    changed = re.sub(r"(?m)^(\s*linux .*)$", lambda line: f"{line[1].replace(f' {SCREEN}', '')} {SCREEN}", loader)
    put_boot_file(disk, "/grub/grub.cfg", changed.encode(), home)
    with started(MachineType.HOST_PC_BIOS, disk, log=LOG, second=second, qmp=hardware.place, limit=LIMIT) as guest:
        ends, key = time.monotonic() + LIMIT, home / ".local/tower/hosts/cut" / HOST_KEY
        while time.monotonic() < ends:
            with suppress(OSError, ForeignError):
                found = progress.ask(("127.0.0.1", guest.ports[SSH]), key)
                if found is not None and any(step == "system" for step, _ in found.steps):
                    return hardware.screen()
            time.sleep(1)
    raise RuntimeError("the host did not say that it copies its system")


def installer(iso: Path, home: Path) -> Picture:
    """Start the installer, answer what it asks, and look at the screen when it asks for the last time."""
    hardware, root, boot = Hardware(home / "qmp"), home / "root.img", home / "boot.img"
    for disk, size in ((root, 4 * ROOT_SIZE), (boot, BOOT_SIZE)):
        disk.touch()
        os.truncate(disk, size)
    argv = [*PC, *hardware.argv, "-drive", f"file={iso},format=raw,media=cdrom,readonly=on"]
    argv += ["-drive", f"file={root},format=raw,if=virtio", "-drive", f"file={boot},format=raw,if=none,id=boot"]
    argv += ["-device", "usb-storage,drive=boot,serial=BOOT1,removable=on"]
    with running("pictures", argv, log=LOG, limit=LIMIT, ports={}) as guest:
        guest.wait(LOGIN, LIMIT)
        for line in ("root", "clear", "tower setup", *ANSWERS):
            still(hardware, BEGIN if line == ANSWERS[0] else STILL)
            hardware.type(line)
        return cropped(still(hardware, STILL))


def still(hardware: Hardware, seconds: float) -> Picture:
    """Wait until nothing but the cursor has changed on the screen for so many seconds; return it."""
    found, since = hardware.screen(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(1)
        now = hardware.screen()
        size = 3 * now.width
        rows = range(0, len(now.pixels), size)
        if sum(found.pixels[row : row + size] != now.pixels[row : row + size] for row in rows) > CURSOR:
            since = time.monotonic()
        found = now
    return found


def cropped(picture: Picture) -> Picture:
    """Return the upper left part of a screen of text that has all of the text."""
    size, ground = 3 * picture.width, picture.pixels[-3:]
    rows = [picture.pixels[place : place + size] for place in range(0, len(picture.pixels), size)]
    while rows[-1] == ground * picture.width:
        rows.pop()
    used = (column for row in rows for column in range(picture.width) if row[3 * column : 3 * column + 3] != ground)
    width = min(max(used) + CURSOR, picture.width)
    return Picture(width, len(rows), b"".join(row[: 3 * width] for row in rows))


def small(picture: Picture) -> bytes:
    """Return it as a PNG of at most 16 colours, if it has no more: a tenth of what the usual one takes."""
    pixels = [picture.pixels[place : place + 3] for place in range(0, len(picture.pixels), 3)]
    colours = sorted(set(pixels))
    if len(colours) > 1 << 4:
        return picture.png()
    numbers = {colour: number for number, colour in enumerate(colours)}
    rows = bytearray()
    for place in range(0, len(pixels), picture.width):
        row = [numbers[pixel] for pixel in pixels[place : place + picture.width]]
        row += [0] * (len(row) % 2)
        rows += b"\0" + bytes(left << 4 | right for left, right in zip(row[::2], row[1::2], strict=True))
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", picture.width, picture.height, 4, 3, 0, 0, 0)),
        (b"PLTE", b"".join(colours)),
        (b"IDAT", zlib.compress(bytes(rows), 9)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def main() -> int:
    """Take it from an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    image = parser.parse_args().image.resolve()
    take, name = (installer, "installer.png") if image.suffix == ".iso" else (first_start, "first-start.png")
    with tempfile.TemporaryDirectory(prefix="pictures-") as home:
        (PICTURES / name).write_bytes(small(take(image, Path(home))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
