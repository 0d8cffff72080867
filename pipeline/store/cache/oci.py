# SPDX-License-Identifier: Apache-2.0
"""The distribution protocol of OCI registries, as far as the shared cache needs it: manifests and blobs.

Sizes, waiting times and retries are limited. Downloads are streamed and compared with their digests.
Docker handles the login (`docker login`): its configuration and its credential helpers are asked.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import parse_dict_header
from tower.base.jsontext import parse_json

from pipeline.base.canonical import Digest, digest_bytes
from pipeline.base.errors import ConfigError, FetchError, VerifyError

_T = TypeVar("_T")

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
MOST_MANIFEST: Final = 4 << 20
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_ADDRESS: Final = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?|\[::1\](?::[0-9]+)?")
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TIMEOUT: Final = (5, 30)
_WRITE_TIMEOUT: Final = (5, 300)
"""Seconds that a registry may take to answer an upload."""
_CHUNK: Final = 1 << 18
_SLOWEST: Final = 64 << 10
"""Bytes a second; a transfer whose average is slower is given up, so that nobody waits for a trickle."""
_PATIENCE: Final = 60
_TRIES: Final = 2
_BACK_OFF: Final = 0.25
_ABSENT: Final = 404


class UnavailableError(FetchError):
    """The registry is down, breaks off or refuses."""


class AbsentError(FetchError):
    """The registry answers that it does not have it."""


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """The place of a cache: a registry and a repository in it."""

    host: str
    repository: str

    @classmethod
    def parse(cls, text: str) -> RegistryPlace:
        """Parse `cache=HOST[:PORT]/REPOSITORY`. Raises ConfigError."""
        host, _, repository = text.partition("/")
        local = urlsplit(f"//{host}").hostname in _LOOPBACK if _ADDRESS.fullmatch(host) else False
        named = _ADDRESS.fullmatch(host) and (local or "." in host or ":" in host)
        if not named or not _REPOSITORY.fullmatch(repository):
            raise ConfigError(
                f"cache={text}: is not the name of a repository", hint="for example: cache=registry.example/towercache"
            )
        return cls(host, repository)

    @property
    def url(self) -> str:
        """The address of the repository; without TLS only on this machine."""
        scheme = "http" if urlsplit(f"//{self.host}").hostname in _LOOPBACK else "https"
        return f"{scheme}://{self.host}/v2/{self.repository}"

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}"


class Registry:
    """One repository of a registry. `check` is called while waiting for bytes, and may raise to stop."""

    def __init__(self, place: RegistryPlace, *, check: Callable[[], None] | None = None) -> None:
        self.place = place
        self._check = check or _nothing
        self._session = requests.Session()
        self._session.auth = _Login()

    # --- reading --------------------------------------------------------------------------------------------

    def manifest(self, tag: str) -> bytes:
        """Return the manifest with this tag, unverified. Raises AbsentError or UnavailableError."""
        return _again(lambda: self._read(f"manifests/{tag}", MOST_MANIFEST, {"Accept": MANIFEST}))

    def small(self, digest: Digest, limit: int) -> bytes:
        """Return a small blob that matches its digest. Raises AbsentError, UnavailableError or VerifyError."""
        data = _again(lambda: self._read(f"blobs/sha256:{digest}", limit, {}))
        if digest_bytes(data) != digest:
            raise VerifyError(f"blob {digest[:12]}: the registry's copy has sha256 {digest_bytes(data)[:12]}")
        return data

    def download(self, digest: Digest, size: int, path: Path) -> None:
        """Stream a blob into a new file. Raises AbsentError, UnavailableError, or VerifyError for another digest or size."""
        _again(lambda: self._stream(digest, size, path))

    def _stream(self, digest: Digest, size: int, path: Path) -> None:
        hashed, have = hashlib.sha256(), 0
        with path.open("wb") as out, self._asked("GET", f"blobs/sha256:{digest}") as answer:
            for chunk in self._chunks(answer, size):
                have += len(chunk)
                if have > size:
                    raise VerifyError(f"blob {digest[:12]}: longer than the {size} bytes of the record")
                hashed.update(chunk)
                out.write(chunk)
        if have < size:
            raise VerifyError(f"blob {digest[:12]}: {have} bytes, the record says {size}")
        if hashed.hexdigest() != digest:
            raise VerifyError(f"blob {digest[:12]}: the registry's copy has sha256 {hashed.hexdigest()[:12]}")

    def _read(self, path: str, limit: int, headers: Mapping[str, str]) -> bytes:
        found = bytearray()
        with self._asked("GET", path, headers) as answer:
            for chunk in self._chunks(answer, limit):
                found += chunk
                if len(found) > limit:
                    raise VerifyError(f"{path}: longer than {limit} bytes")
        return bytes(found)

    def _chunks(self, answer: requests.Response, size: int) -> Iterator[bytes]:
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise VerifyError("the registry sends a compressed blob, unasked")
        ends = time.monotonic() + _PATIENCE + size / _SLOWEST
        # Yield what has come at once, or a trickle would hide in a chunk that never fills up.
        while chunk := answer.raw.read1(_CHUNK, decode_content=False):
            self._check()
            if time.monotonic() > ends:
                raise requests.Timeout("too slow")
            yield chunk

    # --- writing --------------------------------------------------------------------------------------------

    def has(self, digest: Digest) -> bool:
        """Tell whether the registry says that it has this blob."""
        try:
            with self._asked("HEAD", f"blobs/sha256:{digest}"):
                return True
        except AbsentError:
            return False

    def upload(self, digest: Digest, source: BinaryIO) -> None:
        """Upload a blob, which must not be empty, in one stream. Raises UnavailableError."""
        with self._asked("POST", "blobs/uploads/") as answer:
            where = urljoin(answer.url, answer.headers.get("Location", ""))
        address = f"{where}{'&' if '?' in where else '?'}digest=sha256:{digest}"
        with self._asked("PUT", address, {"Content-Type": "application/octet-stream"}, source):
            pass

    def tag(self, tag: str, manifest: bytes) -> None:
        """Give a manifest its tag; the blobs that it names must be there. Raises UnavailableError."""
        with self._asked("PUT", f"manifests/{tag}", {"Content-Type": MANIFEST}, manifest):
            pass

    # --- asking ---------------------------------------------------------------------------------------------

    @contextmanager
    def _asked(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, data: BinaryIO | bytes | None = None
    ) -> Iterator[requests.Response]:
        """Yield the answer to a request; errors while it is read raise AbsentError or UnavailableError, too."""
        url = path if "://" in path else f"{self.place.url}/{path}"
        if self.place.url.startswith("https:") and not url.startswith("https:"):
            raise UnavailableError("leads to an address without https")
        try:
            with self._session.request(
                method,
                url,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                data=data,
                stream=True,
                timeout=_TIMEOUT if method in ("GET", "HEAD") else _WRITE_TIMEOUT,
                allow_redirects=method in ("GET", "HEAD"),
            ) as answer:
                self._check_answer(answer)
                yield answer
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise UnavailableError(_reason(error)) from error

    def _check_answer(self, answer: requests.Response) -> None:
        secure = self.place.url.startswith("https:")
        if secure and any(not hop.url.startswith("https:") for hop in (*answer.history, answer)):
            raise UnavailableError("leads to an address without https")
        if answer.status_code == _ABSENT and answer.request.method in ("GET", "HEAD"):
            raise AbsentError(f"{answer.url}: does not exist")
        if not answer.ok or answer.is_redirect:
            raise UnavailableError(f"refuses {answer.request.method} ({answer.status_code} {answer.reason})")


class _Login(AuthBase):
    """Answers a registry's challenge with the credentials of Docker's configuration, or anonymously.

    It replaces the credentials that `requests` would take from ~/.netrc.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}
        """Authorization by host and method, from the last answer."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        known = self._known.get(_asker(request))
        if known:
            request.headers["Authorization"] = known
        request.register_hook("response", self._answer)  # type: ignore[no-untyped-call]
        return request

    def _answer(self, answer: requests.Response, **options: Any) -> requests.Response:
        request = answer.request
        if answer.status_code != requests.codes.unauthorized or getattr(request, "asked_again", False):
            return answer
        authorization = _authorization(answer.headers.get("WWW-Authenticate", ""), str(request.url))
        if not authorization:
            return answer
        self._known[_asker(request)] = authorization
        again = request.copy()
        again.asked_again = True  # type: ignore[attr-defined]
        again.headers["Authorization"] = authorization
        if hasattr(again.body, "seek"):
            again.body.seek(0)  # type: ignore[union-attr]
        answer.close()
        second: requests.Response = answer.connection.send(again, **options)
        second.history.append(answer)
        second.request = again
        return second


def _asker(request: requests.PreparedRequest) -> tuple[str, str]:
    """Return the key of a token: tokens are for reading or for writing, in one registry."""
    return urlsplit(str(request.url)).netloc, "read" if request.method in ("GET", "HEAD") else "write"


def _authorization(challenge: str, url: str) -> str:
    """Return the authorization for a registry that sent this challenge; "" if there is none."""
    kind, _, rest = challenge.partition(" ")
    parts = urlsplit(url)
    safe = parts.scheme == "https" or parts.hostname in _LOOPBACK
    login = _credentials(parts.netloc) if safe else None
    if kind.lower() == "basic" and login is not None:
        request = requests.Request("GET", url, auth=login).prepare()
        return str(request.headers["Authorization"])
    words = parse_dict_header(rest) if kind.lower() == "bearer" else {}  # type: ignore[no-untyped-call]
    realm = str(words.get("realm") or "")
    where = urlsplit(realm)
    if where.scheme != "https" and where.hostname not in _LOOPBACK:
        return ""
    wanted = {name: str(words[name]) for name in ("service", "scope") if words.get(name)}
    # `_nobody` keeps `requests` from looking into ~/.netrc.
    with requests.get(
        realm, params=wanted, auth=login or _nobody, timeout=_TIMEOUT, allow_redirects=False, stream=True
    ) as answer:
        data = next(answer.iter_content(_CHUNK), b"") if answer.ok else b""
    try:
        found = parse_json(data)
    except ValueError:
        return ""
    token = (found.get("token") or found.get("access_token")) if isinstance(found, dict) else ""
    return f"Bearer {token}" if isinstance(token, str) and token.isascii() and token.isprintable() and token else ""


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _credentials(host: str) -> HTTPBasicAuth | None:
    """Return the credentials that `docker login` noted for this registry, or None."""
    from pipeline.base.docker_config import login

    found = login(host)
    return HTTPBasicAuth(*(word.encode() for word in found)) if found is not None else None


def _reason(error: Exception) -> str:
    kinds = (
        (requests.exceptions.SSLError, "its certificate is not trusted"),
        ((requests.Timeout, urllib3.exceptions.TimeoutError), "does not answer in time"),
        ((requests.exceptions.ChunkedEncodingError, urllib3.exceptions.ProtocolError), "breaks off"),
        (requests.ConnectionError, "cannot be reached, or broke off"),
    )
    return next(
        (text for kind, text in kinds if isinstance(error, kind)), f"does not speak the protocol ({type(error).__name__})"
    )


def _again(action: Callable[[], _T]) -> _T:
    """Do it; once more if the registry did not answer as it should."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except UnavailableError:
            threading.Event().wait(_BACK_OFF)
    return action()


def _nothing() -> None:
    """Do nothing: the default `check`, which never stops a transfer."""
