# SPDX-License-Identifier: Apache-2.0
"""One answer of one address, as the bytes that were signed or locked: not unpacked, and not redirected to other schemes.

Servers and networks fail in different ways, which are told apart here, so that the caller can try the next mirror: the
file is gone, the address refuses it, or something broke off and another try may succeed. Every error names the address.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tower.base.patience import Patience, Watch
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

CHUNK: Final = 1 << 18
_TIMEOUT: Final = (15, 60)
"""Seconds for the connection, and for each silence after it."""
_HOPS: Final = 5
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_GONE: Final = frozenset({403, 404, 410})
_PACKED: Final = (".gz", ".tgz", ".apk")
"""Names of files packed with gzip: if a server declares this encoding, it means the file, not the transfer."""
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})


class WebError(Exception):
    """An address did not send what was requested; the text says what it did, `url` is the address."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__(text)
        self.url = url
        self.text = text

    def __str__(self) -> str:
        return f"{self.url}: {self.text}"


class GoneError(WebError):
    """The server does not have it."""


class RefusedError(WebError):
    """Another try would give the same."""


class OtherError(RefusedError):
    """Something came, complete, but is not what was expected. `page`: it is a web page, as networks with a login send."""

    def __init__(self, url: str, text: str, *, page: bool = False) -> None:
        super().__init__(url, text)
        self.page = page


class BrokenError(WebError):
    """It could not be reached, was too slow, or broke off: another try may succeed."""


class WebClient:
    """Sends requests, from several threads. It calls `stop` while waiting, and ends if that returns true."""

    def __init__(self, patience: Patience | None = None, stop: Callable[[], bool] = lambda: False) -> None:
        self._patience = patience or Patience()
        self._stop = stop
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, _Adapter())

    @contextmanager
    def opened(self, url: str, start: int = 0) -> Iterator[Answer]:
        """Yield the answer of `url` to a request for its bytes from `start` on. Raises a WebError."""
        with ExitStack() as stack:
            watch = stack.enter_context(Watch(self._patience, self._stop))
            _current.watch = watch
            try:
                with _told(url, watch):
                    response = stack.enter_context(self._follow(url, start))
                    watch.answered()
                    _check_late(url, watch)
                    answer = _answer(response, url, watch)
            finally:
                _current.watch = None
            yield answer

    def _follow(self, url: str, start: int) -> requests.Response:
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        place = url
        for _ in range(_HOPS):
            response = self._ask(place, headers)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            place = _led_to(url, place, response.headers.get("Location", ""))
        raise RefusedError(url, f"redirects in circles ({place})")

    def _ask(self, place: str, headers: Mapping[str, str]) -> requests.Response:
        # Not `Session.get`: that reads the whole body of a redirect, even if it is not to follow it.
        request = self._session.prepare_request(requests.Request("GET", place, headers=dict(headers)))
        ways: dict[str, Any] = dict(self._session.merge_environment_settings(place, {}, True, None, None))
        return self._session.get_adapter(place).send(request, timeout=_TIMEOUT, **ways)


