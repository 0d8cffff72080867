# SPDX-License-Identifier: Apache-2.0
"""Indexes in libsolv's terms: one pool of packages, made of cached `.solv` files.

libsolv compares versions by rules that differ from apk's where they matter (a missing revision, pre-releases,
leading zeros), so it is never asked to. A package is called `name=version` and provides its name, `name=version`
and both forms of all its provides; a dependency with `=` is the text that some package provides. Every other
condition on a version is a text that a small package of ours provides (see `solver_links`).
A package that provides a name with a version conflicts with all others that provide this name, as apk has it; so does one
that provides a name twice with itself, and it wants what nothing provides.
"""

from __future__ import annotations

import io
import os
from hashlib import sha256

import solv

from pipeline.apk import solver_links
from pipeline.apk.pkginfo import parse_dependency
from pipeline.apk.record import dataclass
from pipeline.apk.solver_cache import Cache, key_of
from pipeline.errors import FormatError, VerifyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pipeline.apk.index import Index, IndexEntry
    from pipeline.apk.pkginfo import Dependency

SCHEMA = b"solver 4"
INSTALL_IF = "apk:install_if"
PRIORITY = "apk:provider_priority"
CHECKSUM = "apk:checksum"
TRIGGER = "install_if:"
TWICE = "provided twice:"
_MOST_KEY = 1 << 16
_FIRST = 2  # libsolv keeps two numbers for itself


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


def term(dependency: Dependency) -> str:
    """The text that stands for a dependency without its `!`."""
    return f"{dependency.name}{dependency.op}{dependency.version}"


def _dependency(text: str, where: str) -> Dependency:
    try:
        return parse_dependency(text)
    except FormatError as error:
        raise FormatError(f"{where}: {error.message}") from None


class _Writer:
    """Adds packages to a repository of libsolv."""

    def __init__(self, pool: Any, repository: Any) -> None:
        self._pool, self._repository, self._data = pool, repository, repository.add_repodata()
        self._id = pool.str2id
        self._keys = {name: pool.str2id(name) for name in (INSTALL_IF, PRIORITY, CHECKSUM)}
        self._arch = pool.str2id("noarch")

    def add(self, entry: IndexEntry) -> None:
        package = self._repository.add_solvable()
        name, where = entry.name, f"{entry.name}-{entry.version}"
        package.nameid, package.archid, package.evr = self._id(f"{name}={entry.version}"), self._arch, ""
        provides: dict[str, None] = {name: None, f"{name}={entry.version}": None}
        conflicts: dict[str, None] = {name: None}
        requires: dict[str, None] = {}
        for text in entry.provides:
            provided = _dependency(text, where)
            if provided.name in provides and (provided.op or provided.name in conflicts):
                requires[f"{TWICE}{provided.name}"] = None
            provides[provided.name] = None
            if provided.op:
                provides[f"{provided.name}={provided.version}"] = None
                conflicts[provided.name] = None
        for text in entry.depends:
            wanted = _dependency(text, where)
            if not wanted.conflict:
                requires[term(wanted)] = None
            elif wanted.op in ("", "="):
                conflicts[term(wanted)] = None
            elif wanted.name not in provides:
                # A package does not exclude itself, and all others of its names it excludes already.
                requires[f"!{term(wanted)}"] = None
        if entry.install_if:
            needed = [item for item in (_dependency(text, where) for text in entry.install_if) if not item.conflict]
            if needed:
                # Found by the name that is most its own: that with a version, not `docs` or `openrc`.
                provides[TRIGGER + next((item for item in needed if item.op), needed[0]).name] = None
            self._data.set_str(package.id, self._keys[INSTALL_IF], " ".join(entry.install_if))
        if entry.provider_priority:
            self._data.set_num(package.id, self._keys[PRIORITY], entry.provider_priority)
        self._data.set_str(package.id, self._keys[CHECKSUM], entry.checksum)
        self._data.set_num(package.id, solv.SOLVABLE_DOWNLOADSIZE, entry.size)
        for texts, add in (
            (provides, package.add_provides),
            (conflicts, package.add_conflicts),
            (requires, package.add_requires),
        ):
            for text in texts:
                add(self._id(text))


