# SPDX-License-Identifier: Apache-2.0
"""The only downloader of the files of a lock: several mirrors, in parallel, resumed, retried, verified.

Data is untrusted until its size and SHA-256 are those of the lock. `get` downloads small files that are verified
otherwise: signed indexes, lists of releases.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pipeline.base.errors import ConfigError, FetchError, VerifyError
from pipeline.base.progress import Progress
from pipeline.supply.download import TRIES, Download, Downloads, Mirrors, Said, Share, VanishedError
from pipeline.supply.lock import LockedFile
from pipeline.supply.web import BrokenError, GoneError, OtherError, RefusedError, WebClient, WebError, packed_by_name

__all__ = ["Downloads", "Mirrors", "VanishedError", "check_mirrors", "fetch", "get", "get_checked"]

T = TypeVar("T")
_THREADS = 4
_BACK_OFF = 0.25
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_mirrors(mirrors: Sequence[str], where: str) -> tuple[str, ...]:
    """Return addresses without a slash at the end. Raises ConfigError unless they are https (or http on this machine)."""
    found = []
    for mirror in mirrors:
        parts = urlsplit(mirror)
        if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
            raise ConfigError(f"{where}: {mirror!r} is not an https address", hint="for example: https://mirror.example/alpine")
        found.append(mirror.rstrip("/"))
    if not found:
        raise ConfigError(f"{where}: names no mirror")
    return tuple(found)


def get(source: Mirrors, location: str, *, limit: int) -> bytes:
    """Return a small file from the first mirror that has it, unverified. Raises FetchError; VanishedError if none has it."""
    return get_checked(source, location, limit=limit, check=bytes)


def get_checked(source: Mirrors, location: str, *, limit: int, check: Callable[[bytes], T]) -> T:
    """Return what `check` makes of a small file, from the first mirror whose file it accepts.

    `check` raises VerifyError for bytes that it does not trust, or VanishedError for another file than it wants. Raises
    FetchError, VanishedError, or the error of `check`, naming the answer of each mirror.
    """
    if source.folder is not None:
        return check(_small_file(source, location, limit))
    client, said = WebClient(), Said(location, source)
    left = list(source.mirrors)
    for attempt in range(1, TRIES + 1):
        for mirror in tuple(left):
            try:
                return _small(client, f"{mirror}/{location}", limit, check)
            except WebError as error:
                said.note(mirror, error)
                if not isinstance(error, BrokenError):
                    left.remove(mirror)
        if not left:
            break
        if attempt < TRIES:
            threading.Event().wait(_BACK_OFF * 2**attempt)
    raise said.error()


def _small(client: WebClient, url: str, limit: int, check: Callable[[bytes], T]) -> T:
    with client.opened(url) as answer:
        if answer.encoding and not packed_by_name(url):
            raise RefusedError(url, f"was changed on its way: {answer.encoding}-encoded, which was not asked for")
        found = bytearray()
        for piece in answer.pieces():
            found += piece
            if len(found) > limit:
                raise RefusedError(url, f"{answer.shown}: longer than {limit} bytes")
        if not found:
            raise RefusedError(url, "sends an empty file")
        try:
            return check(bytes(found))
        except VanishedError as error:
            raise GoneError(url, error.message) from error
        except VerifyError as error:
            text = f"{answer.shown} of {len(found)} bytes" if answer.page else error.message
            if not answer.end_known:
                raise BrokenError(url, f"{text}; it may have broken off") from error
            raise OtherError(url, text, page=answer.page) from error


def _in_folder(folder: Path, location: str) -> Path:
    """Return the file of a folder for a server's `location`, without the part that queries the server."""
    return folder / location.partition("?")[0]


def _small_file(source: Mirrors, location: str, limit: int) -> bytes:
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


def fetch(wanted: Iterable[LockedFile], downloads: Downloads, source: Mirrors, progress: Progress, *, title: str) -> None:
    """Download missing and damaged files; the network is used only for these.

    A file without a SHA-256 is one that `downloads` verifies by other means. After an interruption, partial downloads are kept,
    and the next run continues them. Raises FetchError (VanishedError names every missing file) or VerifyError.
    """
    distinct = {(file.sha256, file.checksum): file for file in wanted}
    missing = [file for file in sorted(distinct.values()) if not downloads.is_whole(file)]
    if not missing:
        return
    if source.folder is not None:
        _take(missing, downloads, source, progress, title)
        return
    stop, guard, passed = threading.Event(), threading.Lock(), dict[str, WebError]()
    client = WebClient(stop=stop.is_set)
    vanished: list[VanishedError] = []
    with (
        progress.bar(f"{len(missing)} {title}", sum(file.size for file in missing)) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        jobs = [
            pool.submit(Download(downloads, file, source, client, Share(bar, guard), stop, _BACK_OFF, passed).run)
            for file in missing
        ]
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
        finally:
            for problem in passed.values():
                progress.say(f"{problem}; another mirror was asked")
    if vanished:
        lines = sorted(error.message for error in vanished)
        raise VanishedError("\n  ".join(lines), hint=source.vanished)


def _take(missing: Sequence[LockedFile], downloads: Downloads, source: Mirrors, progress: Progress, title: str) -> None:
    """Fetch from a mirror that is a folder: on the same file system, its files are moved there without a copy."""
    vanished = []
    with progress.bar(f"{len(missing)} {title}", sum(file.size for file in missing)) as bar:
        for file in missing:
            part, path = downloads.untrusted(file), _in_folder(source.folder or Path(), file.location)
            part.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            try:
                try:
                    part.hardlink_to(path)
                except FileNotFoundError:
                    raise
                except OSError:  # it is on another file system
                    shutil.copyfile(path, part)
            except FileNotFoundError:
                vanished.append(f"{file.name} {file.version} ({file.location}): the mirror does not have it")
                continue
            except OSError as error:
                raise FetchError(f"{path}: cannot be read: {error.strerror}", hint=source.unreachable) from error
            try:
                downloads.accept(file)
            except VerifyError as error:
                raise VerifyError(error.message, hint=error.hint or source.other_bytes) from error
            finally:
                part.unlink(missing_ok=True)
            bar.advance(file.size)
    if vanished:
        raise VanishedError("\n  ".join(sorted(vanished)), hint=source.vanished)
