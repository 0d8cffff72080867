# SPDX-License-Identifier: Apache-2.0
"""Indexes to solve over: verified and made into tables once, afterwards taken from the cache."""

from __future__ import annotations

import io
import os
import sys
from hashlib import sha256

from pipeline.apk.solver.file_cache import FileCache, key_of
from pipeline.apk.solver.tables import Tables
from pipeline.apk.solver.walk import Walk, walk2
from pipeline.base.errors import VerifyError
from pipeline.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.apk.format.index import Index, IndexEntry

SCHEMA = f"solver 7 {sys.byteorder}".encode()
_MOST_KEY = 1 << 16
_LONG_WALK = 1000  # names; computing a shorter walk is faster than reading it
_MOST_WALKS = 64


@dataclass(frozen=True, slots=True)
class IndexFile:
    """An index to solve over: its bytes, and its name in errors."""

    name: str
    data: bytes


def read_keys(folder: str) -> dict[str, bytes]:
    """Return the public keys (`*.pub`) of a folder. Raises VerifyError if there is none."""
    keys = {}
    for name in sorted(os.listdir(folder)):  # noqa: PTH208 (pathlib is slow to import)
        if name.endswith(".pub"):
            with open(f"{folder}/{name}", "rb") as stream:  # noqa: PTH123
                keys[name] = stream.read(_MOST_KEY + 1)
            if len(keys[name]) > _MOST_KEY:
                raise VerifyError(f"{folder}/{name}: more than {_MOST_KEY} bytes, too large for a public key")
    if not keys:
        raise VerifyError(f"{folder}: no public keys (*.pub) in this folder")
    return keys


def _parse(file: IndexFile, keys: Mapping[str, bytes]) -> Index:
    from pipeline.apk.format.index import read_index
    from pipeline.apk.format.signature import KeyRing

    return read_index(io.BytesIO(file.data), KeyRing(keys), name=file.name)


class Universe:
    """All packages of some indexes for one architecture, as apk of a `generation` (2 or 3) reads them."""

    def __init__(
        self,
        tables: Tables,
        arch: str,
        generation: int,
        file_names: tuple[str, ...],
        *,
        cache: FileCache | None = None,
        key: str = "",
    ) -> None:
        self.tables, self.arch, self.generation, self.file_names = tables, arch, generation, file_names
        self._cache, self._key = cache, key

    @classmethod
    def load(
        cls,
        files: Sequence[IndexFile],
        keys: Mapping[str, bytes],
        arch: str,
        cache: FileCache | None = None,
        *,
        generation: int = 3,
    ) -> Universe:
        """Load the packages of signed indexes. Raises VerifyError if a signature does not hold."""
        cache = cache or FileCache()
        ring = key_of(part for name in sorted(keys) for part in (name.encode(), keys[name]))
        digests = (sha256(file.data).digest() for file in files)
        key = key_of((SCHEMA, str(generation).encode(), arch.encode(), ring.encode(), *digests))
        data = cache.read(key)
        if data is None:
            made = _make([_parse(file, keys).entries for file in files], arch, generation)
            cache.store(key, made)
            data = memoryview(made)
        return cls(Tables(data), arch, generation, tuple(file.name for file in files), cache=cache, key=key)

    @classmethod
    def of(cls, indexes: Sequence[Sequence[IndexEntry]], arch: str, *, generation: int = 3) -> Universe:
        """Return the packages of indexes that were read and verified before."""
        return cls(Tables(memoryview(_make(indexes, arch, generation))), arch, generation, ("the indexes",))

    def numbers(self, roots: Sequence[int]) -> Sequence[int]:
        """Return the numbers that apk's walk from `roots` gives to names.

        The first root mostly leads to nearly all names, so its walk is cached.
        """
        if self.generation < 3:
            return walk2(self.tables, roots)
        walk = self._first_walk(roots[0]) if roots else Walk(self.tables)
        for root in roots[1:]:
            walk.go(root)
        return walk.numbers

    def _first_walk(self, root: int) -> Walk:
        name = f"{self._key}-{root}"
        data = self._cache.read(name) if self._cache else None
        if data is not None:
            return Walk.load(self.tables, data)
        walk = Walk(self.tables)
        walk.go(root)
        if self._cache and walk.length > _LONG_WALK:
            self._cache.store(name, walk.dump())
            self._cache.keep_newest(f"{self._key}-", _MOST_WALKS)
        return walk


def _make(indexes: Sequence[Sequence[IndexEntry]], arch: str, generation: int) -> bytes:
    from pipeline.apk.solver.graph import make_tables

    return make_tables(indexes, arch, generation)
