# SPDX-License-Identifier: Apache-2.0
"""What every channel's driver must do. Everything above this protocol is the same for all channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol

from pipeline.base.canonical import Digest, JsonValue
from pipeline.base.progress import Progress
from pipeline.supply.lock import Lock

if TYPE_CHECKING:
    from pipeline.sandbox.engine import Engine
    from pipeline.supply.signing import CheckoutKey
    from pipeline.supply.vault import Vault


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
