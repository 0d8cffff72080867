# SPDX-License-Identifier: Apache-2.0
"""Channels: where packages come from, what a lock holds, and what every channel's driver must do.

A channel is a TOML file in pipeline/channels/; its `driver` names the code that speaks to it. Everything
above this protocol is the same for all channels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from pipeline.base.canonical import Digest, JsonValue, digest_json
from pipeline.base.errors import LockError

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine
    from pipeline.supply.signing import CheckoutKey
    from pipeline.supply.vault import Vault

LOCK_SCHEMA = 1
_OPTIONAL = ("indexes", "media", "native_builders")
_OPTIONAL_OF_FILES = ("checksum", "signer", "made")


@dataclass(frozen=True, slots=True)
class Channel:
    """One file of pipeline/channels/: what is the same for every kind of channel, and its driver's own settings."""

    name: str
    driver: str
    summary: str
    branch: str
    epoch: int
    architectures: tuple[str, ...]
    builder_arch: str
    releasable: bool
    settings: Mapping[str, Any]
    """The table `[settings]`, parsed by the driver with pipeline.config.toml."""
    path: Path
    native_builders: tuple[str, ...] = ()
    """Further architectures for which a builder can be made, on an engine of that architecture."""
    engines: Mapping[str, str] = field(default_factory=dict)
    """Engines for the stages of an architecture: a Docker context or an address; `engine.ARCH=` goes before it."""
    faketime: str = ""
    """Where the builder has libfaketime, by which `verify:reproducible` gives stages another clock; empty: nowhere."""


@dataclass(frozen=True, slots=True, order=True)
class LockedFile:
    """One file that a build may take: which it is, and what its bytes must be."""

    name: str
    version: str
    sha256: Digest
    size: int
    location: str = ""
    """Where it is fetched from, relative to the mirror; never a host name."""
    checksum: str = ""
    """Of an Alpine package: what the signed index says of it (`Q1...`)."""
    signer: str = ""
    """Name of the key whose signature was found to hold; empty for what only digests vouch for."""
    made: int = 0
    """Of an index: when it was made, by what is signed in it."""


@dataclass(frozen=True, slots=True)
class Lock:
    """All that a build of a channel may take, resolved once."""

    channel: str
    made_from: Digest
    """`ChannelDriver.lock_key()` when this lock was made; another value now means: lock again."""
    packages: Mapping[str, tuple[LockedFile, ...]]
    """By architecture of the device, sorted by name."""
    builder: tuple[LockedFile, ...]
    wheels: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """Python wheels for the device, by architecture."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What a reader should know: suite, date of the index; part of the lock's digest."""
    indexes: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """The signed indexes that the packages were chosen from, by architecture."""
    media: tuple[LockedFile, ...] = ()
    """Files of other kinds: root file systems, boot files, the scripts of aports."""
    native_builders: Mapping[str, tuple[LockedFile, ...]] = field(default_factory=dict)
    """As `builder`, of the channel's `native_builders`."""

    def to_json(self) -> dict[str, JsonValue]:
        """The lock as JSON data; `from_json` reads it back. What a channel has no use for is left out."""
        data = {"schema": LOCK_SCHEMA, **json.loads(json.dumps(asdict(self), default=dict))}
        by_arch = (data[name] for name in ("packages", "wheels", "indexes", "native_builders"))
        tables = [*(rows for table in by_arch for rows in table.values()), data["builder"], data["media"]]
        for row in (row for rows in tables for row in rows):
            for name in _OPTIONAL_OF_FILES:
                if not row[name]:
                    del row[name]
        return {name: value for name, value in data.items() if value or name not in _OPTIONAL}

    @property
    def builders(self) -> tuple[tuple[LockedFile, ...], ...]:
        """What builders are made of: a table for each."""
        return (self.builder, *self.native_builders.values())

    @property
    def files(self) -> tuple[LockedFile, ...]:
        """Everything that a build may take."""
        tables = [*self.indexes.values(), *self.packages.values(), *self.builders, *self.wheels.values(), self.media]
        return tuple(file for table in tables for file in table)

    @property
    def digest(self) -> Digest:
        """Names the lock's content."""
        return digest_json(self.to_json())

    @classmethod
    def from_json(cls, data: Any, where: str) -> Lock:
        """Read `to_json`'s data; LockError naming `where` if it is damaged or of another schema."""

        def files(rows: Any) -> tuple[LockedFile, ...]:
            return tuple(LockedFile(**row) for row in rows)

        try:
            if data["schema"] != LOCK_SCHEMA:
                raise LockError(f"{where}: lock schema {data['schema']}, expected {LOCK_SCHEMA}", hint="run: ./ci/doit lock")
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
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LockError(f"{where}: not a lock: {error!r}", hint="run: ./ci/doit lock") from error


