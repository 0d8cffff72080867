# SPDX-License-Identifier: Apache-2.0
"""What somebody does to an emulated machine who sits at it: keys, the screen, the power button, disks put in and pulled out."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.gui.pictures import Picture, read_ppm

FRENCH = {"a": "q", "q": "a", "w": "z", "z": "w"}
OVMF = Path("/usr/share/OVMF")
KEYS = {" ": "spc", "\n": "ret", "/": "slash", ".": "dot", "-": "minus"}


@dataclass(frozen=True)
class Hardware:
    """A machine, through QEMU's machine protocol (QMP)."""

    place: Path
    """The socket that QEMU listens at."""

    @property
    def argv(self) -> list[str]:
        """QEMU's arguments for it."""
        return ["-qmp", f"unix:{self.place},server=on,wait=off"]

    def do(self, *commands: dict[str, object]) -> None:
        """Let QEMU do these, one after the other."""
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rb") as answers:
            line.connect(str(self.place))
            for command in ({"execute": "qmp_capabilities"}, *commands):
                line.sendall(json.dumps(command).encode())
                for answer in map(json.loads, answers):
                    assert "error" not in answer, answer
                    if "return" in answer:
                        break

    def type(self, text: str, *, french: bool = False) -> None:
        """Type a line on the keyboard, as if the letters on it were American or French."""
        for letter in f"{text}\n":
            key = KEYS.get(letter) or (FRENCH.get(letter, letter) if french else letter)
            self.press(key)

    def press(self, *keys: str) -> None:
        """Press keys at once, by QEMU's names of them."""
        self.do({"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": key} for key in keys]}})

    def pull(self, device: str) -> None:
        """Pull a device out."""
        self.do({"execute": "device_del", "arguments": {"id": device}})

    def put_in(self, drive: str, serial: str) -> None:
        """Put a USB stick in; its drive and its device have the same name."""
        more = {"bus": "usb.0", "serial": serial, "removable": True}
        self.do({"execute": "device_add", "arguments": {"driver": "usb-storage", "id": drive, "drive": drive, **more}})

    def screen(self) -> Picture:
        """What is on the screen."""
        file = self.place.with_name("screen.ppm")
        self.do({"execute": "screendump", "arguments": {"filename": str(file)}})
        return read_ppm(file.read_bytes())


def secure_firmware(variables: Path, source: Path | None = None) -> list[str]:
    """QEMU's arguments for a PC whose firmware has Secure Boot, with its variables in a copy of `source`.

    Without that it has no keys: it is in setup mode. Only its own code, in the processor's management mode, can write them.
    """
    shutil.copyfile(source or OVMF / "OVMF_VARS_4M.fd", variables)
    return [
        *("-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"),
        # Built for that mode and for 64 bits alone, it cannot wake up from sleep.
        *("-global", "ICH9-LPC.disable_s3=1"),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF / 'OVMF_CODE_4M.secboot.fd'}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]
