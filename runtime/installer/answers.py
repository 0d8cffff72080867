# SPDX-License-Identifier: Apache-2.0
"""The answers that an installation needs: disks, user, keyboard, time zone, language, desktop. No shell ever reads their file.

One `NAME='value'` a line, as in a host's tower.env; lines that are empty or begin with `#` are for people. A name that is
missing, unknown or there twice is refused, as is a value that has not the form it must have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.base.assignments import parse_assignments
from tower.base.errors import StateError, ValueRefusedError
from tower.base.names import UserName, parse_lang, parse_password_hash, parse_size, parse_user_name
from tower.base.refused import refused
from tower.base.regular import open_regular
from tower.hosts import known

MOST: Final = 16 << 10
"""Bytes; a real file has less than one KiB."""
NAMES: Final = (
    "ROOT_DISK", "BOOT_DEVICE", "SWAP", "USERNAME", "PASSWORD_HASH", "KEYBOARD_LAYOUT", "KEYBOARD_VARIANT", "TIMEZONE", "LANG",
    "DESKTOP", "SECURE_BOOT",
)  # fmt: skip
DEFAULTS: Final = {
    "SWAP": "2G",
    "KEYBOARD_LAYOUT": "us",
    "KEYBOARD_VARIANT": "",
    "TIMEZONE": "UTC",
    "LANG": "C.UTF-8",
    "DESKTOP": "no",
    "SECURE_BOOT": "no",
}
_DISK: Final = re.compile(r"/dev/[A-Za-z0-9_./:-]{1,200}|[A-Za-z0-9][A-Za-z0-9_.:+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Answers:
    """Everything that an installation has to know."""

    root_disk: str
    """A path below /dev, or a serial number."""
    boot_device: str
    swap: int
    """Bytes; 0 for none."""
    username: UserName
    password_hash: str = field(repr=False)
    keyboard_layout: str
    keyboard_variant: str
    timezone: str
    lang: str
    desktop: bool
    """Whether a login on the first console starts the desktop."""
    secure_boot: bool = False
    """Whether the firmware gets keys of this machine's own, and starts only what they have signed."""


def read_answers(path: Path) -> Answers:
    """Read the answers in a file. Raises StateError or ValueRefusedError, which names the line."""
    try:
        with open_regular(path) as stream:
            data = stream.read(MOST + 1)
    except OSError as error:
        raise refused(error, path, kind=StateError, hint="name a file with answers; docs/installing.md shows one") from error
    return parse_answers(data, str(path))


def parse_answers(data: bytes, where: str) -> Answers:
    """Parse the content of such a file. No value is ever evaluated, and the value of PASSWORD_HASH is never shown.

    Raises ValueRefusedError.
    """
    values = _values(data, where)
    missing = [name for name in NAMES if name not in values and name not in DEFAULTS]
    if missing:
        raise ValueRefusedError(f"{where}: there is no {', '.join(missing)}", hint="each is a line NAME='value'")
    try:
        return typed(DEFAULTS | values)
    except ValueRefusedError as error:
        raise ValueRefusedError(f"{where}: {error.message}", hint=error.hint) from None


def typed(values: Mapping[str, str]) -> Answers:
    """Return the answers for a text for each name. Raises ValueRefusedError."""
    layout, variant = known.keyboard(values["KEYBOARD_LAYOUT"], values["KEYBOARD_VARIANT"])
    return Answers(
        root_disk=_disk(values["ROOT_DISK"], "ROOT_DISK"),
        boot_device=_disk(values["BOOT_DEVICE"], "BOOT_DEVICE"),
        swap=parse_swap(values["SWAP"]),
        username=parse_user_name(values["USERNAME"]),
        password_hash=parse_password_hash(values["PASSWORD_HASH"]),
        keyboard_layout=layout,
        keyboard_variant=variant,
        timezone=known.time_zone(values["TIMEZONE"]),
        lang=parse_lang(values["LANG"]),
        desktop=parse_choice(values["DESKTOP"], "DESKTOP") == "yes",
        secure_boot=parse_choice(values["SECURE_BOOT"], "SECURE_BOOT") == "yes",
    )


def parse_swap(text: str) -> int:
    """Return the size of swap in bytes, 0 for none. Raises ValueRefusedError."""
    try:
        return parse_size(text)
    except ValueRefusedError as error:
        raise ValueRefusedError(f"SWAP is {text!r}, which is not a size", hint=f"{error.hint}; 0M for none") from None


def parse_choice(text: str, name: str) -> str:
    """Return `yes` or `no`. Raises ValueRefusedError for any other text."""
    if text not in ("yes", "no"):
        raise ValueRefusedError(f"{name} is {text!r}", hint="yes or no")
    return text


def _disk(text: str, name: str) -> str:
    if _DISK.fullmatch(text) is None or ".." in text:
        raise ValueRefusedError(f"{name} is {text!r}, which is not a disk", hint="a path below /dev, or the serial number: lsblk")
    return text


def _values(data: bytes, where: str) -> dict[str, str]:
    """Return the values as text, by name."""
    if len(data) > MOST:
        raise ValueRefusedError(f"{where}: more than {MOST} bytes, which no file of answers has")
    if b"\r" in data:
        raise ValueRefusedError(f"{where}: has the line ends of another system (CRLF)", hint="sed -i 's/\\r$//' FILE")
    return parse_assignments(data, where, NAMES, for_people=True)
