# SPDX-License-Identifier: Apache-2.0
"""Packages as the solver sees them: records of an index or of the installed database, read only as far as asked.

An index of thousands of records costs little here, because a record is split into its fields only when the package is
considered; only names, versions and provides are looked at for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cmp_to_key
from pathlib import Path

from pipeline.apk import version as versions
from pipeline.apk.pkginfo import Dependency, parse_dependency

_NAME_END = re.compile(r"[<>=~]")
VIRTUAL = "virtual meta package"
_parsed: dict[str, Dependency] = {}


def dependency(text: str) -> Dependency:
    """Parse one dependency; the same words come again and again, so the answers are kept."""
    found = _parsed.get(text)
    if found is None:
        found = _parsed[text] = parse_dependency(text)
    return found


def dependencies(text: str) -> tuple[Dependency, ...]:
    """Parse a list of dependencies parted by blanks."""
    return tuple(map(dependency, text.split()))


class Package:
    """One package, of one or several repositories and perhaps installed; its identity is its checksum."""

    __slots__ = ("_depends", "_fields", "_provided", "file", "installed", "name", "record", "repositories", "version")

    def __init__(self, record: str) -> None:
        self.record = record
        self.repositories: list[int] = []
        self.installed = False
        self.file: Path | None = None  # given on the command line as a file
        self._fields: dict[str, str] | None = None
        self._depends: tuple[Dependency, ...] | None = None
        self._provided: tuple[tuple[str, str | None], ...] | None = None
        self.name = self._quick("P")
        self.version = self._quick("V")

    def _quick(self, letter: str) -> str:
        start = 0 if self.record.startswith(f"{letter}:") else self.record.find(f"\n{letter}:") + 1
        if start == 0 and not self.record.startswith(f"{letter}:"):
            return ""
        end = self.record.find("\n", start)
        return self.record[start + 2 : end if end >= 0 else None]

    def field(self, letter: str) -> str:
        """The text of a field of the record, empty when it has none."""
        if self._fields is None:
            self._fields = {}
            for line in self.record.split("\n"):
                if line[1:2] == ":" and line[0] not in "FRMaZ":
                    self._fields[line[0]] = line[2:]
        return self._fields.get(letter, "")

    @property
    def full_name(self) -> str:
        """Name and version joined, as messages and files have it."""
        return f"{self.name}-{self.version}"

    @property
    def checksum(self) -> str:
        """`Q1` and the SHA-1 of the control member."""
        return self.field("C")

    @property
    def is_virtual(self) -> bool:
        """Whether it was made by `add --virtual`: a name with dependencies and no file."""
        return self.field("T") == VIRTUAL and not self.repositories and self.file is None

    @property
    def depends(self) -> tuple[Dependency, ...]:
        """What it needs, and what it conflicts with."""
        if self._depends is None:
            self._depends = dependencies(self.field("D"))
        return self._depends

    @property
    def install_if(self) -> tuple[Dependency, ...]:
        """All that must be installed for it to come in by itself."""
        return dependencies(self.field("i"))

    @property
    def provided(self) -> tuple[tuple[str, str | None], ...]:
        """Every name it stands for, with the version or None; its own name first."""
        if self._provided is None:
            names: list[tuple[str, str | None]] = [(self.name, self.version)]
            for word in self._quick("p").split():
                name, _, value = word.partition("=")
                names.append((name, value or None))
            self._provided = tuple(names)
        return self._provided

    @property
    def priority(self) -> int:
        """Its weight among the packages that provide the same name."""
        return int(self.field("k") or 0)

    @property
    def installed_size(self) -> int:
        """Bytes it takes when installed."""
        return int(self.field("I") or 0)

    @property
    def size(self) -> int:
        """Bytes of the package file."""
        return int(self.field("S") or 0)

    def needs(self, other: Package) -> bool:
        """Whether one of its dependencies is met by the other package."""
        return any(not dep.conflict and other.provides(dep) for dep in self.depends)

    def provides(self, wanted: Dependency) -> bool:
        """Whether it stands for what is wanted, by its own name or another."""
        return any(name == wanted.name and fits(wanted, self, version) for name, version in self.provided)


def fits(wanted: Dependency, package: Package, version: str | None) -> bool:
    """Whether a provided version is good enough for the dependency (its name is known to be right)."""
    if not wanted.op:
        return True
    if wanted.op == "><" or wanted.version.startswith("Q1"):
        return wanted.version == package.checksum
    return version is not None and versions.satisfies(version, wanted.op, wanted.version)


def _compare_versions(a: Package, b: Package) -> int:
    return versions.compare(a.version, b.version)


_by_version = cmp_to_key(_compare_versions)


class Universe:
    """All packages known in a run, and who provides which name."""

    def __init__(self) -> None:
        self.packages: list[Package] = []
        self._by_id: dict[tuple[str, str], Package] = {}
        self._providers: dict[str, list[tuple[Package, str | None]]] = {}
        self._install_if: dict[str, list[Package]] = {}

    def add(self, package: Package, repository: int | None = None) -> Package:
        """Take a package in; one that is known already under its checksum only gets the further repository."""
        identity = (package.name, package._quick("C") or package.version)
        known = self._by_id.get(identity)
        if known is None:
            known = self._by_id[identity] = package
            self.packages.append(package)
            for name, version in package.provided:
                self._providers.setdefault(name, []).append((package, version))
            for word in package._quick("i").split():
                self._install_if.setdefault(_NAME_END.split(word, maxsplit=1)[0], []).append(package)
        if repository is not None and repository not in known.repositories:
            known.repositories.append(repository)
        return known

    def add_index(self, text: str, repository: int) -> None:
        """Take all records of an index in."""
        for record in text.split("\n\n"):
            stripped = record.strip("\n")
            if stripped:
                self.add(Package(stripped), repository)

    def providers(self, name: str) -> list[tuple[Package, str | None]]:
        """The packages that stand for a name, with the version they give to it."""
        return self._providers.get(name, [])

    def named(self, name: str) -> list[Package]:
        """The packages of that very name, lowest version first."""
        own = [package for package, _ in self.providers(name) if package.name == name]
        return sorted(own, key=_by_version)

    def triggered_by(self, name: str) -> list[Package]:
        """The packages whose install_if mentions the name."""
        return self._install_if.get(name, [])

    def names(self) -> list[str]:
        """The names of all packages, sorted."""
        return sorted({package.name for package in self.packages})

    def newest(self, packages: Iterable[Package]) -> Package | None:
        """The package of the highest version."""
        best: Package | None = None
        for package in packages:
            if best is None or versions.compare(package.version, best.version) > 0:
                best = package
        return best
