# SPDX-License-Identifier: Apache-2.0
"""Which packages a host would get: this machine's own `apk` is asked, about a copy of what the host says of itself.

The copy lies in a private folder: the host's world and database, its trusted keys, and the indexes as local
repositories. Nothing is installed and nothing is fetched; an index that none of the host's keys has signed is refused.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.base import proc
from tower.base.errors import PackageError, ValueRefusedError
from tower.base.regular import read_regular
from tower.install import apkwords
from tower.install.apkindex import INDEX, MOST_INDEX, Index, Package, read_index
from tower.install.apkwords import Step, read_plan
from tower.install.repository import HostState
from tower.ssh.sockets import socket_folder

_STEP: Final = apkwords.STEP
_HINT: Final = "install apk-tools; without it packages come through a tunnel: tower install --tunnel"


@dataclass(frozen=True, slots=True)
class Choice:
    """What apk would do on a host."""

    steps: tuple[str, ...]
    """`Installing NAME (VERSION)` and the like, sorted."""
    packages: tuple[tuple[int, Package], ...]
    """The packages to send, each with the number of its repository."""

    @property
    def space(self) -> int:
        """Bytes that the packages take when installed; what they replace is not taken off."""
        return sum(package.installed_size for _, package in self.packages)


def check_names(names: Sequence[str]) -> None:
    """ValueRefusedError if one could not be the name of a package, with a version or a tag."""
    for name in names:
        if not apkwords.is_wanted(name):
            raise ValueRefusedError(
                f"{name[: apkwords.LONGEST]!r} is not the name of a package",
                hint=f"for example: firefox, firefox~128, firefox@edge; at most {apkwords.LONGEST} characters",
            )


@dataclass(frozen=True, slots=True)
class Copy:
    """A private folder with what a host says of itself."""

    folder: Path
    state: HostState
    host: str

    def index_place(self, number: int) -> Path:
        """Where the index of a repository lies."""
        return self.folder / "mirror" / str(number) / self.state.arch / INDEX

    def check_index(self, number: int, index: Path, known: dict[str, Index]) -> Index:
        """Lay the index of a repository down, if a key of the host has signed it. Raises PackageError.

        `known` keeps what was read, by the file's digest: to read a large one takes half a second.
        """
        place = self.index_place(number)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(index, place)
        self._verify([place], f"{self.state.repositories[number].address}: its index")
        digest = hashlib.sha256(read_regular(place, most=MOST_INDEX)).hexdigest()
        if digest not in known:
            known[digest] = read_index(place)
        return known[digest]

    def check_packages(self, paths: Sequence[Path]) -> None:
        """PackageError if a package is not signed by a key of the host, or its content is not what was signed."""
        if paths:
            self._verify(paths, "a package")

    def _verify(self, paths: Sequence[Path], what: str) -> None:
        argv = ("apk", *self._options("none"), "verify", "--", *(str(path) for path in paths))
        done = proc.run(argv, timeout=60 + 5 * len(paths), check=False, missing=_HINT)
        if done.status != 0:
            said = [line for line in done.stdout.decode(errors="replace").splitlines() if not apkwords.says_verified(line)]
            raise PackageError(
                f"{what} for {self.host} is not signed by a key that {self.host} trusts, or was changed: "
                + "; ".join(_first([line.removeprefix(f"{self.folder}/") for line in said], 3)),
                hint="it is not used; the server may be wrong, or somebody in between; try another mirror",
            )

    def choose(self, names: Sequence[str], indexes: Sequence[Index]) -> Choice:
        """What `apk add NAMES` would do. Raises PackageError with apk's reasons if it cannot be done."""
        argv = ("apk", *self._options("repositories"), "--no-network", "--no-progress", "add", "--simulate", "--", *names)
        # apk 3 takes a word with a dot for a file, if there is such a file where it works.
        done = proc.run(argv, timeout=300, check=False, missing=_HINT, cwd=self.folder / "root")
        if done.status != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise PackageError(
                f"{self.host}: apk cannot install {' '.join(names)}:\n  " + "\n  ".join(_first(said.splitlines(), 20)),
                hint=f"is the name right? What {self.host} has already: ssh {self.host} apk list --installed",
            )
        plan = read_plan(done.stdout.decode(errors="replace").splitlines())
        if plan.doubt:
            raise PackageError(
                f"{self.host}: this machine's apk {plan.doubt}, which is not understood here; nothing was chosen",
                hint=f"let the host choose for itself: tower install {self.host} {' '.join(names)} --tunnel",
            )
        packages = [self._package(step, indexes) for step in plan.steps if step.brings]
        return Choice(tuple(sorted(step.text for step in plan.steps)), tuple(dict.fromkeys(packages)))

    def _package(self, step: Step, indexes: Sequence[Index]) -> tuple[int, Package]:
        for number, index in enumerate(indexes):
            package = index.packages.get((step.name, step.version))
            if package is not None:
                return number, package
        odd = next((index.odd[step.name, step.version] for index in indexes if (step.name, step.version) in index.odd), "")
        raise PackageError(
            f"{self.host}: apk chooses {step.name} {step.version}, "
            + (f"whose record in the index is not as it should be: {odd}" if odd else "which no index of its repositories names"),
            hint=f"let the host fetch it for itself: tower install {self.host} {step.name} --tunnel",
        )

    def _options(self, repositories: str) -> tuple[str, ...]:
        root = self.folder / "root"
        keys = ("--keys-dir", str(self.folder / "keys"), "--repositories-file", str(self.folder / repositories))
        return "--root", str(root), "--arch", self.state.arch, *keys


def _first(lines: Sequence[str], most: int) -> list[str]:
    """The first lines, and how many there are more."""
    more = len(lines) - most
    return [*lines[:most], *([f"... and {more} more lines"] if more > 0 else [])]


@contextmanager
def copy_of(state: HostState, host: str) -> Iterator[Copy]:
    """A private copy of what a host says of itself, gone at the end of the context.

    It is in a folder of the kind that sockets have: what a killed `tower` leaves, the next one sweeps away.
    """
    with socket_folder() as folder:
        database = folder / "root" / "usr" / "lib" / "apk" / "db"
        settings = folder / "root" / "etc" / "apk"
        for made in (database, settings, folder / "keys"):
            made.mkdir(parents=True)
        # Older and newer apk look in different places.
        (folder / "root" / "lib").symlink_to("usr/lib")
        (database / "installed").write_bytes(state.installed)
        (database / "triggers").touch()
        (settings / "world").write_bytes(state.world)
        (settings / "arch").write_text(f"{state.arch}\n")
        for key, content in state.keys.items():
            (folder / "keys" / key).write_bytes(content)
        (folder / "none").touch()
        lines = (f"{one.tag} {folder}/mirror/{number}".strip() for number, one in enumerate(state.repositories))
        (folder / "repositories").write_text("".join(f"{line}\n" for line in lines))
        yield Copy(folder, state, host)
