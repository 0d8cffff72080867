# SPDX-License-Identifier: Apache-2.0
"""The shelf: a mount namespace that holds the unpacked roots in memory, read-only, for all machines of a run.

The trees end with the shelf's process, so nothing has to be cleaned up, and a later run cannot find them changed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.base import proc
from pipeline.base.errors import BootError
from pipeline.light.cage import caged

PLACE: Final = "/mnt"
_MOUNT_POINT: Final = f"{PLACE}/machine"
"""The folder where each machine, in file systems of its own, mounts its parts: see start.sh."""
_numbers: Final = itertools.count(1)
_SECONDS: Final = 120
_SPECIAL: Final = 0o7000


@dataclass(frozen=True, slots=True)
class Shelf:
    """The place of the roots: in the file systems that process `pid` sees, below `PLACE`."""

    pid: int

    def folder(self, root: str) -> Path:
        """Return an unpacked root, seen from here; do not write to it."""
        return Path(f"/proc/{self.pid}/root{PLACE}/{root}")

    def disk(self, stack: ExitStack) -> str:
        """Make an empty disk, in memory, that outlives starts of its machine; return its path there. It goes with the stack."""
        place = f"{PLACE}/disk{next(_numbers)}"
        _within(self, "mkdir", place)
        _within(self, "mount", "-t", "tmpfs", "-o", "mode=0755", "disk", place)
        stack.callback(_within, self, "umount", "--lazy", place)
        return place


@contextmanager
def shelf(roots: Mapping[str, Path]) -> Iterator[Shelf]:
    """Unpack roots by name (`*.ext4`, `*.tar`)."""
    with ExitStack() as stack:
        script = f"mount -t tmpfs -o mode=0755 shelf {PLACE}; mkdir {_MOUNT_POINT}; echo ready; exec sleep infinity"
        made = Shelf(caged(stack, ["sh", "-ec", script], ["--mount"]).first())
        for name, file in roots.items():
            _within(made, "mkdir", f"{PLACE}/{name}")
            _within(made, "mount", "-t", "tmpfs", "-o", "mode=0755", name, f"{PLACE}/{name}")
            (_unpack_tar if file.suffix == ".tar" else _unpack_ext4)(made, file, name)
            _within(made, "mount", "-o", "remount,ro", f"{PLACE}/{name}")
        yield made


def _within(made: Shelf, *argv: str, data: str = "") -> str:
    """Run a program of this machine in the shelf's namespaces; return its output."""
    inside = ("nsenter", f"--target={made.pid}", "--mount", "--", *argv)
    return proc.run(inside, stdin=data.encode(), timeout=_SECONDS).stdout.decode()


def _unpack_tar(made: Shelf, file: Path, name: str) -> None:
    _within(made, "tar", "-C", f"{PLACE}/{name}", "--numeric-owner", "-xpf", str(file))


def _unpack_ext4(made: Shelf, file: Path, name: str) -> None:
    """Unpack with debugfs, which mounts nothing; set the mode bits beyond rwx, which it drops, from its listing."""
    _within(made, "debugfs", "-R", f"rdump / {PLACE}/{name}", str(file))
    base = made.folder(name)
    folders = [f"/{Path(place).relative_to(base)}".removesuffix("/.") for place, _, _ in os.walk(base)]
    listing = _within(made, "debugfs", "-f", "-", str(file), data="".join(f'ls -p "{folder or "/"}"\n' for folder in folders))
    folder, found = "", set()
    for line in listing.splitlines():
        if line.startswith("debugfs: ls -p "):
            folder = line.removeprefix("debugfs: ls -p ").strip('"').strip("/")
        elif line.startswith("/"):
            mode, entry = _entry(line)
            if entry not in {".", ".."}:
                found.add(base / folder / entry)
                if mode & _SPECIAL:
                    (base / folder / entry).chmod(mode & 0o7777)
    unpacked = {Path(place) / name for place, names, files in os.walk(base) for name in (*names, *files)}
    if differ := unpacked ^ found:
        raise BootError(f"{file}: was unpacked incorrectly: {sorted(map(str, differ))[:10]}")


def _entry(line: str) -> tuple[int, str]:
    """Return mode and name from a line of `ls -p`: /inode/mode/uid/gid/name/size/, without a size for a folder."""
    fields = line.split("/")
    return int(fields[2], 8), fields[5]
