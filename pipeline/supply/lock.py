# SPDX-License-Identifier: Apache-2.0
"""Locks: the files that a build may use, resolved once; and the worlds that a lock is resolved for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.errors import LockError

LOCK_SCHEMA = 1
_RELOCK = "run: ./ci/doit lock"


_OPTIONAL = ("indexes", "media", "native_builders", "choices")


_OPTIONAL_OF_FILES = ("checksum", "signer", "made")


@dataclass(frozen=True, slots=True, order=True)
class LockedFile:
    """One file that a build may use: its identity and its content."""

    name: str
    version: str
    sha256: Digest
    size: int
    location: str = ""
    """The path that it is fetched from, relative to the mirror; never a host name."""
    checksum: str = ""
    """For an Alpine package: the checksum in the signed index (`Q1...`)."""
    signer: str = ""
    """The name of the key that signed it; empty for files that only digests vouch for."""
    made: int = 0
    """For an index: the time when it was made, from its signed part."""


_FIELDS = tuple(one.name for one in fields(LockedFile))


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """The packages that the solver chose for one world: what a root of this world consists of."""

    world: tuple[str, ...]
    """The world's words, sorted."""
    packages: tuple[str, ...]
    """`name=version` of each package, sorted."""


@dataclass(frozen=True, slots=True)
class Lock:
    """All files that a build of a channel may use, resolved once."""

    channel: str
    made_from: Digest
    """`ChannelDriver.lock_key()` when this lock was made; if it differs now, the lock does not fit."""
    packages: Mapping[str, tuple[LockedFile, ...]]
    """By architecture of the device, sorted by name."""
    builder: tuple[LockedFile, ...]
    wheels: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """Python wheels for the device, by architecture."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Information for readers: suite, date of the index; part of the lock's digest."""
    indexes: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """The signed indexes that the packages were chosen from, by architecture."""
    media: tuple[LockedFile, ...] = ()
    """Files of other kinds: root file systems, boot files, the scripts of aports."""
    native_builders: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """Like `builder`, for the channel's `native_builders`."""
    choices: Mapping[str, tuple[Choice, ...]] = field(default_factory=dict)
    """The choice for each world of an architecture, from the packages in `packages`."""

    def to_json(self) -> dict[str, JsonValue]:
        """Return the lock as JSON data, for `from_json`; parts that the channel does not use are left out."""
        data: dict[str, JsonValue] = {
            "schema": LOCK_SCHEMA,
            "channel": self.channel,
            "made_from": self.made_from,
            "packages": _tables(self.packages),
            "builder": _rows(self.builder),
            "wheels": _tables(self.wheels),
            "notes": dict(self.notes),
            "indexes": _tables(self.indexes),
            "media": _rows(self.media),
            "native_builders": _tables(self.native_builders),
            "choices": {
                arch: [{"world": list(choice.world), "packages": list(choice.packages)} for choice in choices]
                for arch, choices in self.choices.items()
            },
        }
        return {name: value for name, value in data.items() if value or name not in _OPTIONAL}

    def choice(self, arch: str, world: Iterable[str]) -> tuple[str, ...]:
        """Return the packages chosen for a world, as `name=version`. Raises LockError if the world was not solved."""
        wanted = tuple(sorted(world))
        found = next((choice for choice in self.choices.get(arch, ()) if choice.world == wanted), None)
        if found is None:
            raise LockError(f"lock of {self.channel}: no choice for {arch} of the world {', '.join(wanted)}", hint=_RELOCK)
        return found.packages

    @property
    def builders(self) -> tuple[tuple[LockedFile, ...], ...]:
        """The packages of the builders: a table for each."""
        return (self.builder, *self.native_builders.values())

    @property
    def files(self) -> tuple[LockedFile, ...]:
        """All files that a build may use."""
        tables = [*self.indexes.values(), *self.packages.values(), *self.builders, *self.wheels.values(), self.media]
        return tuple(file for table in tables for file in table)

    @property
    def digest(self) -> Digest:
        """The digest of the lock's content."""
        return digest_json(self.to_json())

    @classmethod
    def from_json(cls, data: Any, where: str) -> Lock:
        """Read the data of `to_json`. Raises LockError naming `where` if it is damaged or has another schema."""

        def files(rows: Any) -> tuple[LockedFile, ...]:
            return tuple(LockedFile(**row) for row in rows)

        try:
            if data["schema"] != LOCK_SCHEMA:
                raise LockError(f"{where}: lock schema {data['schema']}, expected {LOCK_SCHEMA}", hint=_RELOCK)
            return cls(
                channel=str(data["channel"]),
                made_from=Digest(data["made_from"]),
                packages={arch: files(rows) for arch, rows in data["packages"].items()},
                builder=files(data["builder"]),
                wheels={arch: files(rows) for arch, rows in data["wheels"].items()},
                notes=dict(data["notes"]),
                indexes={arch: files(rows) for arch, rows in data.get("indexes", {}).items()},
                media=files(data.get("media", [])),
                native_builders={arch: files(rows) for arch, rows in data.get("native_builders", {}).items()},
                choices={arch: tuple(map(_choice, rows)) for arch, rows in data.get("choices", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LockError(f"{where}: not a lock: {error!r}", hint=_RELOCK) from error


def _choice(row: Mapping[str, Iterable[str]]) -> Choice:
    return Choice(tuple(row["world"]), tuple(row["packages"]))


def _rows(files: Iterable[LockedFile]) -> list[JsonValue]:
    # dataclasses.asdict would make a deep copy of every value, and a lock has hundreds of rows.
    return [
        {name: value for name in _FIELDS if (value := getattr(file, name)) or name not in _OPTIONAL_OF_FILES} for file in files
    ]


def _tables(tables: Mapping[str, Iterable[LockedFile]]) -> dict[str, JsonValue]:
    return {arch: _rows(files) for arch, files in tables.items()}


@dataclass(frozen=True, slots=True)
class Worlds:
    """The worlds of a channel's roots, by architecture: the packages that each of its stages installs together."""

    stages: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)

    def of(self, arch: str) -> tuple[frozenset[str], ...]:
        """Return the worlds of an architecture, each to be solved by itself."""
        return self.stages.get(arch, ())

    def union(self, arch: str) -> frozenset[str]:
        """Return all names in them."""
        return frozenset().union(*self.of(arch))
