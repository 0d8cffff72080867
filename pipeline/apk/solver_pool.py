# SPDX-License-Identifier: Apache-2.0
"""Indexes that somebody wants to solve over: verified and made into tables once, taken from the cache afterwards."""

from __future__ import annotations

import io
import os
import sys
from hashlib import sha256

from pipeline.apk.record import dataclass
from pipeline.apk.solver_cache import Cache, key_of
from pipeline.apk.solver_tables import Tables
from pipeline.errors import VerifyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.apk.index import Index, IndexEntry

SCHEMA = f"solver 5 {sys.byteorder}".encode()
_MOST_KEY = 1 << 16


@dataclass(frozen=True, slots=True)
class IndexFile:
    """An index that somebody wants to solve over: its bytes, and what errors call it."""

    name: str
    data: bytes


def read_keys(folder: str) -> dict[str, bytes]:
    """The public keys (`*.pub`) of a folder. Raises VerifyError if there is none."""
    keys = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (pathlib is slow to import)
        if name.endswith(".pub"):
            with open(f"{folder}/{name}", "rb") as stream:  # noqa: PTH123
                keys[name] = stream.read(_MOST_KEY + 1)
            if len(keys[name]) > _MOST_KEY:
                raise VerifyError(f"{folder}/{name}: more than {_MOST_KEY} bytes, which no public key has")
    if not keys:
        raise VerifyError(f"{folder}: no public keys (*.pub) in this folder")
    return keys


def _parse(file: IndexFile, keys: Mapping[str, bytes]) -> Index:
    from pipeline.apk.index import read_index
    from pipeline.apk.signature import KeyRing

    return read_index(io.BytesIO(file.data), KeyRing(keys), name=file.name)


@dataclass(frozen=True, slots=True)
class Universe:
    """All packages of some indexes for one architecture, as apk of a `generation` (2 or 3) reads them."""

    tables: Tables
    arch: str
    generation: int
    file_names: tuple[str, ...]

    @classmethod
    def load(
        cls, files: Sequence[IndexFile], keys: Mapping[str, bytes], arch: str, cache: Cache | None = None, *, generation: int = 3
    ) -> Universe:
        """The packages of verified indexes. Raises VerifyError if a signature does not hold."""
        cache = cache or Cache()
        ring = key_of(part for name in sorted(keys) for part in (name.encode(), keys[name]))
        digests = (sha256(file.data).digest() for file in files)
        name = key_of((SCHEMA, str(generation).encode(), arch.encode(), ring.encode(), *digests))
        data = cache.read(name)
        if data is None:
            made = _make([_parse(file, keys).entries for file in files], arch, generation)
            cache.store(name, made)
            data = memoryview(made)
        return cls(Tables(data), arch, generation, tuple(file.name for file in files))

    @classmethod
    def of(cls, indexes: Sequence[Sequence[IndexEntry]], arch: str, *, generation: int = 3) -> Universe:
        """The packages of indexes that were read already, and are believed."""
        return cls(Tables(memoryview(_make(indexes, arch, generation))), arch, generation, ("the indexes",))


def _make(indexes: Sequence[Sequence[IndexEntry]], arch: str, generation: int) -> bytes:
    from pipeline.apk.solver_graph import make_tables

    return make_tables(indexes, arch, generation)
