# SPDX-License-Identifier: Apache-2.0
"""Fetch indexes and packages on the thin client, through a tunnel that ends on the router, and keep them for all hosts.

    ~/.cache/tower/packages/<name>-<version>.<checksum>.apk    named by what the signed index says of it
    ~/.cache/tower/packages/indexes/<address>.tar.gz           with the server's validators, to ask only for changes

A file is written beside its place and moved there when it is whole; an interrupted download is continued. Nothing here is
trusted: whoever takes a file out of the cache verifies it, with the keys of the host that it is for.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

from tower.base.errors import AnswerError, PackageError, RemoteError
from tower.base.files import give, is_file, look, make_folder, sync_folder, write_file
from tower.base.jsontext import parse_json
from tower.base.patience import Patience, Watch
from tower.base.refused import refused
from tower.base.regular import open_regular, read_regular
from tower.install.adbindex import MAGIC
from tower.install.apkindex import MOST_INDEX, NOARCH, Package, control_checksum
from tower.install.repository import Repository
from tower.ssh.way import Way

_TRIES: Final = 3
_CHUNK: Final = 256 << 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_PAGE: Final = "a web page"
_BEGINNINGS: Final = (b"\x1f\x8b", MAGIC)
"""Of an index: gzip, or the third format."""
_LOGIN: Final = "does the router's network require a login first, as in a hotel? Otherwise try later, or with another mirror"
_ELSE: Final = "the server has another file, or somebody changed it on the way; try later, or with another mirror"
_MOST_KEPT: Final = 4 << 30
"""Bytes of packages that are kept; the ones that were not used for longest are removed first."""


class _BrokenError(Exception):
    """The connection or the server failed; another try may succeed."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file to download to `part`, of at most `most` bytes."""

    url: str
    part: Path
    most: int
    headers: dict[str, str]
    progress: Callable[[int], object]


