# SPDX-License-Identifier: Apache-2.0
"""Lock packages: an index names a package by a digest of its metadata alone, so a lock needs the whole file once.

A new file is untrusted at first. It is verified (signature, control against the index, data against control, size),
and only then gets a SHA-256 that the lock can name. Packages of an earlier lock are not fetched again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tower.base.regular import open_regular

from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing
from pipeline.base.canonical import Digest
from pipeline.base.errors import VerifyError
from pipeline.base.progress import Progress
from pipeline.channels.alpine.indexes import SignedIndex
from pipeline.supply.fetch import Mirrors, fetch
from pipeline.supply.lock import Choice, LockedFile
from pipeline.supply.vault import Vault
from pipeline.supply.vault_place import clear, ours

if TYPE_CHECKING:
    from pipeline.apk.solver.solve import Solution

_UNKNOWN = Digest("")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A package of a solution, and the index that vouches for it."""

    name: str
    version: str
    checksum: str
    index: SignedIndex

    def unlocked(self) -> LockedFile:
        """The index's data about the file."""
        entry = self.index.entries[self.checksum]
        repository = self.index.file.location.rsplit("/", 2)[0]
        location = f"{repository}/{self.index.folder_of(entry)}/{entry.file_name}"
        return LockedFile(self.name, self.version, _UNKNOWN, entry.size, location, self.checksum)


def by_checksum(solutions: Iterable[Solution], indexes: Sequence[SignedIndex]) -> dict[str, Wanted]:
    """Return the packages of all solutions by checksum; `indexes` are those that were solved over, in the same order."""
    return {
        chosen.checksum: Wanted(chosen.name, chosen.version, chosen.checksum, indexes[chosen.index])
        for solution in solutions
        for chosen in solution.packages
    }


def choice_of(solution: Solution) -> Choice:
    """Return a solution as the lock keeps it."""
    return Choice(tuple(sorted(solution.world)), tuple(sorted(f"{one.name}={one.version}" for one in solution.packages)))


def verify_package(path: Path, file: LockedFile, ring: KeyRing) -> str:
    """Check a package file against the data of index or lock; return the name of the key that signed it.

    Raises VerifyError or FormatError, naming the file and what differs.
    """
    where = f"{file.name}-{file.version}.apk"
    with open_regular(path) as stream:
        package = read_package(stream, ring, name=where)
        size = package.verify_data()
    package.check_identity(file.checksum, "the mirror serves another package")
    for what, found, stated in (
        ("name", package.info.name, file.name),
        ("version", package.info.version, file.version),
        ("size", size, file.size),
    ):
        if found != stated:
            raise VerifyError(f"{where}: {what} is {found}, the index says {stated}", hint="the mirror serves another package")
    return package.signer


class _Arrivals:
    """The shelf for packages whose SHA-256 is not known yet: verified as packages, then named by content."""

    def __init__(self, vault: Vault, ring: KeyRing) -> None:
        self._vault = vault
        self._ring = ring
        self.locked: dict[str, LockedFile] = {}
        """By checksum."""

    def path(self, file: LockedFile) -> Path:
        return self._vault.path(self.locked[file.checksum])

    def untrusted(self, file: LockedFile) -> Path:
        name = hashlib.sha256(f"{file.location} {file.checksum} {file.size}".encode()).hexdigest()
        return self._vault.folder / "untrusted_" / f"package-{name}"

    def is_whole(self, file: LockedFile) -> bool:
        with ours(self.untrusted(file)):
            clear(self.untrusted(file))
        return file.checksum in self.locked

    def accept(self, file: LockedFile) -> None:
        part = self.untrusted(file)
        try:
            signer = verify_package(part, file, self._ring)
        except VerifyError:
            part.unlink()
            raise
        self.locked[file.checksum] = replace(file, sha256=self._vault.put_file(part), signer=signer)


def lock_packages(
    wanted: Iterable[Wanted], known: Sequence[LockedFile], *, vault: Vault, ring: KeyRing, source: Mirrors, progress: Progress
) -> tuple[LockedFile, ...]:
    """Lock packages of one architecture, sorted by name; `known` are the packages of an earlier lock.

    A package whose key is no longer trusted is verified again. Raises FetchError, VerifyError.
    """
    trusted = set(ring.names)
    before: Mapping[str, LockedFile] = {file.checksum: file for file in known if file.signer in trusted}
    found: dict[str, LockedFile] = {}
    new: dict[str, LockedFile] = {}
    for item in wanted:
        file = item.unlocked()
        earlier = before.get(file.checksum)
        if earlier is not None and replace(earlier, sha256=_UNKNOWN, signer="") == file:
            found[file.checksum] = earlier
        else:
            new[file.checksum] = file
    arrivals = _Arrivals(vault, ring)
    source = replace(source, other_bytes="no mirror has what our keys vouch for: look at the mirrors, and at docs/keys.md")
    fetch(new.values(), arrivals, source, progress, title="packages that are new to the lock")
    return tuple(sorted([*found.values(), *arrivals.locked.values()]))
