# SPDX-License-Identifier: Apache-2.0
"""Download one locked file from one of several mirrors, and explain why if none of them sends it.

The next mirror is tried if one is down, has another file, redirects elsewhere, is too slow, or sends the login page of a
network. A partial download is kept for the next try and the next run; if it turns out not to be the beginning of the file,
it is discarded once, and the file is downloaded from its start.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from pipeline.base.errors import FactoryError, FetchError, VerifyError
from pipeline.base.filelock import locked
from pipeline.base.progress import Bar
from pipeline.supply.lock import LockedFile
from pipeline.supply.web import Answer, BrokenError, GoneError, OtherError, RefusedError, WebClient, WebError

TRIES: Final = 4
_STRIKES: Final = 2
"""How often a mirror may send other bytes than the lock names: once it may have been the network."""
_LOGIN: Final = "the network answers with pages of its own: log in to it (a hotel's, a proxy's), then run the same command again"


class Downloads(Protocol):
    """Where downloads are kept: `pipeline.supply.vault.Vault`, or a cache like it."""

    def path(self, file: LockedFile) -> Path:
        """Return the place of a verified file."""

    def untrusted(self, file: LockedFile) -> Path:
        """Return the place of a partial download."""

    def is_whole(self, file: LockedFile) -> bool:
        """Tell whether the file is there and right."""

    def accept(self, file: LockedFile) -> None:
        """Verify a download and move it to its place. Raises VerifyError."""


@dataclass(frozen=True, slots=True)
class Mirrors:
    """The sources of files, and the hints if they fail."""

    mirrors: tuple[str, ...]
    """Addresses without a slash at the end, tried in this order."""
    vanished: str = "run: ./ci/doit lock"
    """The hint for a file that no mirror has any more."""
    unreachable: str = "check the network"
    """The hint if no mirror answers."""
    other_bytes: str = "the mirror serves other bytes than the lock names; run: ./ci/doit lock"
    folder: Path | None = None
    """A mirror that is a folder of this machine: used instead of all addresses, and verified like them."""


class VanishedError(FetchError):
    """No mirror has a file of the lock any more."""


class _StoppedError(Exception):
    """Another download failed, or the user stopped the run."""


class Said:
    """The answers of all mirrors about `what`, for the final error."""

    def __init__(self, what: str, source: Mirrors) -> None:
        self._what = what
        self._source = source
        self._last: dict[str, WebError] = {}

    def note(self, mirror: str, error: WebError) -> None:
        """Note the answer of a mirror; the last one counts."""
        self._last[mirror] = error

    def error(self) -> FactoryError:
        """Return one error for all answers."""
        errors = list(self._last.values())
        lines = [str(error) for error in errors]
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{self._what}: no mirror sends it", *lines])
        if all(isinstance(error, GoneError) for error in errors):
            return VanishedError(text, hint=self._source.vanished)
        others = [error for error in errors if isinstance(error, OtherError)]
        if any(error.page for error in others):
            return FetchError(text, hint=_LOGIN)
        if others:
            cause = others[0].__cause__
            kind = type(cause) if isinstance(cause, VerifyError) else VerifyError
            return kind(text, hint=(cause.hint if isinstance(cause, VerifyError) else "") or self._source.other_bytes)
        return FetchError(text, hint=self._source.unreachable)


class Share:
    """One download's share of a bar that several threads advance."""

    def __init__(self, bar: Bar, guard: threading.Lock) -> None:
        self._bar = bar
        self._guard = guard
        self._moved = 0

    def advance(self, amount: int) -> None:
        """Advance the bar."""
        with self._guard:
            self._moved += amount
            self._bar.advance(amount)

    def rewind(self) -> None:
        """Undo this share's progress: the download starts over."""
        self.advance(-self._moved)


