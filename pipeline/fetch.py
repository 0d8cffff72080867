# SPDX-License-Identifier: Apache-2.0
"""The one door to the network for what locks name: several mirrors, in parallel, resumed, retried, verified.

What comes in is untrusted until its size and SHA-256 are those of the lock. `get` brings small files that other
means verify: signed indexes, lists of releases.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import requests
from tower.regular import open_regular

from pipeline.channel import Bar, LockedFile, Progress
from pipeline.errors import ConfigError, FactoryError, FetchError, VerifyError
from pipeline.locks import locked

_THREADS = 4
_TRIES = 4
_TIMEOUT = (15, 60)
_CHUNK = 1 << 18
_BACK_OFF = 0.25
_GONE = (403, 404, 410)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Shelf(Protocol):
    """Where downloads go: `pipeline.vault.Vault`, or a cache like it."""

    def path(self, file: LockedFile) -> Path:
        """The place of a verified file."""

    def untrusted(self, file: LockedFile) -> Path:
        """The place of what has come so far."""

    def is_whole(self, file: LockedFile) -> bool:
        """Is it there, and right?"""

    def accept(self, file: LockedFile) -> None:
        """Verify what has come and give it its place. Raises VerifyError."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where files come from, and what to tell the user when they do not."""

    mirrors: tuple[str, ...]
    """Addresses without a slash at the end, tried in this order."""
    vanished: str = "run: ./ci/doit lock"
    """What to do about a file that no mirror has any more."""
    unreachable: str = "look at the network"
    """What to do when no mirror answers."""
    other_bytes: str = "the mirror serves other bytes than the lock names; run: ./ci/doit lock"
    folder: Path | None = None
    """A mirror that is a folder of this machine: taken in place of all addresses, and verified like them."""


class VanishedError(FetchError):
    """A file that the lock names is on no mirror any more."""


class _StoppedError(Exception):
    """Another download failed, or the user said stop."""


def check_mirrors(mirrors: Sequence[str], where: str) -> tuple[str, ...]:
    """Addresses without a slash at the end. Raises ConfigError for what is not https (or http on this machine)."""
    found = []
    for mirror in mirrors:
        parts = urlsplit(mirror)
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
            raise ConfigError(f"{where}: {mirror!r} is not an https address", hint="for example: https://mirror.example/alpine")
        found.append(mirror.rstrip("/"))
    if not found:
        raise ConfigError(f"{where}: names no mirror")
    return tuple(found)


def get(source: Source, location: str, *, limit: int) -> bytes:
    """A small file from the first mirror that has it, unverified. Raises FetchError; VanishedError if none has it."""
    if source.folder is not None:
        return _small_file(source, location, limit)
    session, said = requests.Session(), ""
    gone = 0
    for mirror in source.mirrors:
        for attempt in range(1, _TRIES + 1):
            try:
                return _small(session, f"{mirror}/{location}", limit)
            except VanishedError as error:
                gone, said = gone + 1, error.message
                break
            except requests.RequestException as error:
                said = f"{mirror}/{location}: {_reason(error)}"
                if attempt < _TRIES:
                    threading.Event().wait(_BACK_OFF * 2**attempt)
    if gone == len(source.mirrors):
        raise VanishedError(said, hint=source.vanished)
    raise FetchError(said, hint=source.unreachable)


def _in_folder(folder: Path, location: str) -> Path:
    """Where a folder has what a server has at `location`; what asks a server for a part of it is left out."""
    return folder / location.partition("?")[0]


def _small_file(source: Source, location: str, limit: int) -> bytes:
    path = _in_folder(source.folder or Path(), location)
    try:
        with path.open("rb") as stream:
            found = stream.read(limit + 1)
    except FileNotFoundError as error:
        raise VanishedError(f"{path}: the mirror does not have it", hint=source.vanished) from error
    except OSError as error:
        raise FetchError(f"{path}: cannot be read: {error.strerror}", hint=source.unreachable) from error
    if len(found) > limit:
        raise FetchError(f"{path}: longer than {limit} bytes", hint="this is not what the mirror should have there")
    return found


def _small(session: requests.Session, url: str, limit: int) -> bytes:
    found = bytearray()
    with session.get(url, stream=True, timeout=_TIMEOUT) as answer:
        _check_answer(answer, url)
        for chunk in answer.iter_content(_CHUNK):
            found += chunk
            if len(found) > limit:
                raise FetchError(f"{url}: longer than {limit} bytes", hint="this is not what the mirror should have there")
        expected = answer.headers.get("Content-Length", "")
        if expected.isdigit() and "Content-Encoding" not in answer.headers and int(expected) != len(found):
            raise requests.ConnectionError("the connection broke off")
    return bytes(found)


def _check_answer(answer: requests.Response, url: str) -> None:
    if url.startswith("https:") and any(not hop.url.startswith("https:") for hop in (*answer.history, answer)):
        raise FetchError(f"{url}: leads to an address without https", hint="another mirror")
    if answer.status_code in _GONE:
        raise VanishedError(f"{url}: the mirror does not have it (status {answer.status_code})")
    answer.raise_for_status()


def _reason(error: requests.RequestException) -> str:
    kinds = ((requests.Timeout, "no answer in time"), (requests.ConnectionError, "cannot be reached, or broke off"))
    return next((text for kind, text in kinds if isinstance(error, kind)), str(error))


