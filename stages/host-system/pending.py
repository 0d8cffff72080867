# SPDX-License-Identifier: Apache-2.0
"""Prepare the scripts that a root of another architecture could not run: `tower-scripts` runs them at the device's first start.

    pending.py ROOT ARCH REPOSITORIES INSTALLED...

REPOSITORIES is the file that apk had, INSTALLED what apk printed: the order in which it installed; its database is
sorted by name. Each step becomes a folder of var/lib/tower/scripts, by number; docs/building.md says which and why.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.apk.format.package import TarEntry, read_package
from runtime.install.apkwords import parse_step

PLACE = "var/lib/tower/scripts"
# Their triggers make what another stage has made already: host-boot makes the initramfs.
MADE_ELSEWHERE = frozenset({"mkinitfs"})
# Its trigger calls depmod, which takes minutes on a slow device, and makes the same files anywhere.
KMOD = "kmod"
DEPMOD_CONFIG = ("etc/depmod.d", "run/depmod.d", "usr/local/lib/depmod.d", "usr/lib/depmod.d")


@dataclass
class Package:
    """An installed package: its checksum, and the files and folders that are its own."""

    name: str
    version: str
    checksum: str
    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    @property
    def full_name(self) -> str:
        """Name and version, as file names have them."""
        return f"{self.name}-{self.version}"


def installed(text: str) -> dict[str, Package]:
    """The packages of the installed database, by full name."""
    found = {}
    for block in text.split("\n\n"):
        rows = [line.partition(":")[::2] for line in block.splitlines()]
        head = dict(reversed(rows))
        if "P" not in head:
            continue
        package = Package(head["P"], head["V"], head["C"])
        folder = ""
        for letter, value in rows:
            if letter == "F":
                folder = value
                package.folders.add(folder)
            elif letter == "R":
                package.files.add(f"{folder}/{value}".lstrip("/"))
        found[package.full_name] = package
    return found


def in_order(packages: dict[str, Package], logs: Sequence[str]) -> list[Package]:
    """The packages as apk installed them; ends the program where its words and the database differ."""
    steps = [step for text in logs for line in text.splitlines() if (step := parse_step(line)) is not None]
    names = [f"{step.name}-{step.version}" for step in steps if step.verb == "Installing"]
    if sorted(names) != sorted(packages):
        differ = sorted(set(names) ^ set(packages)) or sorted({name for name in names if names.count(name) > 1})
        sys.exit(f"pending.py: apk's output and its database differ in: {' '.join(differ)}")
    return [packages[name] for name in names]


def scripts(database: Path) -> dict[str, bytes]:
    """Name in scripts.tar (apk 3: scripts.tar.gz) -> text."""
    for name in ("scripts.tar", "scripts.tar.gz"):
        if (database / name).is_file():
            with tarfile.open(database / name) as archive:
                return {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
    return {}


def script_of(found: dict[str, bytes], package: Package, kind: str) -> bytes | None:
    """Take the script of a package out of what was found; apk 2 names it by the checksum in base64, apk 3 in hexadecimal."""
    digest = base64.b64decode(package.checksum.removeprefix("Q1")).hex()
    for checksum in (package.checksum, f"X1{digest}"):
        text = found.pop(f"{package.full_name}.{checksum}.{kind}", None)
        if text is not None:
            return text
    return None


def watched(globs: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The folders that fit one of a trigger's globs, in which no `*` crosses a slash."""
    patterns = [glob.removeprefix("+").split("/") for glob in globs]
    return [
        folder
        for folder in folders
        if any(
            len(pattern) == len(parts) and all(map(fnmatchcase, parts, pattern))
            for parts in [folder.split("/")]
            for pattern in patterns
        )
    ]


def depmod(root: Path, folders: Sequence[str]) -> list[str]:
    """Do here what kmod's trigger does for the kernels among its folders; the folders that are left for it.

    Ends the program if depmod fails. What depmod makes depends on the modules and the root's own configuration alone.
    """
    left = []
    config = [f"--config={root / folder}" for folder in DEPMOD_CONFIG]
    for folder in folders:
        release = folder.rpartition("/lib/modules/")[2]
        # Like the trigger: without this file, the folder's kernel was removed. depmod would take other names for modules.
        if not re.fullmatch(r"\d+\.\d+[^/]*", release) or not os.path.lexists(root / folder.lstrip("/") / "modules.order"):
            left.append(folder)
            continue
        # Links of the root lead to places in the root; depmod would follow them outside of it.
        if not (root / "lib/modules" / release).resolve().is_relative_to(root.resolve()):
            sys.exit(f"pending.py: {folder} lies outside of the root")
        done = subprocess.run(["depmod", *config, f"--basedir={root}", release], check=False)
        if done.returncode != 0:
            sys.exit(f"pending.py: depmod failed with status {done.returncode} for {folder}")
    return left