@dataclass(eq=False)
class Download:
    """The download of one file."""

    downloads: Downloads
    file: LockedFile
    source: Mirrors
    client: WebClient
    bar: Share
    stop: threading.Event
    back_off: float
    """Half the seconds before the second try; doubled for each further try."""
    passed: dict[str, WebError]
    """For all downloads: mirrors that failed for a file that another one sent, with the first problem of each."""
    _off: set[str] = field(default_factory=set)
    """Mirrors that are not tried again."""

    def run(self) -> None:
        """Download the file, with some retries. If another process downloads it, wait for that.

        Raises VanishedError, FetchError or VerifyError.
        """
        part = self.downloads.untrusted(self.file)
        part.parent.mkdir(parents=True, exist_ok=True)
        with locked(part.with_name(f"{part.name}.guard"), check=self._check_stop) as guard:
            if self.downloads.is_whole(self.file):
                self.bar.advance(self.file.size)
            else:
                self._try()
            guard.remove()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise _StoppedError

    def _try(self) -> None:
        """Try each mirror once, except those that will never send the file."""
        said = Said(self._named, self.source)
        strikes: Counter[str] = Counter()
        problems: dict[str, WebError] = {}
        for attempt in range(1, TRIES + 1):
            for mirror in (mirror for mirror in self.source.mirrors if mirror not in self._off):
                self.bar.rewind()
                try:
                    self._bring(f"{mirror}/{self.file.location}")
                except WebError as error:
                    self._check_stop()
                    said.note(mirror, error)
                    problems.setdefault(mirror, error)
                    strikes[mirror] += _strikes(error)
                    if strikes[mirror] >= _STRIKES:
                        self._off.add(mirror)
                else:
                    problems.pop(mirror, None)
                    self.passed.update({name: error for name, error in problems.items() if name not in self.passed})
                    return
            if self._off.issuperset(self.source.mirrors):
                break
            if attempt < TRIES:
                self.stop.wait(self.back_off * 2**attempt)
            self._check_stop()
        final = said.error()
        raise VanishedError(f"{self._named}: no mirror has it any more") if isinstance(final, VanishedError) else final

    @property
    def _named(self) -> str:
        return f"{self.file.name} {self.file.version} ({self.file.location})"

    def _bring(self, url: str) -> None:
        """Download the missing part of the file, and have it verified. Raises a WebError."""
        have = self._have()
        try:
            self._receive(url, have)
            self._accept(url)
        except OtherError:
            if not have:
                raise
        else:
            return
        # The part is not the beginning of this file, or the server cannot continue where it ends.
        self.bar.rewind()
        self.downloads.untrusted(self.file).unlink(missing_ok=True)
        self._receive(url, 0)
        self._accept(url)

    def _accept(self, url: str) -> None:
        try:
            self.downloads.accept(self.file)
        except VerifyError as error:
            self.downloads.untrusted(self.file).unlink(missing_ok=True)
            raise OtherError(url, error.message) from error

    def _have(self) -> int:
        """Return the bytes of the partial download; one that is longer than the file does not count."""
        part = self.downloads.untrusted(self.file)
        have = part.stat().st_size if part.exists() else 0
        if have > self.file.size:
            part.unlink()
            return 0
        return have

    def _receive(self, url: str, have: int) -> None:
        """Download the file from byte `have` on; on return it has its full length. Raises a WebError."""
        part, size = self.downloads.untrusted(self.file), self.file.size
        self.bar.advance(have)
        if have == size and part.exists():
            return
        with self.client.opened(url, have) as answer:
            if answer.total not in (None, size):
                raise self._other(answer, f"{answer.total} bytes, the lock says {size}")
            if answer.start not in (0, have):
                raise self._other(answer, f"bytes from {answer.start} on, asked for those from {have} on")
            if have and not answer.start:
                self.bar.rewind()
                have = 0
            self._write(part, answer, have)

    def _write(self, part: Path, answer: Answer, have: int) -> None:
        with part.open("ab" if have else "wb") as out:
            for piece in answer.pieces():
                have += len(piece)
                if have > self.file.size:
                    raise self._other(answer, f"more than the {self.file.size} bytes that the lock says")
                out.write(piece)
                self.bar.advance(len(piece))
                self._check_stop()
        if have < self.file.size:
            if not answer.end_known:
                raise BrokenError(answer.url, f"ended, or broke off, after {have} of {self.file.size} bytes")
            raise self._other(answer, f"ends after {have} of the {self.file.size} bytes that the lock says")

    def _other(self, answer: Answer, text: str) -> OtherError:
        self.downloads.untrusted(self.file).unlink(missing_ok=True)
        return OtherError(answer.url, f"{answer.shown}: {text}", page=answer.page)


def _strikes(error: WebError) -> int:
    """Return the weight of an error against a mirror: `_STRIKES` if another try would give the same."""
    if isinstance(error, OtherError):
        return _STRIKES if error.page else 1
    return _STRIKES if isinstance(error, GoneError | RefusedError) else 0