def _led_to(url: str, place: str, location: str) -> str:
    """Return the target of a redirect. Raises RefusedError if we do not follow it: never from https to something else."""
    try:
        target = urlsplit(urljoin(place, location))
        good = target.scheme in (("https",) if url.startswith("https:") else ("http", "https"))
        good = good and bool(target.hostname) and target.port != 0 and target.geturl().isascii()
    except ValueError:
        good = False
    if not location or not good:
        wanted = ", which is not https" if url.startswith("https:") else ", which is not followed"
        raise RefusedError(url, f"redirects to {location[:200]!r}{wanted}")
    return target._replace(fragment="").geturl()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose headers have come."""

    url: str
    start: int
    """The place in the file where its bytes begin."""
    total: int | None
    """The length of the file, if the server states it."""
    kind: str
    """The server's content type, such as `text/html`."""
    encoding: str
    """The content encoding that the server states; empty if none."""
    end_known: bool
    """Whether its end can be told from a broken connection."""
    _raw: Any
    _watch: Watch

    @property
    def page(self) -> bool:
        """Tell whether it is a web page."""
        return self.kind in _PAGES

    @property
    def shown(self) -> str:
        """Describe an answer that is not the requested file."""
        what = f"a web page ({self.kind})" if self.page else "another file"
        return f"{what}, declared as {self.encoding}-encoded" if self.encoding else what

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes, as they come. Raises a BrokenError."""
        came = 0
        with _told(self.url, self._watch, lambda: came):
            while piece := self._raw.read1(CHUNK, decode_content=False):
                came += len(piece)
                self._watch.came(len(piece))
                yield piece
        # A connection that the watch has ended may look like the end of the file.
        _check_late(self.url, self._watch)


def _answer(response: requests.Response, url: str, watch: Watch) -> Answer:
    """Return the data of the headers. Raises a WebError for an answer without a file."""
    status = response.status_code
    if status in _GONE:
        raise GoneError(url, f"the mirror does not have it (status {status})")
    if status >= 500 or status in (408, 429):
        raise BrokenError(url, f"status {status} {response.reason or ''}".rstrip())
    if status == 416:
        raise OtherError(url, "has fewer bytes than have come already")
    if status not in (200, 206):
        raise RefusedError(url, f"status {status} {response.reason or ''}".rstrip())
    length = response.raw.length_remaining
    start, total = 0, length if isinstance(length, int) else None
    if status == 206 and "Content-Range" in response.headers:
        found = _RANGE.fullmatch(response.headers["Content-Range"].strip())
        if found is None:
            raise OtherError(url, f"sends the invalid range {response.headers['Content-Range'][:80]!r}")
        start, total = int(found[1]), int(found[3]) if found[3] != "*" else None
    elif status == 206:
        asked = response.request.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-") or 0)
        total = start + total if total is not None else None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    end_known = isinstance(length, int) or bool(response.raw.chunked)
    return Answer(url, start, total, kind, "" if encoding == "identity" else encoding, end_known, response.raw, watch)


def packed_by_name(location: str) -> bool:
    """Tell whether the file is packed with gzip, by its name."""
    return urlsplit(location).path.lower().endswith(_PACKED)


# --- what goes wrong ----------------------------------------------------------------------------------------


def _check_late(url: str, watch: Watch) -> None:
    if watch.late:
        raise BrokenError(url, f"too slow: {watch.patience}")


@contextmanager
def _told(url: str, watch: Watch, came: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the libraries' errors about a connection into words; `came` returns the bytes that came before it broke off."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        _check_late(url, watch)
        if (bad := _certificate(error)) is not None:
            raise RefusedError(url, f"its certificate is not valid: {bad}") from error
        timeout = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
        if came is not None:
            why = "nothing more came" if timeout else "broke off"
            raise BrokenError(url, f"{why} after {came()} bytes") from error
        if timeout:
            raise BrokenError(url, "did not answer in time") from error
        raise BrokenError(url, f"cannot be reached, or broke off{_detail(error)}") from error


def _certificate(error: BaseException) -> str | None:
    """Return why TLS failed for good, or None."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, ssl.SSLCertVerificationError):
            return one.verify_message or "not trusted"
        todo += [one.__cause__, one.__context__, *(arg for arg in one.args if isinstance(arg, BaseException))]
        todo.append(getattr(one, "reason", None) if isinstance(getattr(one, "reason", None), BaseException) else None)
    return None


def _detail(error: BaseException) -> str:
    kinds = ((requests.exceptions.ProxyError, "through the proxy"), (requests.exceptions.SSLError, "TLS failed"))
    return next((f" ({text})" for kind, text in kinds if isinstance(error, kind)), "")


# --- connections that can be watched ------------------------------------------------------------------------


class _Current(threading.local):
    """The watch of the request that this thread makes."""

    watch: Watch | None = None


_current = _Current()


class _WatchedHTTP(HTTPConnection):
    def getresponse(self) -> Any:
        if _current.watch is not None:
            _current.watch.attach(self.sock)
        return super().getresponse()


class _WatchedHTTPS(HTTPSConnection):
    def getresponse(self) -> Any:
        if _current.watch is not None:
            _current.watch.attach(self.sock)
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager
