# SPDX-License-Identifier: Apache-2.0
"""Notice when a disk that is being written is taken out, or fails: by /sys, and by what the kernel says about it.

Few programs name the disk when a write fails, and most do not even see it: the kernel writes later. So it is looked for after
each step, and whatever error there is.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from tower.disk.device import Disk, identity_of

_KERNEL: Final = Path("/dev/kmsg")
_RECORD: Final = 8 << 10
"""Bytes; the kernel gives one record at a time, and none is longer."""


class DiskWatch:
    """Watches disks from when it is made."""

    def __init__(self, watched: tuple[Disk, ...], *, kernel: Path = _KERNEL, root: Path = Path("/")) -> None:
        """Begin; `kernel` has one record of the kernel's log a line, as /dev/kmsg. What cannot be read tells nothing."""
        self._disks, self._root, self._handle = watched, root, -1
        self._said = dict[Path, str]()
        with suppress(OSError):
            self._handle = os.open(kernel, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._handle, 0, os.SEEK_END)

    def close(self) -> None:
        """Stop reading the kernel's log."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def trouble(self) -> str:
        """Return what has happened to one of the disks since the beginning; empty if all are well."""
        self._hear()
        for disk in self._disks:
            if self._is_gone(disk):
                return f"{disk}: was taken out, or has lost its connection"
        return next(
            (f"{disk}: is failing: the kernel says: {text}" for disk in self._disks if (text := self._said.get(disk.path))), ""
        )

    def _is_gone(self, disk: Disk) -> bool:
        place = self._root / "sys/block" / disk.path.name
        if not place.exists():
            return True
        try:
            return identity_of(disk.number, (place / "diskseq").read_text().strip()) != disk.identity
        except OSError:  # an older kernel
            return False

    def _hear(self) -> None:
        """Read what the kernel has said since the last time, and keep the first error of each disk."""
        for text in self._records():
            for disk in self._disks:
                if re.search(rf"\berror,? (on )?dev {re.escape(disk.path.name)}(p?[0-9]+)?\b", text):
                    self._said.setdefault(disk.path, text)

    def _records(self) -> list[str]:
        found, rest = list[str](), b""
        while self._handle >= 0:
            try:
                data = os.read(self._handle, _RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # older records were overwritten before they were read
                continue
            except OSError:
                break
            if not data:
                break
            rest += data
        # Priority, number and time come before the text; lines about the device behind it.
        for line in rest.decode(errors="replace").split("\n"):
            head, _, text = line.partition(";")
            if text and head[:1].isdigit():
                found.append(text)
        return found
