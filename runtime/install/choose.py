# SPDX-License-Identifier: Apache-2.0
"""Choose the packages for a host: this machine's own `apk` decides, on a copy of the host's state.

The copy lies in a private folder: the host's world and database, its trusted keys, and the indexes as local
repositories. Nothing is installed or fetched; an index that none of the host's keys has signed is refused.
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
_HINT: Final = "install apk-tools, or use a tunnel: tower install --tunnel"


@dataclass(frozen=True, slots=True)
class Choice:
    """apk's plan for a host."""

    steps: tuple[str, ...]
    """The steps, such as `Installing NAME (VERSION)`, sorted."""
    packages: tuple[tuple[int, Package], ...]
    """The packages to send, each with the number of its repository."""

    @property
    def space(self) -> int:
        """Bytes that the packages take when installed, without counting what they replace."""
        return sum(package.installed_size for _, package in self.packages)


def check_names(names: Sequence[str]) -> None:
    """Raise ValueRefusedError if a word is not the name of a package, optionally with a version or a tag."""
    for name in names:
        if not apkwords.is_wanted(name):
            raise ValueRefusedError(
                f"{name[: apkwords.LONGEST]!r} is not the name of a package",
                hint=f"for example: firefox, firefox~128, firefox@edge; at most {apkwords.LONGEST} characters",
            )


@dataclass(frozen=True, slots=True)
class Copy:
    """A private folder with a copy of a host's state."""

    folder: Path
    state: HostState
    host: str

    def index_place(self, number: int) -> Path:
        """Return the path for the index of a repository."""
        return self.folder / "mirror" / str(number) / self.state.arch / INDEX

    def check_index(self, number: int, index: Path, known: dict[str, Index]) -> Index:
        """Store the index of a repository, if a key of the host has signed it. Raises PackageError.

        `known` caches parsed indexes by the file's digest: a large one takes half a second to read.
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
        """Raise PackageError unless the host's keys have signed all packages, and their content matches."""
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
                hint="it is not used; the server, or somebody in between, may have changed it; try another mirror",
            )

    def choose(self, names: Sequence[str], indexes: Sequence[Index]) -> Choice:
        """Return the plan of `apk add NAMES`. Raises PackageError with apk's reasons if there is none."""
        argv = ("apk", *self._options("repositories"), "--no-network", "--no-progress", "add", "--simulate", "--", *names)
        # apk 3 takes a word with a dot for a file, if its working folder has such a file.
        done = proc.run(argv, timeout=300, check=False, missing=_HINT, cwd=self.folder / "root")
        if done.status != 0:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise PackageError(
                f"{self.host}: apk cannot install {' '.join(names)}:\n  " + "\n  ".join(_first(said.splitlines(), 20)),
                hint=f"is the name right? See what {self.host} has: ssh {self.host} apk list --installed",
            )
        plan = read_plan(done.stdout.decode(errors="replace").splitlines())
        if plan.doubt:
            raise PackageError(
                f"{self.host}: this machine's apk {plan.doubt}, which tower does not understand; nothing was chosen",
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
            + (f"whose record in the index is not valid: {odd}" if odd else "which no index of its repositories names"),
            hint=f"let the host fetch it for itself: tower install {self.host} {step.name} --tunnel",
        )

    def _options(self, repositories: str) -> tuple[str, ...]:
        root = self.folder / "root"
        keys = ("--keys-dir", str(self.folder / "keys"), "--repositories-file", str(self.folder / repositories))
        return "--root", str(root), "--arch", self.state.arch, *keys


def _first(lines: Sequence[str], most: int) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"... and {more} more lines"] if more > 0 else [])]


@contextmanager
def copy_of(state: HostState, host: str) -> Iterator[Copy]:
    """Make a private copy of a host's state, removed at the end of the context.

    It is in a folder like those of sockets: if `tower` is killed, the next run removes it.
    """
    with socket_folder() as folder:
        database = folder / "root" / "usr" / "lib" / "apk" / "db"
        settings = folder / "root" / "etc" / "apk"
        for made in (database, settings, folder / "keys"):
            made.mkdir(parents=True)
        # Older and newer versions of apk look in different places.
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
