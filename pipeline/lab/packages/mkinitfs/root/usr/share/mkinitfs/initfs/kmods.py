# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: those the features name, those they need, and the indexes cut down to them.

Modules are laid unpacked: the archive is compressed as a whole, and unpacking each on its own costs
a slow machine seconds.
"""

from __future__ import annotations

import gzip
import lzma
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

PACKED: dict[str, Callable[[bytes], bytes]] = {".xz": lzma.decompress, ".gz": gzip.decompress}
WHOLE_INDEXES = ("modules.builtin", "modules.builtin.modinfo", "modules.order")
FIRMWARE = re.compile(rb"\0firmware=([^\0]+)")


def module_name(path: str) -> str:
    """The name modprobe knows: no folder, no suffix, underscores."""
    return PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")


class Modules:
    """The modules of one kernel version, as its modules.dep describes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = folder / "modules.dep"
        if not index.is_file():
            raise SystemExit(f"mkinitfs: {index} is missing: run depmod")
        self.needs: dict[str, list[str]] = {}
        for line in index.read_text().splitlines():
            path, _, needs = line.partition(":")
            self.needs[path] = needs.split()
        self.by_name = {module_name(path): path for path in self.needs}

    def matching(self, pattern: str) -> Iterator[str]:
        """Modules a line of a .modules file names: a glob, or a folder with all below it."""
        for found in sorted(self.folder.glob(pattern.strip("/"))):
            inside = sorted(found.rglob("*.ko*")) if found.is_dir() else [found]
            for path in inside:
                name = str(path.relative_to(self.folder))
                if name in self.needs:
                    yield name

    def closure(self, wanted: Iterable[str]) -> list[str]:
        """`wanted` and all that modprobe would load with them, soft dependencies too."""
        soft = self._soft_needs()
        taken: set[str] = set()
        todo = list(wanted)
        while todo:
            path = todo.pop()
            if path in taken:
                continue
            taken.add(path)
            todo += self.needs.get(path, [])
            todo += [self.by_name[name] for name in soft.get(module_name(path), []) if name in self.by_name]
        return sorted(taken)

    def _soft_needs(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for line in self._lines("modules.softdep"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                names = [word.replace("-", "_") for word in words[2:] if not word.endswith(":")]
                found.setdefault(words[1].replace("-", "_"), []).extend(names)
        return found

    def _lines(self, index: str) -> list[str]:
        path = self.folder / index
        return path.read_text().splitlines() if path.is_file() else []

    def install(self, taken: list[str], target: Path) -> set[str]:
        """Lay the modules and their indexes into `target`; the firmware they ask for is returned."""
        target.mkdir(parents=True, exist_ok=True)
        firmware: set[str] = set()
        for path in taken:
            data = self._unpack(self.folder / path)
            firmware.update(match.decode() for match in FIRMWARE.findall(data))
            place = target / _plain(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        names = {module_name(path) for path in taken}
        dep = [f"{_plain(path)}: {' '.join(map(_plain, self.needs[path]))}".rstrip() for path in taken]
        self._write(target / "modules.dep", dep)
        for index in ("modules.alias", "modules.symbols"):
            kept = [line for line in self._lines(index) if line.split()[-1:] and line.split()[-1] in names]
            self._write(target / index, kept)
        self._write(
            target / "modules.softdep",
            [line for line in self._lines("modules.softdep") if line.split()[1:2] and line.split()[1] in names],
        )
        for index in WHOLE_INDEXES:
            if (self.folder / index).is_file():
                (target / index).write_bytes((self.folder / index).read_bytes())
        return firmware

    def _unpack(self, path: Path) -> bytes:
        data = path.read_bytes()
        suffix = path.suffix
        if suffix == ".ko":
            return data
        if suffix not in PACKED:
            raise SystemExit(f"mkinitfs: {path}: modules packed as {suffix} are not known (use .xz or .gz)")
        return PACKED[suffix](data)

    def _write(self, path: Path, lines: list[str]) -> None:
        path.write_text("".join(line + "\n" for line in lines))


def _plain(path: str) -> str:
    return path.partition(".ko")[0] + ".ko"
