# SPDX-License-Identifier: Apache-2.0
"""Debian packages in the user's cache, by content: fetched once, resumed, verified before they get their name."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from pipeline.canonical import digest_file
from pipeline.channel import Bar, LockedFile, Progress
from pipeline.errors import FetchError
from pipeline.locks import locked

_THREADS = 4
_TRIES = 4
_TIMEOUT = (15, 60)
_CHUNK = 1 << 18
_GONE = (403, 404, 410)


class DebCache:
    """The folder of downloads; `path` gives where a package is, whether it is there yet or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, deb: LockedFile) -> Path:
        """Where the package is kept."""
        return self.folder / f"{deb.sha256}.deb"

    def missing(self, wanted: Iterable[LockedFile]) -> list[LockedFile]:
        """Those that are not there whole; damaged ones are taken away."""
        return [deb for deb in sorted({deb.sha256: deb for deb in wanted}.values()) if not self._is_whole(deb)]

    def fetch(self, wanted: Iterable[LockedFile], mirror: str, progress: Progress) -> None:
        """Bring what is missing or damaged; the network is touched for that alone.

        Raises FetchError, naming the first package that could not be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing(wanted)
        if not missing:
            return
        session = requests.Session()
        stop = threading.Event()
        title = f"{len(missing)} Debian packages"
        with progress.bar(title, sum(deb.size for deb in missing)) as bar, ThreadPoolExecutor(_THREADS) as pool:
            locked = threading.Lock()
            jobs = [pool.submit(self._fetch_one, deb, mirror, session, _Share(bar, locked), stop) for deb in missing]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                stop.set()
                for job in jobs:
                    job.cancel()
                raise

    def _is_whole(self, deb: LockedFile) -> bool:
        """Is the package there, and its content right? Its time stamp notes that it was looked at since it changed."""
        path = self.path(deb)
        try:
            info = path.stat()
        except FileNotFoundError:
            return False
        # Files get the time 1 once they are verified; any later write takes it away.
        if info.st_size == deb.size and (info.st_mtime_ns == _VERIFIED_NS or digest_file(path) == deb.sha256):
            os.utime(path, ns=(_VERIFIED_NS, _VERIFIED_NS))
            return True
        path.unlink(missing_ok=True)
        return False

    def recheck(self, deb: LockedFile) -> None:
        """Hash a package once more, whatever was noted of it; a damaged one is taken away."""
        os.utime(self.path(deb))
        self._is_whole(deb)

    def _fetch_one(self, deb: LockedFile, mirror: str, session: requests.Session, bar: _Share, stop: threading.Event) -> None:
        part = self.folder / f"{deb.sha256}.part"
        with locked(self.folder / f"{deb.sha256}.guard") as guard:
            if self._is_whole(deb):
                bar.advance(deb.size)
                return
            error: FetchError | None = None
            for attempt in range(_TRIES):
                if stop.is_set():
                    return
                if attempt:
                    time.sleep(2**attempt / 2)
                try:
                    _download(deb, f"{mirror}/{deb.location}", part, session, bar, stop)
                    os.utime(part, ns=(_VERIFIED_NS, _VERIFIED_NS))
                    part.replace(self.path(deb))
                    guard.remove()
                    return
                except requests.RequestException as caught:
                    error = FetchError(
                        f"{mirror}/{deb.location}: {_reason(caught)}",
                        hint="look at the network; what is fetched already is kept (another mirror: TOWER_DEBIAN_MIRROR)",
                    )
                except FetchError as caught:
                    if caught.hint:
                        raise
                    error = FetchError(caught.message, hint="the mirror serves other bytes than it lists; try again or lock again")
            assert error is not None  # noqa: S101 - every way out of the loop sets it
            raise error


_VERIFIED_NS = 1_000_000_000


class _Share:
    """One download's share of a bar that several threads move."""

    def __init__(self, bar: Bar, lock: threading.Lock) -> None:
        self._bar = bar
        self._lock = lock
        self._moved = 0

    def advance(self, amount: int) -> None:
        with self._lock:
            self._moved += amount
            self._bar.advance(amount)

    def rewind(self) -> None:
        """Take back what was moved: the download starts over."""
        self.advance(-self._moved)


def _reason(error: requests.RequestException) -> str:
    kinds = ((requests.Timeout, "no answer in time"), (requests.ConnectionError, "cannot be reached"))
    return next((text for kind, text in kinds if isinstance(error, kind)), type(error).__name__)


def _download(deb: LockedFile, url: str, part: Path, session: requests.Session, bar: _Share, stop: threading.Event) -> None:
    """Bring the rest of `part`; it is whole and verified on return. FetchError without a hint means: try once more."""
    have = part.stat().st_size if part.exists() else 0
    if have > deb.size:
        part.unlink()
        have = 0
    digest = hashlib.sha256()
    if have:
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
    bar.rewind()
    bar.advance(have)
    if have < deb.size:
        _receive(deb, url, part, session, bar, stop, have, digest)
    if digest.hexdigest() != deb.sha256:
        part.unlink(missing_ok=True)
        raise FetchError(f"{url}: sha256 is {digest.hexdigest()}, the lock says {deb.sha256}")


def _receive(
    deb: LockedFile,
    url: str,
    part: Path,
    session: requests.Session,
    bar: _Share,
    stop: threading.Event,
    have: int,
    digest: hashlib._Hash,
) -> None:
    headers = {"Range": f"bytes={have}-"} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
        if answer.status_code in _GONE:
            raise FetchError(f"{url}: the mirror no longer has it (status {answer.status_code})", hint="run: ./ci/doit lock")
        answer.raise_for_status()
        if have and answer.status_code != 206:
            part.unlink()
            raise requests.ConnectionError("the server cannot resume")
        count = 0
        with part.open("ab") as out:
            for chunk in answer.iter_content(_CHUNK):
                count += len(chunk)
                if have + count > deb.size:
                    break
                out.write(chunk)
                digest.update(chunk)
                bar.advance(len(chunk))
                if stop.is_set():
                    raise requests.ConnectionError("stopped")