def ids(path: Path) -> dict[str, int]:
    """The names in a passwd or group file -> their numbers."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [line.split(":") for line in lines]
    return {"": 0, "root": 0} | {row[0]: int(row[2]) for row in rows if len(row) > 2 and row[2].isdigit()}


class Owners:
    """Gives to root what belongs to users who are not there yet, and says whom it belongs to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._users, self._groups = ids(root / "etc/passwd"), ids(root / "etc/group")

    def of(self, package: Package, file: Path) -> str:
        """One line for each file or folder: user, group, mode (- of a link), path."""
        return "".join(self._line(package, entry) for entry in self._unowned(package, file))

    def _unowned(self, package: Package, file: Path) -> Iterator[TarEntry]:
        with file.open("rb") as stream:
            for entry, _content in read_package(stream, None, name=file.name).iter_data():
                mine = entry.kind == "dir" or entry.name in package.files
                # /boot is the other partition, and not in this root.
                there = mine and os.path.lexists(self._root / entry.name)
                if there and (entry.uname not in self._users or entry.gname not in self._groups):
                    yield entry

    def _line(self, package: Package, entry: TarEntry) -> str:
        place = self._root / entry.name
        where = f"{package.full_name}: {entry.name}"
        if not place.parent.resolve().is_relative_to(self._root.resolve()):
            sys.exit(f"pending.py: {where} lies outside of the root")
        if "\n" in entry.name or any(set(name) & set(" :\n") for name in (entry.uname, entry.gname)):
            sys.exit(f"pending.py: {where}: neither path nor owner may have such characters")
        if entry.xattrs:
            sys.exit(f"pending.py: {where} has attributes, and an owner who is made by a script: the first one would be lost")
        os.chown(place, self._users.get(entry.uname, 0), self._groups.get(entry.gname, 0), follow_symlinks=False)
        mode = "-"
        if entry.kind != "symlink":
            mode = f"{entry.mode & 0o7777:04o}"
            place.chmod(stat.S_IMODE(entry.mode) & 0o1777)
        return f"{entry.uname or entry.uid} {entry.gname or entry.gid} {mode} {entry.name}\n"


class Steps:
    """The numbered folders."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._count = 0
        shutil.rmtree(place, ignore_errors=True)

    def add(self, name: str, content: bytes, arguments: Sequence[str] = ()) -> None:
        """One step: a script (or list of owners), and its arguments, one a line."""
        self._count += 1
        folder = self._place / f"{self._count:04d}"
        folder.mkdir(parents=True)
        self._place.chmod(0o700)
        (folder / "arguments").write_text("".join(f"{argument}\n" for argument in arguments), encoding="utf-8")
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o700)


def find(repositories: Sequence[Path], arch: str, package: Package) -> Path:
    """The file of a package."""
    for repository in repositories:
        for folder in (arch, "noarch"):
            path = repository / folder / f"{package.full_name}.apk"
            if path.is_file():
                return path
    sys.exit(f"pending.py: {package.full_name}.apk is in none of: {' '.join(map(str, repositories))}")


def lay(root: Path, arch: str, repositories: Sequence[Path], logs: Sequence[str]) -> None:
    """All steps of a root, in apk's order: each package's own, then the triggers."""
    database = next((path for path in (root / "lib/apk/db", root / "usr/lib/apk/db") if path.is_dir()), root)
    packages = installed((database / "installed").read_text(encoding="utf-8"))
    order = in_order(packages, logs)
    found = scripts(database)
    steps, owners = Steps(root / PLACE), Owners(root)
    for package in order:
        before, after = (script_of(found, package, kind) for kind in ("pre-install", "post-install"))
        if before is not None:
            steps.add(f"{package.full_name}.pre-install", before, [package.version])
        lines = owners.of(package, find(repositories, arch, package))
        if lines:
            steps.add(f"{package.full_name}.owners", lines.encode())
        if after is not None:
            steps.add(f"{package.full_name}.post-install", after, [package.version])
    rows = [line.split() for line in (database / "triggers").read_text(encoding="utf-8").splitlines()]
    triggers = {row[0]: row[1:] for row in rows if row}
    folders = sorted({f"/{folder}" for package in order for folder in package.folders})
    for package in order:
        script = script_of(found, package, "trigger")
        arguments = watched(triggers.get(package.checksum, ()), folders)
        if package.name == KMOD:
            arguments = depmod(root, arguments)
        if script is not None and arguments and package.name not in MADE_ELSEWHERE:
            steps.add(f"{package.full_name}.trigger", script, arguments)
    # Scripts for upgrades and removals are left to apk; any other script belongs to no installed package.
    lost = [name for name in found if name.endswith(("install", "trigger")) and not name.endswith("deinstall")]
    if lost:
        sys.exit(f"pending.py: scripts of no installed package: {' '.join(sorted(lost))}")


if __name__ == "__main__":
    _root, _arch, _repositories, *_logs = sys.argv[1:]
    lay(
        Path(_root),
        _arch,
        # A line is a folder, perhaps after the word `v3`.
        [Path(line.split()[-1]) for line in Path(_repositories).read_text(encoding="utf-8").splitlines()],
        [Path(log).read_text(encoding="utf-8") for log in _logs],
    )