def _fits(entry: IndexEntry, arch: str) -> bool:
    return entry.arch in (arch, "noarch", "")


def new_pool() -> Any:
    """An empty pool; all packages in it count as `noarch`, foreign ones never enter."""
    pool = solv.Pool()
    pool.setdisttype(solv.Pool.DISTTYPE_APK)
    pool.setarch("noarch")
    return pool


def _write_repository(repository: Any, path: str) -> None:
    stream = solv.xfopen(path, "w")
    if stream is None:
        raise OSError(f"cannot write {path}")
    done = repository.write(stream)
    if stream.close() is False or done is False:
        raise OSError(f"cannot write {path}")


def _load(pool: Any, name: str, path: str) -> Any:
    """The repository in the file at `path`, or None if it cannot be read."""
    repository = pool.add_repo(name)
    stream = solv.xfopen(path)
    if stream is not None and repository.add_solv(stream):
        stream.close()
        return repository
    repository.free(True)
    return None


class Universe:
    """All packages of some verified indexes for one architecture, ready to be solved over."""

    def __init__(self, files: Sequence[IndexFile], keys: Mapping[str, bytes], arch: str, cache: Cache | None = None) -> None:
        self.arch = arch
        self.file_names = tuple(file.name for file in files)
        cache = cache or Cache()
        ring = key_of(part for name in sorted(keys) for part in (name.encode(), keys[name]))
        names = [key_of((SCHEMA, arch.encode(), ring.encode(), sha256(file.data).digest())) for file in files]
        links = key_of((SCHEMA, *(name.encode() for name in names)))
        self.pool = new_pool()
        if not self._warm(names, links, cache):
            self._cold(files, names, links, keys, cache)
        self.pool.createwhatprovides()

    def _warm(self, names: Sequence[str], links: str, cache: Cache) -> bool:
        """Load everything from the cache; False if something is absent or damaged."""
        pool = self.pool
        paths = [cache.find(f"{name}.solv") for name in names]
        choices, ranges = cache.find(f"{links}.choices"), cache.find(f"{links}.solv")
        if not (all(paths) and choices and ranges):
            return False
        for number, path in enumerate((*paths, ranges)):
            if _load(pool, str(number), path) is None:
                return False
        self._number()
        self.links = solver_links.load_choices(choices)
        return True

    def _cold(
        self, files: Sequence[IndexFile], names: Sequence[str], links: str, keys: Mapping[str, bytes], cache: Cache
    ) -> None:
        """Read, verify and store the indexes, and what connects them."""
        self.pool = pool = new_pool()
        offers: list[IndexEntry] = []
        for number, (file, name) in enumerate(zip(files, names, strict=True)):
            entries = [entry for entry in _parse(file, keys).entries if _fits(entry, self.arch)]
            repository = pool.add_repo(str(number))
            writer = _Writer(pool, repository)
            for entry in entries:
                writer.add(entry)
            repository.internalize()
            cache.store(f"{name}.solv", lambda path, repository=repository: _write_repository(repository, path))  # type: ignore[misc]
            offers += entries
        repository = pool.add_repo("ranges")
        found = solver_links.find_links(offers, _FIRST)
        for text, (wanted, excluded) in sorted(found.ranges.items()):
            package = repository.add_solvable()
            package.nameid, package.arch, package.evr = pool.str2id(text), "noarch", ""
            package.add_deparray(solv.SOLVABLE_PROVIDES, pool.str2id(text))
            if wanted:
                either = pool.str2id(wanted[0])
                for version in wanted[1:]:
                    either = pool.rel2id(either, pool.str2id(version), solv.REL_OR)
                package.add_deparray(solv.SOLVABLE_REQUIRES, either)
            for version in excluded:
                package.add_deparray(solv.SOLVABLE_CONFLICTS, pool.str2id(version))
        repository.internalize()
        cache.store(f"{links}.solv", lambda path: _write_repository(repository, path))
        cache.store(f"{links}.choices", lambda path: solver_links.dump_choices(found, path))
        self._number()
        self.links = found

    def _number(self) -> None:
        """Note where the packages of each index end in the pool's numbers."""
        end, self.ends = _FIRST, []
        for repository in self.pool.repos:
            end += repository.nsolvables
            self.ends.append(end)
