# SPDX-License-Identifier: Apache-2.0
"""Repositories: which there are, their signed indexes, and their package files.

A repository is a folder or an http(s) address that holds `<arch>/APKINDEX.tar.gz`. Indexes and, where etc/apk/cache
exists, packages that came over the network are kept in the cache. An index whose signature does not hold counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import FormatError, VerifyError
from pipeline.lab.apktool.database import Database
from pipeline.lab.apktool.errors import ApkError, warning
from pipeline.lab.apktool.options import Options
from pipeline.lab.apktool.packages import Package, Universe
from pipeline.lab.apktool.verifier import OpensslVerifier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pipeline.apk.signature import Verifier

_REMOTE = ("http://", "https://")
_CHUNK = 1 << 20


class Repository:
    """One place of packages."""

    def __init__(self, address: str, arch: str) -> None:
        self.address = address
        self.arch = arch
        self.remote = address.startswith(_REMOTE)
        self.description = ""
        self.available = False

    def url(self, name: str) -> str:
        """Where one of its files is."""
        return f"{self.address.rstrip('/')}/{self.arch}/{name}"

    @property
    def cache_name(self) -> str:
        """The name of its index in the cache."""
        return f"APKINDEX.{hashlib.sha1(self.address.encode(), usedforsecurity=False).hexdigest()[:8]}.tar.gz"


class Repositories:
    """All repositories of a run, in order of preference."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self.list = [Repository(address, database.arch) for address in self._addresses()]
        keys = options.value("keys-dir")
        # A relative folder of keys is the root's, as apk has it.
        folder = Path(keys) if keys.startswith("/") else database.fs.folder(keys or "etc/apk/keys")
        self.verifier = OpensslVerifier(folder)
        self.unavailable = 0

    def _addresses(self) -> list[str]:
        """Addresses given by -X, then those of the repositories file; tagged ones are left out."""
        options = self._options
        found = list(options.all("repository"))
        if options.value("from") != "none":
            file = options.value("repositories-file")
            fs = self._database.fs
            texts = (
                [Path(file).read_text(encoding="utf-8") if Path(file).exists() else ""]
                if file
                else [fs.read("etc/apk/repositories")]
            )
            folder = fs.folder("etc/apk/repositories.d")
            if not file and folder.is_dir():
                texts += [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.list"))]
            lines = [line.strip() for text in texts for line in text.splitlines()]
            found += [line for line in lines if line and line[0] not in "#@"]
        return list(dict.fromkeys(found))

    @property
    def packages_cached(self) -> Path | None:
        """Where packages from the network are kept; None unless that was set up."""
        given = self._options.value("cache-dir")
        if self._options.flag("no-cache"):
            return None
        folder = Path(given) if given else self._database.fs.folder("etc/apk/cache")
        return folder if folder.is_dir() else None

    def _index_cache(self) -> Path:
        return self.packages_cached or self._database.fs.folder("var/cache/apk")

    def load(self, universe: Universe, *, refresh: bool = False) -> None:
        """Read every index into the universe; one that cannot be had is warned about and left out."""
        for number, repository in enumerate(self.list):
            try:
                data = self._index(repository, refresh=refresh)
                description, text = read_index(io.BytesIO(data), self.verifier, repository.address)
            except (OSError, FormatError, VerifyError) as problem:
                self.unavailable += 1
                verb = "updating and opening" if repository.remote and self._may_fetch() else "opening"
                verb = "opening from cache" if repository.remote and not self._may_fetch() else verb
                warning(f"{verb} {repository.address}: {reason(problem)}")
                continue
            repository.available = True
            repository.description = description
            universe.add_index(text, number)

    def _may_fetch(self) -> bool:
        return not self._options.flag("no-network")

    def _index(self, repository: Repository, *, refresh: bool) -> bytes:
        url = repository.url("APKINDEX.tar.gz")
        if not repository.remote:
            return Path(url).read_bytes()
        kept = self._index_cache() / repository.cache_name
        if not self._options.flag("no-cache") and kept.exists():
            age = time.time() - kept.stat().st_mtime
            limit = float(self._options.value("cache-max-age", "240")) * 60
            if not self._may_fetch() or not (refresh or self._options.flag("update-cache") or age > limit):
                return kept.read_bytes()
        if not self._may_fetch():
            raise FileNotFoundError(2, "No such file or directory")
        if self._options.verbosity > 0:
            print(f"fetch {url}", flush=True)
        with download(url, self._timeout()) as stream:
            data = stream.read()
        if not self._options.flag("no-cache") and kept.parent.is_dir() and not self._options.flag("simulate"):
            # Only what verifies may replace what is there.
            read_index(io.BytesIO(data), self.verifier, repository.address)
            new = kept.with_suffix(".new")
            new.write_bytes(data)
            new.replace(kept)
        return data

    def _timeout(self) -> float:
        return float(self._options.value("timeout", "60"))

    @contextmanager
    def open(self, package: Package) -> Iterator[BinaryIO]:
        """The bytes of a package file, from its file, the cache, or the first repository that has it."""
        if package.file is not None:
            with package.file.open("rb") as stream:
                yield stream
            return
        with self._open_anywhere(package) as stream:
            yield stream

    @contextmanager
    def _open_anywhere(self, package: Package) -> Iterator[BinaryIO]:
        name = f"{package.full_name}.apk"
        cache = self.packages_cached
        kept = cache / cached_name(package) if cache else None
        if kept is not None and kept.exists():
            with kept.open("rb") as stream:
                yield stream
            return
        local = [self.list[number] for number in package.repositories if not self.list[number].remote]
        remote = [self.list[number] for number in package.repositories if self.list[number].remote]
        if local:
            with Path(local[0].url(name)).open("rb") as stream:
                yield stream
            return
        if not remote:
            raise ApkError(f"{package.full_name}: package mentioned in index not found (try 'apk update')")
        if not self._may_fetch():
            raise ApkError(f"{package.full_name}: masked in: --no-network")
        with download(remote[0].url(name), self._timeout()) as stream:
            if kept is None or self._options.flag("simulate"):
                yield stream
                return
            new = kept.with_suffix(".new")
            with new.open("wb") as out:
                while chunk := stream.read(_CHUNK):
                    out.write(chunk)
            new.replace(kept)
        with kept.open("rb") as stream:
            yield stream

    def local_path(self, package: Package) -> Path | None:
        """The file of a package that is in a repository of this machine."""
        for number in package.repositories:
            if not self.list[number].remote:
                return Path(self.list[number].url(f"{package.full_name}.apk"))
        return package.file

    def first_url(self, package: Package) -> str:
        """The address of the package file."""
        return self.list[package.repositories[0]].url(f"{package.full_name}.apk")


def cached_name(package: Package) -> str:
    """The name of a package file in the cache."""
    import base64

    return f"{package.full_name}.{base64.b64decode(package.checksum[2:]).hex()[:8]}.apk"


def read_index(stream: BinaryIO, verifier: Verifier, name: str) -> tuple[str, str]:
    """The description and the records of an index whose signature holds."""
    from pipeline.apk.gzipstream import RawSource
    from pipeline.apk.head import DEFAULT_LIMITS, read_head
    from pipeline.apk.tarstream import read_tar

    source = RawSource(stream, name)
    head = read_head(source, verifier, "index", DEFAULT_LIMITS.index_raw, DEFAULT_LIMITS.index)
    if not source.at_end():
        raise FormatError(f"{name}: bytes after the index")
    files = {entry.name: content.read().decode(errors="replace") for entry, content in read_tar(io.BytesIO(head.plain), name)}
    if "APKINDEX" not in files:
        raise FormatError(f"{name}: no APKINDEX in it")
    return files.get("DESCRIPTION", "").strip("\n"), files["APKINDEX"]


@contextmanager
def download(url: str, timeout: float) -> Iterator[BinaryIO]:
    """An http(s) address as a stream; every failure is an OSError."""
    import urllib.request
    from http.client import HTTPException
    from urllib.error import URLError

    if not url.startswith(_REMOTE):
        raise OSError(22, "Invalid argument", url)
    request = urllib.request.Request(url, headers={"User-Agent": "apk-tools/2.14"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=timeout) as stream:  # noqa: S310
            yield stream
    except HTTPException as problem:  # cut off, or no HTTP at all
        raise URLError(str(problem)) from problem


def reason(problem: Exception) -> str:
    """Why something could not be read, in apk's words where it has some."""
    if isinstance(problem, VerifyError) and not isinstance(problem, FormatError):
        return "UNTRUSTED signature"
    if isinstance(problem, FormatError):
        return f"BAD archive ({problem.message})"
    if isinstance(problem, ApkError):
        return problem.message
    code = getattr(problem, "code", None)
    if code == 404:
        return "package not found" if str(getattr(problem, "url", "")).endswith(".apk") else "No such file or directory"
    if hasattr(problem, "reason") or code is not None:
        return "network error (check Internet connection and firewall)"
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
