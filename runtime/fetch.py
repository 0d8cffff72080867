# SPDX-License-Identifier: Apache-2.0
"""Indexes and packages, fetched on the thin client through a tunnel that ends on the router; kept for all hosts.

    ~/.cache/tower/packages/<name>-<version>.<checksum>.apk    named by what the signed index says of it
    ~/.cache/tower/packages/indexes/<address>.tar.gz           with what the server said of it, to ask only for news

A file is written beside its place and moved there when it is whole; what an interrupted run has of it is gone on from.
Nothing here is believed: who takes a file out of the cache has it verified, with the keys of the host it is for.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin, urlsplit

from tower.apkindex import INDEX, MOST_INDEX, Package, control_checksum
from tower.errors import AnswerError, PackageError, RemoteError
from tower.files import give, is_file, look, make_folder, sync_folder, write_file
from tower.jsontext import parse_json
from tower.refused import refused
from tower.regular import open_regular, read_regular
from tower.repository import Repository

if TYPE_CHECKING:
    from tower.ssh import Session

_TRIES: Final = 3
_SILENCE: Final = 30.0
"""Seconds after which a server that says nothing is given up."""
_CHUNK: Final = 256 << 10
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_KEPT: Final = 4 << 30
"""Bytes of packages that are kept; those unused for longest go first."""


class _BrokenError(Exception):
    """The way or the server failed; another try may do."""


@dataclass(slots=True)
class Way:
    """Connections to servers through a host, each made when it is first needed."""

    session: Session
    _stack: ExitStack = field(default_factory=ExitStack)
    _ports: dict[tuple[str, int], int] = field(default_factory=dict)
    _open: dict[tuple[str, str, int], http.client.HTTPConnection] = field(default_factory=dict)

    def connection(self, scheme: str, server: str, port: int) -> http.client.HTTPConnection:
        """A connection that speaks to `server`, which sees the router. Raises OSError, AnswerError or RemoteError."""
        known = self._open.get((scheme, server, port))
        if known is not None and known.sock is not None:
            return known
        if (server, port) not in self._ports:
            self._ports[server, port] = self._stack.enter_context(self.session.forward(server, port))
        local = socket.create_connection(("127.0.0.1", self._ports[server, port]), timeout=_SILENCE)
        # Named as the server, so that the request is what the server expects; its socket is the tunnel's.
        made = http.client.HTTPConnection(server, port if port != {"http": 80, "https": 443}[scheme] else None)
        made.auto_open = 0
        try:
            made.sock = ssl.create_default_context().wrap_socket(local, server_hostname=server) if scheme == "https" else local
        except BaseException:
            local.close()
            raise
        self._open[scheme, server, port] = made
        return made

    def reset(self) -> None:
        """Forget connections that may be broken; the next ones are made anew, the tunnel too."""
        self.close()
        self._stack = ExitStack()

    def close(self) -> None:
        """End all that was opened."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()
        self._ports.clear()
        with suppress(AnswerError, RemoteError):
            self._stack.close()