@dataclass(frozen=True, slots=True)
class Worlds:
    """What roots of a channel are made of, by architecture: the packages that each of its stages installs together."""

    stages: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)

    def of(self, arch: str) -> tuple[frozenset[str], ...]:
        """The worlds of an architecture, each to be solved for itself."""
        return self.stages.get(arch, ())

    def union(self, arch: str) -> frozenset[str]:
        """All names that they hold."""
        return frozenset().union(*self.of(arch))


class Bar(Protocol):
    """A progress bar that is moved forward."""

    def advance(self, amount: int) -> None:
        """Move by `amount` of the bar's unit."""


class Progress(Protocol):
    """How a driver tells the user what it does."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def bar(self, title: str, total: int, unit: str = "B") -> AbstractContextManager[Bar]:
        """A bar on the terminal (`B` counts bytes), or nothing where there is none."""


class ChannelDriver(Protocol):
    """What the factory asks of a channel. Made by `registry.open_driver`; methods may be called from several threads.

    All methods but `lock` and `fetch` work without a network.
    """

    report: Callable[[str], None]
    """Takes a line for the user: what was changed in a cache and is made again. Whoever opens a driver may set it."""

    @property
    def vault(self) -> Vault:
        """Where the files are that its locks name."""

    @property
    def mirror(self) -> LocalMirror | None:
        """The mirror that the channel makes itself, if it is one of these."""

    def lock_key(self) -> Digest:
        """Digest of all that a lock depends on (worlds, tables, suite, settings): cheap, asked in every run."""

    def lock(self, progress: Progress, *, renew: bool = False, accept_older: bool = False) -> Lock:
        """Resolve the worlds against the channel's signed indexes (network).

        `renew` asks a mirror that the channel makes itself for what its sources have now; `accept_older` takes an index
        although a later one was accepted before.
        """

    def fetch(self, lock: Lock, progress: Progress) -> None:
        """Bring all that the lock names into the user's cache, verified; touches no network when it is there."""

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        """Names the content of the builder for `arch` before it is built: the lock's part plus all that goes in.

        `arch` is the channel's `builder_arch` or one of its `native_builders`.
        """

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        """Make sure that the builder's image for `arch` is in the engine; its id. Needs `fetch`. Quick when it is there."""

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        """Key document of the artifact that `repository` makes (its code, tables, locked files, public key)."""

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        """Fill the folder `output` with `<branch>/<repo>/<arch>/{APKINDEX.tar.gz,*.apk}`. Needs `fetch`."""

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        """Key document of the artifact that `wheels` makes."""

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        """Fill `output` with the wheels of the runtime's requirements for the device's Python. Needs `fetch`."""

    def keys(self) -> Mapping[str, bytes]:
        """The public keys that devices of this channel trust: file name -> PEM."""

    def signing_key(self) -> tuple[str, bytes, bytes]:
        """`(name of the public key file, private PEM, public PEM)` for our own packages and repository."""

    def aports(self) -> Path:
        """A folder that holds `scripts/mkimage.sh`."""


def report_nothing(_line: str) -> None:
    """The `report` of a driver that nobody gave one."""


class LocalMirror(Protocol):
    """A mirror that a channel makes on this machine, in the shape of Alpine's: how its driver sees it."""

    @property
    def folder(self) -> Path:
        """Where it is, once it is made."""

    @property
    def key(self) -> CheckoutKey:
        """Signs its packages and indexes."""

    def inputs(self) -> Digest:
        """Digest of what it is made from, as far as a checkout says: cheap, asked in every run."""

    def make(self, progress: Progress, *, renew: bool = False) -> Path:
        """The folder, made if it is not there whole; with `renew` from what its own sources have now (network)."""

    def find(self, digest: Digest) -> Path | None:
        """The file of the mirror whose content has this SHA-256."""

    def remove_superseded(self) -> tuple[int, int]:
        """Remove packages that were made anew since; how many, and their bytes on the disk."""
