# SPDX-License-Identifier: Apache-2.0
"""Downloads: by content, resumed, verified, and without a network when they are there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.canonical import digest_bytes
from pipeline.channel import LockedFile
from pipeline.errors import FetchError, VerifyError
from pipeline.lab import debcache
from pipeline.lab.debcache import DebCache

CONTENT = bytes(range(256)) * 5000


class Bar:
    def __init__(self) -> None:
        self.moved = 0

    def advance(self, amount: int) -> None:
        self.moved += amount


class Quiet:
    def __init__(self) -> None:
        self.made = Bar()

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, title: str, total: int, unit: str = "B") -> Iterator[Bar]:
        yield self.made


class Mirror:
    """A mirror on this machine: serves what it is given, and notes what it was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges: list[str | None] = []
        self.breaks = 0
        self.resumes = True
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                mirror.ranges.append(wanted)
                data = mirror.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and mirror.resumes else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                if mirror.breaks:
                    mirror.breaks -= 1
                    self.wfile.write(data[start : start + len(data) // 2])
                    self.close_connection = True
                    return
                self.wfile.write(data[start:])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setattr(debcache, "_TRIES", 2)
    made = Mirror()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def offered(mirror: Mirror, content: bytes = CONTENT, name: str = "a") -> LockedFile:
    mirror.files[f"/pool/{name}.deb"] = content
    return LockedFile(name, "1", digest_bytes(content), len(content), f"pool/{name}.deb")


def test_fetched_once_and_then_without_a_network(mirror: Mirror, tmp_path: Path) -> None:
    cache, progress = DebCache(tmp_path), Quiet()
    wanted = [offered(mirror, bytes([number]) * 1000, f"p{number}") for number in range(20)]
    cache.fetch(wanted, mirror.address, progress)
    assert all(cache.path(deb).read_bytes() == mirror.files[f"/{deb.location}"] for deb in wanted)
    assert progress.made.moved == 20_000
    cache.fetch(wanted, "http://127.0.0.1:9", progress)
    assert len(mirror.ranges) == 20
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.guard"))


def test_an_interrupted_download_goes_on_where_it_was(mirror: Mirror, tmp_path: Path) -> None:
    deb, cache, progress = offered(mirror), DebCache(tmp_path), Quiet()
    mirror.breaks = 1
    cache.fetch([deb], mirror.address, progress)
    assert cache.path(deb).read_bytes() == CONTENT
    assert mirror.ranges[0] is None
    assert mirror.ranges[1] is not None
    assert progress.made.moved == len(CONTENT)


def test_a_server_that_cannot_resume(mirror: Mirror, tmp_path: Path) -> None:
    deb, cache = offered(mirror), DebCache(tmp_path)
    mirror.resumes = False
    (tmp_path / f"{deb.sha256}.part").write_bytes(CONTENT[:1000])
    cache.fetch([deb], mirror.address, Quiet())
    assert cache.path(deb).read_bytes() == CONTENT


@pytest.mark.parametrize("served", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_other_bytes_than_the_locks_never_get_a_name(mirror: Mirror, tmp_path: Path, served: bytes) -> None:
    deb, cache = offered(mirror), DebCache(tmp_path)
    mirror.files[f"/{deb.location}"] = served
    with pytest.raises(VerifyError, match="lock"):
        cache.fetch([deb], mirror.address, Quiet())
    assert not list(tmp_path.glob("*.deb"))
    mirror.files[f"/{deb.location}"] = CONTENT
    cache.fetch([deb], mirror.address, Quiet())


def test_a_package_that_the_mirror_dropped(mirror: Mirror, tmp_path: Path) -> None:
    deb = offered(mirror)
    mirror.files.clear()
    with pytest.raises(FetchError, match="404") as caught:
        DebCache(tmp_path).fetch([deb], mirror.address, Quiet())
    assert caught.value.hint == "run: ./ci/doit lock"
    assert len(mirror.ranges) == 1


def test_an_unreachable_mirror_names_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debcache, "_TRIES", 1)
    deb = LockedFile("a", "1", digest_bytes(b"a"), 1, "pool/a.deb")
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        DebCache(tmp_path).fetch([deb], "http://127.0.0.1:9", Quiet())
    assert "TOWER_DEBIAN_MIRROR" in caught.value.hint


def test_a_flipped_bit_in_the_cache_is_fetched_again(mirror: Mirror, tmp_path: Path) -> None:
    deb, cache = offered(mirror), DebCache(tmp_path)
    cache.fetch([deb], mirror.address, Quiet())
    cache.path(deb).write_bytes(b"\x01" + CONTENT[1:])
    assert cache.missing([deb]) == [deb]
    cache.fetch([deb], mirror.address, Quiet())
    assert cache.path(deb).read_bytes() == CONTENT
