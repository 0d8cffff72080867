# SPDX-License-Identifier: Apache-2.0
"""The firmware's variables for Secure Boot, as the kernel shows them in a file system of their own (efivarfs).

Without a platform key (PK) the firmware is in setup mode: it starts everything, and takes keys from anybody. With that key it
starts what a key of `db` has signed, and takes further keys only if they are signed by the ones that it has.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from tower.base import proc
from tower.base.errors import DeviceError, StateError

VARIABLES: Final = Path("/sys/firmware/efi/efivars")
_GLOBAL: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
PLACES: Final = {"db": UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f"), "KEK": _GLOBAL, "PK": _GLOBAL}
"""In the order in which they are written: as long as there is no PK, the firmware is in setup mode, and all can be repeated."""
_GET_FLAGS, _SET_FLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10
_SECONDS: Final = 60
HOW: Final = (
    "in the firmware's own setup, under Secure Boot, choose Reset to Setup Mode, or delete the platform key (PK); "
    "then start this machine again, by UEFI"
)


class Mode(StrEnum):
    """What the firmware does about Secure Boot."""

    BIOS = "started by BIOS"
    SETUP = "in setup mode"
    ON = "Secure Boot is on"
    OFF = "Secure Boot is off, and the firmware has keys already"


def mode(variables: Path = VARIABLES) -> Mode:
    """Return what the firmware does about Secure Boot. Root gets to see it in any case, others if it is shown."""
    if not variables.is_dir():
        return Mode.BIOS
    if variables == VARIABLES and os.geteuid() == 0 and not any(variables.iterdir()):
        proc.run(("modprobe", "-q", "efivarfs"), timeout=_SECONDS, check=False)
        proc.run(("mount", "-t", "efivarfs", "efivarfs", variables), timeout=_SECONDS, check=False)
    if _is_set(variables, "SetupMode"):
        return Mode.SETUP
    return Mode.ON if _is_set(variables, "SecureBoot") else Mode.OFF


def _is_set(variables: Path, name: str) -> bool:
    """Tell whether a variable of one byte is 1; four bytes of attributes come before it."""
    with suppress(OSError):
        return (variables / f"{name}-{_GLOBAL}").read_bytes()[4:] == b"\x01"
    return False


def need_setup_mode(variables: Path = VARIABLES) -> None:
    """Raise StateError unless the firmware takes keys from us."""
    found = mode(variables)
    if found is not Mode.SETUP:
        raise StateError(f"Secure Boot with keys of your own needs a firmware in setup mode; here: {found}", hint=HOW)


def enrol(signed: Mapping[str, bytes], variables: Path = VARIABLES) -> None:
    """Give the firmware its keys: attributes and signed content of each variable. Raises DeviceError if it does not take one."""
    for name, guid in PLACES.items():
        place = variables / f"{name}-{guid}"
        try:
            _let_change(place)
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # In one piece: each write is a call of the firmware.
                os.write(handle, signed[name])
            finally:
                os.close(handle)
        except OSError as error:
            raise DeviceError(f"the firmware does not take its variable {name}: {error.strerror}", hint=HOW) from error
    if _is_set(variables, "SetupMode"):
        raise DeviceError(
            "the firmware has taken all keys, and is in setup mode still", hint="restart this machine, and try again"
        )


def _let_change(place: Path) -> None:
    """Take the mark off a variable by which the kernel protects it from `rm -r`."""
    with suppress(FileNotFoundError):
        handle = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (flags,) = struct.unpack("l", fcntl.ioctl(handle, _GET_FLAGS, bytes(struct.calcsize("l"))))
            fcntl.ioctl(handle, _SET_FLAGS, struct.pack("l", flags & ~_IMMUTABLE))
        finally:
            os.close(handle)
