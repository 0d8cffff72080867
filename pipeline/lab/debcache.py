# SPDX-License-Identifier: Apache-2.0
"""Debian packages in the user's cache, by content: fetched once, resumed, verified before they get their name."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import requests

from pipeline.canonical import digest_file
from pipeline.channel import Bar, LockedFile, Progress
from pipeline.errors import FactoryError, FetchError, VerifyError
from pipeline.lab.mirror import SETTING
from pipeline.locks import locked

_THREADS = 4
_TRIES = 4
_TIMEOUT = (15, 60)
_CHUNK = 1 << 18
_GONE = (403, 404, 410)


_VERIFIED_NS = 1_000_000_000
"""The time that files get once they are verified; any later write takes it away."""


class _StoppedError(Exception):
    """Another download failed, or the user said stop."""


class DebCache:
    """The folder of downloads; `path` gives where a package is, whether it is there yet or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, deb: LockedFile) -> Path:
        """Where the package is kept."""
        return self.folder / f"{deb.sha256}.deb"

    def missing(self, wanted: Iterable[LockedFile]) -> list[LockedFile]:
        """Those that are not there whole; damaged ones are taken away."""
        return [deb for deb in sorted({deb.sha256: deb for deb in wanted}.values()) if not self.is_whole(deb)]

    def is_whole(self, deb: LockedFile) -> bool:
        """Is the package there, and its content right? A damaged one is taken away."""
        path = self.path(deb)
        try:
            info = path.stat()
        except FileNotFoundError:
            return False
        if info.st_size == deb.size and (info.st_mtime_ns == _VERIFIED_NS or digest_file(path) == deb.sha256):
            os.utime(path, ns=(_VERIFIED_NS, _VERIFIED_NS))
            return True
        path.unlink(missing_ok=True)
        return False

    def recheck(self, deb: LockedFile) -> None:
        """Hash a package once more, whatever was noted of it."""
        if self.path(deb).exists():
            os.utime(self.path(deb))
            self.is_whole(deb)

    def fetch(self, wanted: Iterable[LockedFile], mirror: str, progress: Progress) -> None:
        """Bring what is missing or damaged; the network is touched for that alone.

        Raises FetchError, naming the first package that could not be had.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = self.missing(wanted)
        if not missing:
            return
        session, stop, guard = requests.Session(), threading.Event(), threading.Lock()
        title = f"{len(missing)} Debian packages"
        with progress.bar(title, sum(deb.size for deb in missing)) as bar, ThreadPoolExecutor(_THREADS) as pool:
            jobs = [pool.submit(_Download(self, deb, mirror, session, _Share(bar, guard), stop).run) for deb in missing]
            try:
                for job in as_completed(jobs):
                    job.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _Share:
    """One download's share of a bar that several threads move."""

    def __init__(self, bar: Bar, guard: threading.Lock) -> None:
        self._bar = bar
        self._guard = guard
        self._moved = 0

    def advance(self, amount: int) -> None:
        with self._guard:
            self._moved += amount
            self._bar.advance(amount)

    def rewind(self) -> None:
        """Take back what was moved: the download starts over."""
        self.advance(-self._moved)


@dataclass(eq=False)
class _Download:
    """One package on its way into the cache."""

    cache: DebCache
    deb: LockedFile
    mirror: str
    session: requests.Session
    bar: _Share
    stop: threading.Event

    @property
    def url(self) -> str:
        return f"{self.mirror}/{self.deb.location}"

    @property
    def part(self) -> Path:
        """What has come so far; it stays after an interruption, and the next run goes on from there."""
        return self.cache.folder / f"{self.deb.sha256}.part"

    def run(self) -> None:
        """Bring the package, with some tries. Another process that brings the same one is waited for."""
        with locked(self.cache.folder / f"{self.deb.sha256}.guard", check=self._check_stop) as guard:
            if self.cache.is_whole(self.deb):
                self.bar.advance(self.deb.size)
            else:
                self._try()
            guard.remove()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _try(self) -> None:
        for attempt in range(1, _TRIES + 1):
            self.bar.rewind()
            try:
                self._bring()
            except (requests.RequestException, VerifyError) as error:
                if attempt == _TRIES:
                    raise self._failed(error) from error
                self.stop.wait(2**attempt / 4)
                self._check_stop()
            else:
                os.utime(self.part, ns=(_VERIFIED_NS, _VERIFIED_NS))
                self.part.replace(self.cache.path(self.deb))
                return

    def _failed(self, error: requests.RequestException | VerifyError) -> FactoryError:
        if isinstance(error, VerifyError):
            return VerifyError(error.message, hint="the mirror serves other bytes than the lock names; run: ./ci/doit lock")
        kinds = ((requests.Timeout, "no answer in time"), (requests.ConnectionError, "cannot be reached"))
        reason = next((text for kind, text in kinds if isinstance(error, kind)), str(error))
        return FetchError(
            f"{self.url}: {reason}",
            hint=f"look at the network; what is fetched already is kept (another mirror: {SETTING})",
        )

    def _bring(self) -> None:
        """Bring what is missing of `part`; it is whole and verified on return."""
        have = self.part.stat().st_size if self.part.exists() else 0
        if have > self.deb.size:
            self.part.unlink()
            have = 0
        digest = hashlib.sha256()
        if have:
            with self.part.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256")
        self.bar.advance(have)
        if have < self.deb.size:
            self._receive(have, digest)
        if digest.hexdigest() != self.deb.sha256:
            self.part.unlink(missing_ok=True)
            raise VerifyError(f"{self.url}: sha256 is {digest.hexdigest()}, the lock says {self.deb.sha256}")

    def _receive(self, have: int, digest: hashlib._Hash) -> None:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with self.session.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code in _GONE:
                raise FetchError(
                    f"{self.url}: the mirror does not have it any more (status {answer.status_code})", hint="run: ./ci/doit lock"
                )
            answer.raise_for_status()
            if have and answer.status_code != requests.codes.partial_content:
                self.part.unlink()
                raise requests.ConnectionError("the server cannot resume")
            with self.part.open("ab") as out:
                for chunk in answer.iter_content(_CHUNK):
                    have += len(chunk)
                    if have > self.deb.size:
                        self.part.unlink()
                        raise VerifyError(f"{self.url}: longer than the {self.deb.size} bytes that the lock says")
                    out.write(chunk)
                    digest.update(chunk)
                    self.bar.advance(len(chunk))
                    self._check_stop()
