# SPDX-License-Identifier: Apache-2.0
"""The protocol of a channel's driver. All code above it is the same for every channel."""

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
    """What the factory asks of a channel. `registry.open_driver` makes it; methods may be called from several threads.

    All methods but `lock` and `fetch` work without a network.
    """

    report: Callable[[str], None]
    """Takes a line for the user: what was changed in a cache and is made again. The owner of a driver may set it."""

    @property
    def vault(self) -> Vault:
        """The files that its locks name."""

    @property
    def mirror(self) -> LocalMirror | None:
        """The mirror that the channel makes itself, or None."""

    def lock_key(self) -> Digest:
        """Return the digest of all inputs of a lock (worlds, tables, suite, settings): cheap, asked in every run."""

    def lock(self, progress: Progress, *, renew: bool = False, accept_older: bool = False) -> Lock:
        """Resolve the worlds against the channel's signed indexes (uses the network).

        `renew` asks the sources of a mirror that the channel makes itself for their present files; `accept_older` accepts
        an index although a later one was accepted before.
        """

    def fetch(self, lock: Lock, progress: Progress) -> None:
        """Bring all files of the lock into the user's cache, verified; uses no network if they are there."""

    def builder_key(self, lock: Lock, arch: str) -> Digest:
        """Return the key of the builder for `arch`, before it is built: a digest of the lock's part and all other inputs.

        `arch` is the channel's `builder_arch` or one of its `native_builders`.
        """

    def builder(self, lock: Lock, arch: str, engine: Engine, log: IO[bytes]) -> str:
        """Make the builder's image for `arch` unless the engine has it; return its ID. Needs `fetch`."""

    def repository_key(self, lock: Lock, arch: str) -> JsonValue:
        """Return the key document of the artifact that `repository` makes (code, tables, locked files, public key)."""

    def repository(self, lock: Lock, arch: str, output: Path, log: IO[bytes]) -> None:
        """Fill the folder `output` with `<branch>/<repo>/<arch>/{APKINDEX.tar.gz,*.apk}`. Needs `fetch`."""

    def wheels_key(self, lock: Lock, arch: str) -> JsonValue:
        """Return the key document of the artifact that `wheels` makes."""

    def wheels(self, lock: Lock, arch: str, output: Path) -> None:
        """Fill `output` with the wheels of the runtime's requirements for the device's Python. Needs `fetch`."""

    def keys(self) -> Mapping[str, bytes]:
        """Return the public keys that devices of this channel trust: file name -> PEM."""

    def signing_key(self) -> tuple[str, bytes, bytes]:
        """Return `(name of the public key file, private PEM, public PEM)` for our own packages and repository."""

    def aports(self) -> Path:
        """Return a folder that holds `scripts/mkimage.sh`."""


def report_nothing(_line: str) -> None:
    """The default `report` of a driver, which drops the line."""


class LocalMirror(Protocol):
    """A mirror that a channel makes on this machine, in the shape of Alpine's, as its driver sees it."""

    @property
    def folder(self) -> Path:
        """Its folder, once it is made."""

    @property
    def key(self) -> CheckoutKey:
        """The key that signs its packages and indexes."""

    def inputs(self) -> Digest:
        """Return the digest of its inputs that are in the checkout: cheap, asked in every run."""

    def make(self, progress: Progress, *, renew: bool = False) -> Path:
        """Return the folder; make it if it is not complete, with `renew` from the present files of its sources (network)."""

    def find(self, digest: Digest) -> Path | None:
        """Return the file of the mirror whose content has this SHA-256, or None."""

    def remove_superseded(self) -> tuple[int, int]:
        """Remove packages that were made again since; return their number, and their bytes on the disk."""
