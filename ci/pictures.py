# SPDX-License-Identifier: Apache-2.0
"""Take the picture of a host's first start for the manual: docs/pictures/first-start.png.

    python ci/pictures.py dist/toweros-host-0.1.0-lab-pc.img.zst

A PC shows the steps on its screen. One in QEMU has a serial line, which its system prefers: here the loader's file on its boot
partition names the screen last. The tests take the other pictures, and keep them in build/gui.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tower.hosts.registry import HOST_KEY
from tower.provision import progress
from tower.provision.progress import ForeignError

from ci.power_cuts import provision
from pipeline.images.boot import SSH, MachineType, started
from pipeline.images.disk import boot_file, put_boot_file
from tests.boot.hardware import Hardware

TARGET: Final = Path("docs/pictures/first-start.png")
SCREEN: Final = "console=tty0"
SECOND: Final = 2 << 30
LIMIT: Final = 1800


def main() -> int:
    """Take it from an image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    image = parser.parse_args().image.resolve()
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        home = Path(name)
        disk, second, hardware = provision(image, home), home / "second.img", Hardware(home / "qmp")
        second.touch()
        os.truncate(second, SECOND)
        loader = boot_file(disk, "/grub/grub.cfg").decode()
        changed = re.sub(r"(?m)^(\s*linux .*)$", lambda line: f"{line[1].replace(f' {SCREEN}', '')} {SCREEN}", loader)
        put_boot_file(disk, "/grub/grub.cfg", changed.encode(), home)
        log = Path("build/log/pictures.log")
        with started(MachineType.HOST_PC_BIOS, disk, log=log, second=second, qmp=hardware.place, limit=LIMIT) as guest:
            ends, key = time.monotonic() + LIMIT, home / ".local/tower/hosts/cut" / HOST_KEY
            while time.monotonic() < ends:
                with suppress(OSError, ForeignError):
                    found = progress.ask(("127.0.0.1", guest.ports[SSH]), key)
                    if found is not None and any(step == "system" for step, _ in found.steps):
                        TARGET.write_bytes(hardware.screen().png())
                        return 0
                time.sleep(1)
    print("the host did not say that it copies its system", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