def fetch(wanted: Iterable[LockedFile], shelf: Shelf, source: Source, progress: Progress, *, title: str) -> None:
    """Bring what is missing or damaged; the network is touched for that alone.

    A file without a SHA-256 is one that the shelf verifies by other means. What has come stays after an interruption,
    and the next run goes on from there. Raises FetchError (VanishedError names everything that is gone) or VerifyError.
    """
    distinct = {(file.sha256, file.checksum): file for file in wanted}
    missing = [file for file in sorted(distinct.values()) if not shelf.is_whole(file)]
    if not missing:
        return
    if source.folder is not None:
        _take(missing, shelf, source, progress, title)
        return
    session, stop, guard = requests.Session(), threading.Event(), threading.Lock()
    vanished: list[VanishedError] = []
    with (
        progress.bar(f"{len(missing)} {title}", sum(file.size for file in missing)) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        jobs = [pool.submit(_Download(shelf, file, source, session, _Share(bar, guard), stop).run) for file in missing]
        try:
            for job in as_completed(jobs):
                try:
                    job.result()
                except VanishedError as error:
                    vanished.append(error)
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if vanished:
        lines = sorted(error.message for error in vanished)
        raise VanishedError("\n  ".join(lines), hint=source.vanished)


def _take(missing: Sequence[LockedFile], shelf: Shelf, source: Source, progress: Progress, title: str) -> None:
    """`fetch` from a mirror that is a folder: its files become the shelf's without a copy where the disk is the same."""
    vanished = []
    with progress.bar(f"{len(missing)} {title}", sum(file.size for file in missing)) as bar:
        for file in missing:
            part, path = shelf.untrusted(file), _in_folder(source.folder or Path(), file.location)
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            try:
                try:
                    part.hardlink_to(path)
                except FileNotFoundError:
                    raise
                except OSError:  # another file system
                    shutil.copyfile(path, part)
            except FileNotFoundError:
                vanished.append(f"{file.name} {file.version} ({file.location}): the mirror does not have it")
                continue
            except OSError as error:
                raise FetchError(f"{path}: cannot be read: {error.strerror}", hint=source.unreachable) from error
            try:
                shelf.accept(file)
            except VerifyError as error:
                raise VerifyError(error.message, hint=error.hint or source.other_bytes) from error
            finally:
                part.unlink(missing_ok=True)
            bar.advance(file.size)
    if vanished:
        raise VanishedError("\n  ".join(sorted(vanished)), hint=source.vanished)


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
    """One file on its way to the shelf."""

    shelf: Shelf
    file: LockedFile
    source: Source
    session: requests.Session
    bar: _Share
    stop: threading.Event
    gone: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Bring the file, with some tries. Another process that brings the same one is waited for."""
        part = self.shelf.untrusted(self.file)
        part.parent.mkdir(parents=True, exist_ok=True)
        with locked(part.with_name(f"{part.name}.guard"), check=self._check_stop) as guard:
            if self.shelf.is_whole(self.file):
                self.bar.advance(self.file.size)
            else:
                self._try()
            guard.remove()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _try(self) -> None:
        """Go round the mirrors; one that does not have the file is not asked again."""
        last: Exception | None = None
        for attempt in range(1, _TRIES + 1):
            for mirror in self.source.mirrors:
                if mirror in self.gone:
                    continue
                self.bar.rewind()
                try:
                    self._bring(f"{mirror}/{self.file.location}")
                    self.shelf.accept(self.file)
                except VanishedError as error:
                    self.gone.add(mirror)
                    last = last or error
                except (requests.RequestException, VerifyError) as error:
                    last = error
                else:
                    return
            if len(self.gone) == len(self.source.mirrors):
                raise VanishedError(self._named("no mirror has it any more")) from last
            if attempt < _TRIES:
                self.stop.wait(_BACK_OFF * 2**attempt)
            self._check_stop()
        raise self._failed(last) from last

    def _named(self, text: str) -> str:
        return f"{self.file.name} {self.file.version} ({self.file.location}): {text}"

    def _failed(self, error: Exception | None) -> FactoryError:
        if isinstance(error, VerifyError):
            return VerifyError(error.message, hint=error.hint or self.source.other_bytes)
        reason = _reason(error) if isinstance(error, requests.RequestException) else str(error)
        mirrors = [mirror for mirror in self.source.mirrors if mirror not in self.gone]
        return FetchError(f"{mirrors[-1]}/{self.file.location}: {reason}", hint=self.source.unreachable)

    def _bring(self, url: str) -> None:
        """Bring what is missing of the untrusted file; its content is right on return."""
        part = self.shelf.untrusted(self.file)
        have = part.stat().st_size if part.exists() else 0
        if have > self.file.size:
            part.unlink()
            have = 0
        digest = hashlib.sha256()
        if have:
            with open_regular(part) as stream:
                digest = hashlib.file_digest(stream, "sha256")
        self.bar.advance(have)
        if have < self.file.size:
            self._receive(url, part, have, digest)
        if self.file.sha256 and digest.hexdigest() != self.file.sha256:
            part.unlink(missing_ok=True)
            raise VerifyError(f"{url}: sha256 is {digest.hexdigest()}, the lock says {self.file.sha256}")

    def _receive(self, url: str, part: Path, have: int, digest: hashlib._Hash) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            _check_answer(answer, url)
            if have and answer.status_code != requests.codes.partial_content:
                part.unlink()
                raise requests.ConnectionError("the server cannot resume")
            with part.open("ab") as out:
                for chunk in answer.iter_content(_CHUNK):
                    have += len(chunk)
                    if have > self.file.size:
                        part.unlink()
                        raise VerifyError(f"{url}: longer than the {self.file.size} bytes that the lock says")
                    out.write(chunk)
                    digest.update(chunk)
                    self.bar.advance(len(chunk))
                    self._check_stop()
        if have < self.file.size:
            raise requests.ConnectionError("the connection broke off")
