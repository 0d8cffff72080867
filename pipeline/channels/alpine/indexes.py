# SPDX-License-Identifier: Apache-2.0
"""Signed indexes: fetched from a mirror, verified with the keys of their architecture, and never older than before.

A mirror can serve an old index with a good signature, to hide later repairs. The time of an index is part of the signed
data; the latest accepted one is in the lock, which is committed, and in the user's cache.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.apk.format.index import IndexEntry, read_index
from pipeline.apk.format.pkginfo import NOARCH
from pipeline.apk.format.signature import KeyRing
from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import VerifyError
from pipeline.base.filelock import locked
from pipeline.supply.lock import LockedFile

_DAY = 86400
_CLOCK_SLACK = _DAY


@dataclass(frozen=True, slots=True)
class SignedIndex:
    """One repository's index for one architecture, verified."""

    arch: str
    file: LockedFile
    """Its name is the repository's, its version the index's description of itself."""
    data: bytes
    entries: Mapping[str, IndexEntry]
    """By the checksum (`Q1...`, `Q2...`)."""

    @property
    def file_name(self) -> str:
        """The name of its file, which says of which format it is."""
        return self.file.location.rpartition("/")[2]

    def folder_of(self, entry: IndexEntry) -> str:
        """Return the folder of a package in the repository, where apk 3 looks for it: that of the architecture listed for it."""
        return entry.arch if entry.arch == NOARCH else self.arch

    @property
    def title(self) -> str:
        """Its name in messages."""
        return f"index of {self.file.name} for {self.arch}"


def read_signed(data: bytes, ring: KeyRing, arch: str, repository: str, location: str) -> SignedIndex:
    """Verify and read an index. Raises VerifyError or FormatError, naming architecture and repository."""
    where = f"{repository}/{arch}/{location.rpartition('/')[2]}"
    index = read_index(io.BytesIO(data), ring, name=where)
    strange = sorted({entry.arch for entry in index.entries} - {arch, NOARCH, ""})
    if strange:
        raise VerifyError(
            f"{where}: lists packages for {', '.join(strange)}", hint="the mirror serves another architecture's index"
        )
    size, signer, made = len(data), index.signer, index.made
    file = LockedFile(repository, index.description, digest_bytes(data), size, location, signer=signer, made=made)
    return SignedIndex(arch, file, data, {entry.checksum: entry for entry in index.entries})


@dataclass(frozen=True, slots=True)
class Accepted:
    """The latest accepted index of a repository."""

    version: str
    sha256: str
    made: int


class Freshness:
    """The indexes accepted so far: by the present lock, and by earlier runs of this user."""

    def __init__(self, note: Path, locked_indexes: Mapping[str, Iterable[LockedFile]]) -> None:
        self._note = note
        self._latest = self._read()
        for arch, files in locked_indexes.items():
            for file in files:
                self._keep(f"{arch}/{file.name}", Accepted(file.version, file.sha256, file.made))

    def _keep(self, name: str, found: Accepted) -> None:
        if name not in self._latest or found.made > self._latest[name].made:
            self._latest[name] = found

    def _read(self) -> dict[str, Accepted]:
        try:
            rows = parse_json(read_regular(self._note))
            return {str(name): Accepted(str(row["version"]), str(row["sha256"]), int(row["made"])) for name, row in rows.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}  # the lock still has the accepted indexes

    def check(self, index: SignedIndex, *, hint: str, accept_older: bool = False, now: float | None = None) -> None:
        """Raise VerifyError for an index from the future, or (unless `accept_older`) older than one accepted before."""
        clock = time.time() if now is None else now
        if index.file.made > clock + _CLOCK_SLACK:
            raise VerifyError(
                f"{index.title}: made {day(index.file.made)}, but this machine's clock says {day(int(clock))}",
                hint="set this machine's clock: without it, the age of an index is unknown",
            )
        before = self._latest.get(f"{index.arch}/{index.file.name}")
        if before is not None and index.file.made < before.made and not accept_older:
            raise VerifyError(
                f"{index.title}: made {day(index.file.made)} ({index.file.version}), older than the one accepted before, "
                f"made {day(before.made)} ({before.version}): the mirror is out of date, or replays an old index",
                hint=hint,
            )

    def accept(self, indexes: Iterable[SignedIndex], *, older: bool = False) -> None:
        """Remember indexes; with `older` even instead of later ones."""
        self._note.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._note.with_suffix(".guard")):
            latest = {} if older else self._read()
            for name, found in self._latest.items():
                if name not in latest or found.made > latest[name].made:
                    latest[name] = found
            for index in indexes:
                name, found = f"{index.arch}/{index.file.name}", Accepted(index.file.version, index.file.sha256, index.file.made)
                if older or name not in latest or found.made >= latest[name].made:
                    latest[name] = found
            rows = {
                name: {"version": row.version, "sha256": row.sha256, "made": row.made} for name, row in sorted(latest.items())
            }
            temporary = self._note.with_suffix(".new")
            temporary.write_text(json.dumps(rows, indent=1) + "\n")
            temporary.replace(self._note)
        self._latest = latest


def day(seconds: int) -> str:
    """Return a time as people write it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def age_in_days(index: SignedIndex, now: float | None = None) -> int:
    """Return the age of the index in days."""
    return int(((time.time() if now is None else now) - index.file.made) // _DAY)