class Downloads:
    """A user's cache, filled through the router."""

    def __init__(
        self,
        folder: Path,
        way: Way,
        pause: Callable[[float], None] = time.sleep,
        *,
        patience: Patience | None = None,
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._folder = folder
        self.report = report
        """Takes a line for the user."""
        self._way = way
        self._pause = pause
        self._patience = patience or Patience()
        self._last = ""
        """A description of the last answer."""
        self.received = 0
        """Bytes that came over the network in this run."""
        self._pieces = 0
        """The number of answers that the last package was assembled from."""
        self.doubtful: set[Path] = set()
        """Packages that came in several pieces in this run: if one does not verify, another try may help."""
        self.unchanged: set[Path] = set()
        """Indexes of an earlier run that the server has not changed since."""
        make_folder(folder / "indexes")

    def index(self, repository: Repository, arch: str) -> Path:
        """Return the repository's index as the server has it now, unverified. Raises PackageError."""
        name = hashlib.sha256(f"{repository.kind}{repository.address} {arch}".encode()).hexdigest()[:32]
        kept, notes = self._folder / "indexes" / f"{name}.tar.gz", self._folder / "indexes" / f"{name}.json"
        asked = _read_notes(notes) if is_file(kept) else {}
        part = kept.with_suffix(".part")
        part.unlink(missing_ok=True)
        url = f"{repository.address}/{arch}/{repository.index_file}"
        response = self._fetch(_Wanted(url, part, MOST_INDEX, asked, lambda _: None))
        if response is None:
            self.unchanged.add(kept)
        else:
            self._check_index(part, url)
            self.unchanged.discard(kept)
            notes.unlink(missing_ok=True)  # the validators are not those of the new file
            _keep(part, kept)
            write_file(notes, json.dumps(response).encode())
        return kept

    def _check_index(self, part: Path, url: str) -> None:
        """Raise PackageError for a file that is plainly no index, so that it does not replace a good one."""
        with open_regular(part) as stream:
            good = stream.read(len(MAGIC)).startswith(_BEGINNINGS)
        if not good:
            part.unlink()
            raise PackageError(f"{url}: the server sends {self._last}, not an index", hint=_hint(self._last))

    def forget_index(self, path: Path) -> None:
        """Fetch a bad index in full the next time, without asking whether it changed."""
        path.unlink(missing_ok=True)
        path.with_suffix("").with_suffix(".json").unlink(missing_ok=True)

    def place(self, package: Package) -> Path:
        """Return the path of a package in the cache."""
        return self._folder / f"{package.file_name.removesuffix('.apk')}.{package.checksum}.apk"

    def has(self, package: Package) -> bool:
        """Tell whether a package is in the cache, whole."""
        place = self.place(package)
        return is_file(place) and place.stat().st_size == package.size and control_checksum(place) == package.checksum

    def started(self, package: Package) -> int:
        """Return the bytes of a package that an interrupted run has left."""
        return min(_size(self.place(package).with_suffix(".part")), package.size)

    def package(self, repository: Repository, arch: str, package: Package, progress: Callable[[int], object]) -> Path:
        """Return a package that the index names; its data is still to be verified. Raises PackageError."""
        place = self.place(package)
        if self.has(package):
            os.utime(place)
            self.doubtful.add(place)
            return place
        folder = NOARCH if package.for_all else arch
        part, url = place.with_suffix(".part"), f"{repository.address}/{folder}/{package.file_name}"
        self._pieces = 0
        for _ in range(2):
            if _size(part) >= package.size and not _is(part, package):
                part.unlink()
            resumed = is_file(part)
            if _size(part) < package.size:
                try:
                    self._fetch(_Wanted(url, part, package.size, {}, progress))
                except PackageError:
                    if resumed and not is_file(part):
                        continue
                    raise
            if _is(part, package):
                _keep(part, place)
                if resumed or self._pieces > 1:
                    self.doubtful.add(place)
                return place
            part.unlink(missing_ok=True)
            if not resumed:  # the part may have been of another file: try once from the start
                break
        raise PackageError(
            f"{url}: is not the file of {package.size} bytes in the signed index, but {self._last}; it was discarded",
            hint=_hint(self._last),
        )

    def tidy(self) -> None:
        """Remove the packages that were not used for longest, until the rest fits the limit."""
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*.apk"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= _MOST_KEPT:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _fetch(self, wanted: _Wanted) -> dict[str, str] | None:
        """Download a file to its part, continuing where that ends; return validators for the next time, or None if unchanged."""
        for attempt in range(_TRIES):
            try:
                return self._try(wanted)
            except (_BrokenError, OSError, http.client.HTTPException, AnswerError, RemoteError) as error:
                problem = error
            self._way.reset()
            if attempt + 1 < _TRIES:
                self._pause(1.0 + attempt)
        raise PackageError(
            f"{wanted.url}: cannot be fetched through {self._way.session.host.name}: {_text(problem)}",
            hint="the downloaded part is kept; run the same command again to continue",
        )

    def _try(self, wanted: _Wanted) -> dict[str, str] | None:
        with Watch(self._patience) as watch:
            slow = _BrokenError(f"too slow: {watch.patience}")
            try:
                found = self._receive(wanted, watch)
            except (OSError, http.client.HTTPException, _BrokenError) as error:
                if watch.late:
                    raise slow from error
                raise
            if watch.late:  # the reader may have taken it for the end
                raise slow
            return found

    def _receive(self, wanted: _Wanted, watch: Watch) -> dict[str, str] | None:
        have = _size(wanted.part)
        response = self._ask(wanted.url, {**wanted.headers, **({"Range": f"bytes={have}-"} if have else {})}, watch)
        if response.status == 304:
            response.read()
            return None
        if response.status == 416 or (response.status == 206 and not _goes_on(response, have)):
            # Every try would fail here: the next one begins at the start.
            wanted.part.unlink(missing_ok=True)
            response.close()
            raise _BrokenError("the server sends another part of the file than it was asked for")
        if response.status not in (200, 206):
            response.close()
            raise PackageError(
                f"{wanted.url}: the server says {response.status} {response.reason[:80]}",
                hint="its index and its packages may have different dates; try again later",
            )
        self._store(wanted, response, have if response.status == 206 else 0, watch)
        names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
        return {asked: response.getheader(name, "") for name, asked in names.items() if response.getheader(name)}

    def _store(self, wanted: _Wanted, response: http.client.HTTPResponse, have: int, watch: Watch) -> None:
        """Write the data as it comes; after a failure, the part is kept."""
        part = wanted.part
        self._pieces = self._pieces + 1 if have else 1
        try:
            out = part.open("r+b" if have else "wb")
            give(out.fileno(), part)
        except OSError as error:
            raise refused(error, part, hint="you must be able to write to it") from error
        with out:
            out.seek(have)
            while data := response.read1(_CHUNK):
                have += len(data)
                self.received += len(data)
                watch.came(len(data))
                if have > wanted.most:
                    part.unlink(missing_ok=True)
                    raise PackageError(
                        f"{wanted.url}: the server sends {_shown(response)}, more than the {wanted.most} bytes that it may have",
                        hint=_hint(_shown(response)),
                    )
                try:
                    out.write(data)
                except OSError as error:
                    raise refused(error, part) from error
                wanted.progress(len(data))
        if response.length:
            raise _BrokenError(f"{response.length} bytes are missing")
        response.read()  # empty, but only then is the connection free for the next request
        self._last = f"{_shown(response)} of {have} bytes"

    def _ask(self, url: str, headers: dict[str, str], watch: Watch) -> http.client.HTTPResponse:
        place = url
        for _ in range(5):
            parts = urlsplit(place)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            connection = self._way.connection(parts.scheme, parts.hostname or "", port)
            watch.attach(connection.sock)
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request("GET", path, headers={"User-Agent": "tower", **headers})
            response = connection.getresponse()
            watch.answered()
            if response.status not in _REDIRECTS:
                return response
            response.close()
            connection.close()
            place = _redirected(place, response.getheader("Location", ""))
        raise PackageError(f"{url}: the server redirects in circles, at last to {place}")


def _goes_on(response: http.client.HTTPResponse, have: int) -> bool:
    """Tell whether an answer continues our part of the file; a wrong continuation is found out later."""
    where = response.getheader("Content-Range")
    return where is None or where.strip().startswith(f"bytes {have}-")


def _shown(response: http.client.HTTPResponse) -> str:
    """Describe an answer that is not the expected file."""
    kind = response.headers.get_content_type()
    return f"{_PAGE} ({kind})" if kind in _PAGES else "another file"


def _hint(shown: str) -> str:
    return _LOGIN if shown.startswith(_PAGE) else _ELSE


def _redirected(url: str, place: str) -> str:
    """Return the address that a server redirects to. Raises PackageError if we do not follow it."""
    allowed = ("https",) if url.startswith("https:") else ("http", "https")
    try:
        target = urlsplit(urljoin(url, place))
        good = target.scheme in allowed and target.hostname and target.port != 0 and target.geturl().isascii()
    except ValueError:  # a malformed IPv6 address or port
        good = False
    if not good:
        raise PackageError(f"{url}: the server redirects to {place[:200]!r}, which tower does not follow")
    return target.geturl()


def _text(problem: Exception) -> str:
    text = problem.message if isinstance(problem, AnswerError | RemoteError) else str(problem)
    return text or type(problem).__name__


def _size(path: Path) -> int:
    found = look(path)
    return found.st_size if found is not None and stat.S_ISREG(found.st_mode) else 0


def _is(path: Path, package: Package) -> bool:
    try:
        return path.stat().st_size == package.size and control_checksum(path) == package.checksum
    except (PackageError, OSError):
        return False


def _keep(part: Path, place: Path) -> None:
    with open_regular(part) as stream:
        os.fsync(stream.fileno())
    part.replace(place)
    sync_folder(place.parent)


def _read_notes(path: Path) -> dict[str, str]:
    """Return the validators noted beside an index; without them, the whole index is requested."""
    try:
        found = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