class Downloads:
    """The cache of a user, filled through a way."""

    def __init__(self, folder: Path, way: Way, pause: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._way = way
        self._pause = pause
        self.received = 0
        """Bytes that came over the network in this run."""
        make_folder(folder / "indexes")

    def index(self, repository: Repository, arch: str) -> Path:
        """The repository's index, as the server has it now. Not verified. Raises PackageError."""
        name = hashlib.sha256(f"{repository.address} {arch}".encode()).hexdigest()[:32]
        kept, notes = self._folder / "indexes" / f"{name}.tar.gz", self._folder / "indexes" / f"{name}.json"
        asked = _read_notes(notes) if is_file(kept) else {}
        part = kept.with_suffix(".part")
        part.unlink(missing_ok=True)
        response = self._fetch(repository, f"{arch}/{INDEX}", part, most=MOST_INDEX, headers=asked, progress=lambda _: None)
        if response is not None:
            notes.unlink(missing_ok=True)  # it is not of the new one
            _keep(part, kept)
            write_file(notes, json.dumps(response).encode())
        return kept

    def forget_index(self, path: Path) -> None:
        """One that turned out bad is not asked news of."""
        path.unlink(missing_ok=True)
        path.with_suffix("").with_suffix(".json").unlink(missing_ok=True)

    def place(self, package: Package) -> Path:
        """Where a package is kept."""
        return self._folder / f"{package.file_name.removesuffix('.apk')}.{package.checksum}.apk"

    def has(self, package: Package) -> bool:
        """Whether a package is here, whole."""
        place = self.place(package)
        return is_file(place) and place.stat().st_size == package.size and control_checksum(place) == package.checksum

    def started(self, package: Package) -> int:
        """Bytes of a package that an interrupted run has left."""
        return min(_size(self.place(package).with_suffix(".part")), package.size)

    def package(self, repository: Repository, arch: str, package: Package, progress: Callable[[int], object]) -> Path:
        """A package that is what the index names; its data is still to be verified. Raises PackageError."""
        place = self.place(package)
        if self.has(package):
            os.utime(place)
            return place
        part = place.with_suffix(".part")
        for _ in range(2):
            if _size(part) >= package.size and not _is(part, package):
                part.unlink()
            resumed = is_file(part)
            if _size(part) < package.size:
                self._fetch(repository, f"{arch}/{package.file_name}", part, most=package.size, headers={}, progress=progress)
            if _is(part, package):
                _keep(part, place)
                return place
            part.unlink(missing_ok=True)
            if not resumed:  # what was added to may have been another file; once from its start
                break
        raise PackageError(
            f"{repository.address}/{arch}/{package.file_name}: is not what the signed index names; it was thrown away",
            hint="the server has another file, or somebody changed it on the way; try later, or with another mirror",
        )

    def tidy(self) -> None:
        """Remove packages that were not used for longest, until the rest fits its bound."""
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self._folder.glob("*.apk"))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= _MOST_KEPT:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _fetch(
        self,
        repository: Repository,
        name: str,
        part: Path,
        *,
        most: int,
        headers: dict[str, str],
        progress: Callable[[int], object],
    ) -> dict[str, str] | None:
        """Bring a file to `part`, going on where that ends; what to ask news of it with, or None if there are none."""
        url = f"{repository.address}/{name}"
        for attempt in range(_TRIES):
            try:
                return self._try(url, part, most, headers, progress)
            except (_BrokenError, OSError, http.client.HTTPException, AnswerError, RemoteError) as error:
                problem = error
            self._way.reset()
            if attempt + 1 < _TRIES:
                self._pause(1.0 + attempt)
        raise PackageError(
            f"{url}: cannot be had through {self._way.session.host.name}: {_text(problem)}",
            hint="what has come is kept; type the same command again to go on",
        )

    def _try(
        self, url: str, part: Path, most: int, headers: dict[str, str], progress: Callable[[int], object]
    ) -> dict[str, str] | None:
        have = _size(part)
        response = self._ask(url, {**headers, **({"Range": f"bytes={have}-"} if have else {})})
        if response.status == 304:
            response.read()
            return None
        if response.status == 416:
            part.unlink(missing_ok=True)
            raise _BrokenError("the server has less than we")
        if response.status not in (200, 206):
            response.close()
            raise PackageError(
                f"{url}: the server says {response.status} {response.reason[:80]}",
                hint="its index and its packages may be of different days; try again later",
            )
        if response.status == 206 and not response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
            raise _BrokenError("the server sends another part than asked for")
        self._store(response, part, have if response.status == 206 else 0, most, progress)
        names = {"ETag": "If-None-Match", "Last-Modified": "If-Modified-Since"}
        return {asked: response.getheader(name, "") for name, asked in names.items() if response.getheader(name)}

    def _store(
        self, response: http.client.HTTPResponse, part: Path, have: int, most: int, progress: Callable[[int], object]
    ) -> None:
        """Write what comes; on any failure what has come stays."""
        try:
            out = part.open("r+b" if have else "wb")
            give(out.fileno(), part)
        except OSError as error:
            raise refused(error, part, hint="it must be writable for you") from error
        with out:
            out.seek(have)
            while data := response.read1(_CHUNK):
                have += len(data)
                self.received += len(data)
                if have > most:
                    part.unlink(missing_ok=True)
                    raise PackageError(f"{part.stem}: the server sends more than the {most} bytes that it can have")
                try:
                    out.write(data)
                except OSError as error:
                    raise refused(error, part) from error
                progress(len(data))
        if response.length:
            raise _BrokenError(f"{response.length} bytes did not come")
        response.read()  # nothing; but only now the connection is free for the next request

    def _ask(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        for _ in range(5):
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            connection = self._way.connection(parts.scheme, parts.hostname or "", port)
            wanted = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request("GET", wanted, headers={"User-Agent": "tower", **headers})
            response = connection.getresponse()
            if response.status not in _REDIRECTS:
                return response
            response.read(1 << 20)
            connection.close()
            url = _redirected(url, response.getheader("Location", ""))
        raise PackageError(f"{url}: the server sends us around in circles")


def _redirected(url: str, place: str) -> str:
    """Where a server sends us. Raises PackageError if we do not go there."""
    allowed = ("https",) if url.startswith("https:") else ("http", "https")
    try:
        target = urlsplit(urljoin(url, place))
        good = target.scheme in allowed and target.hostname and target.port != 0 and target.geturl().isascii()
    except ValueError:  # what looks like an address of IPv6, or like a port, and is none
        good = False
    if not good:
        raise PackageError(f"{url}: the server sends us to {place[:200]!r}, where we do not go")
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
    """What was noted beside an index; without it, all is asked for."""
    try:
        found = parse_json(read_regular(path))
    except (OSError, ValueError):
        return {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
