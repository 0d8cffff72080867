# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves: slow, packed, broken off, asking who we are, leading elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.base.canonical import Digest
from pipeline.base.errors import ConfigError, VerifyError
from pipeline.store.cache import oci as module
from pipeline.store.cache.oci import AbsentError, Registry, RegistryPlace, UnavailableError

DATA = b"content" * 1000
DIGEST = Digest(hashlib.sha256(DATA).hexdigest())
Answer = Callable[[BaseHTTPRequestHandler], None]


class Fake:
    """A registry that answers every request as the test says."""

    def __init__(self) -> None:
        self.answer: Answer = lambda request: send(request, 404)
        self.asked: list[tuple[str, str, str]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                fake.asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                fake.answer(self)

            do_GET = do_HEAD = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        self.registry = Registry(RegistryPlace.parse(f"{self.address}/cache"))


def send(request: BaseHTTPRequestHandler, status: int, data: bytes = b"", **headers: str) -> None:
    request.send_response(status)
    for name, value in {"Content_Length": str(len(data)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(data)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(module, "_BACK_OFF", 0)
    made = Fake()
    threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("text", ["registry.example/towercache", "localhost:5000/a/b-c_d", "[::1]:5000/a", "127.0.0.1/x"])
def test_places(text: str) -> None:
    assert str(RegistryPlace.parse(text)) == text
    assert RegistryPlace.parse(text).url.startswith("https:" if "example" in text else "http:")


@pytest.mark.parametrize(
    "text",
    [
        "", "registry.example", "towercache", "library/towercache", "https://registry.example/x", "registry.example/X",
        "registry.example/a/../b", "registry.example/a:tag", "user@registry.example/a", "registry.example/a?b", "a b.example/a",
    ],
)  # fmt: skip
def test_invalid_places_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cache="):
        RegistryPlace.parse(text)


def test_a_file_comes_whole(fake: Fake, tmp_path: Path) -> None:
    fake.answer = lambda request: send(request, 200, DATA)
    fake.registry.download(DIGEST, len(DATA), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert fake.registry.small(DIGEST, len(DATA)) == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_another_size_than_the_record_says(fake: Fake, tmp_path: Path, size: int) -> None:
    fake.answer = lambda request: send(request, 200, DATA)
    with pytest.raises(VerifyError, match=f"{size}"):
        fake.registry.download(DIGEST, size, tmp_path / "file")
    with pytest.raises(VerifyError, match="longer"):
        fake.registry.small(DIGEST, len(DATA) - 1)


def test_an_answer_that_is_packed(fake: Fake, tmp_path: Path) -> None:
    fake.answer = lambda request: send(request, 200, DATA, Content_Encoding="gzip")
    with pytest.raises(VerifyError, match="unasked"):
        fake.registry.download(DIGEST, len(DATA), tmp_path / "file")


def test_a_download_that_breaks_off_is_tried_again(fake: Fake, tmp_path: Path) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, 200, DATA if len(fake.asked) > 1 else DATA[:50], Content_Length=str(len(DATA)))
        request.close_connection = True

    fake.answer = answer
    fake.registry.download(DIGEST, len(DATA), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
    assert len(fake.asked) == 2


def test_a_registry_that_drips_is_given_up(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every wait for bytes short, and is given up all the same."""
    monkeypatch.setattr(module, "_PATIENCE", 0.2)

    def answer(request: BaseHTTPRequestHandler) -> None:
        send(request, 200, Content_Length=str(len(DATA)))
        for _ in range(100):
            try:
                request.wfile.write(b"x")
            except OSError:
                return
            time.sleep(0.02)  # sleeps: a server that drips

    fake.answer = answer
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="in time"):
        fake.registry.download(DIGEST, len(DATA), tmp_path / "file")
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize("status", [400, 401, 403, 405, 429, 500, 503])
def test_a_refusal_of_the_registry_is_named(fake: Fake, status: int) -> None:
    fake.answer = lambda request: send(request, status)
    with pytest.raises(UnavailableError, match=f"refuses GET \\({status}"):
        fake.registry.manifest("tag")


def test_a_missing_manifest_or_blob_is_absent(fake: Fake) -> None:
    with pytest.raises(AbsentError):
        fake.registry.manifest("tag")
    assert not fake.registry.has(DIGEST)


def test_an_answer_that_is_not_http_is_an_error(fake: Fake) -> None:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\xff hello\r\n\r\n")

    fake.answer = answer
    with pytest.raises(UnavailableError):
        fake.registry.manifest("tag")


def test_an_interruption_ends_the_download(fake: Fake, tmp_path: Path) -> None:
    fake.answer = lambda request: send(request, 200, DATA)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Registry(fake.registry.place, check=stop).download(DIGEST, len(DATA), tmp_path / "file")


def login(folder: Path, address: str) -> str:
    """What `docker login` leaves."""
    word = base64.b64encode(b"me:secret").decode()
    (folder / "docker").mkdir()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {address: {"auth": word}}}))
    return word


def test_the_login_is_sent_when_the_registry_asks_for_it(fake: Fake, tmp_path: Path) -> None:
    word = login(tmp_path, fake.address)

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.headers.get("Authorization") == f"Basic {word}":
            send(request, 200, DATA)
        else:
            send(request, 401, WWW_Authenticate='Basic realm="x"')

    fake.answer = answer
    assert fake.registry.manifest("tag") == DATA
    assert fake.registry.manifest("tag") == DATA
    assert len(fake.asked) == 3, "asked once"


@pytest.mark.parametrize("known", [True, False])
def test_a_token_is_fetched_when_the_registry_asks_for_it(fake: Fake, tmp_path: Path, known: bool) -> None:
    """As public registries do, for readers without a name too."""
    word = login(tmp_path, fake.address) if known else ""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/token"):
            send(request, 200, json.dumps({"token": "t0k"}).encode())
        elif request.headers.get("Authorization") == "Bearer t0k":
            send(request, 200, DATA)
        else:
            challenge = f'Bearer realm="http://{fake.address}/token",service="s",scope="repository:cache:pull"'
            send(request, 401, WWW_Authenticate=challenge)

    fake.answer = answer
    assert fake.registry.manifest("tag") == DATA
    assert fake.asked[1] == ("GET", "/token?service=s&scope=repository%3Acache%3Apull", f"Basic {word}" if known else "")


def test_a_token_of_an_address_without_tls(fake: Fake, tmp_path: Path) -> None:
    """Name and password do not go where everybody may listen."""
    login(tmp_path, fake.address)
    fake.answer = lambda request: send(request, 401, WWW_Authenticate='Bearer realm="http://token.example/",service="s"')
    with pytest.raises(UnavailableError, match="401"):
        fake.registry.manifest("tag")
