# SPDX-License-Identifier: Apache-2.0
"""The cache of packages, filled from a real HTTP server: what is kept, gone on with, thrown away."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tower.base.errors import DownError, PackageError
from tower.install.apkindex import Package, read_index
from tower.install.fetch import Downloads, _redirected
from tower.install.repository import Repository
from tower.ssh.way import Way

from tests.network.mirror import ARCH, Made, Mirror

REPOSITORY = Repository("http", "packages.test", 80, "/main", "")
BIG = "big-1.0-r0.apk"


@dataclass
class Tunnel:
    """Stands where the connection to the router is: its tunnels lead to a port of this machine."""

    port: int
    down: int = 0
    opened: int = 0
    host: Any = field(default_factory=lambda: type("Host", (), {"name": "router"}))

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        assert (target, port) == ("packages.test", 80)
        if self.down:
            self.down -= 1
            raise DownError("router: nothing answers")
        self.opened += 1
        yield self.port


@dataclass
class Site:
    mirror: Mirror
    tunnel: Tunnel
    downloads: Downloads
    package: Package
    folder: Path

    def get(self, progress: Callable[[int], object] = lambda _: None) -> Path:
        return self.downloads.package(REPOSITORY, ARCH, self.package, progress)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    mirror = Mirror(tmp_path / "site")
    mirror.publish({"big": Made(size=800_000)}, made=1_700_000_000)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), mirror.handler())
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    tunnel = Tunnel(server.server_address[1])
    way = Way(tunnel)  # type: ignore[arg-type]
    package = read_index(mirror.folder / "main" / ARCH / "APKINDEX.tar.gz").packages["big", "1.0-r0"]
    with contextlib.closing(way):
        yield Site(mirror, tunnel, Downloads(tmp_path / "cache", way, lambda _: None), package, tmp_path / "cache")
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "place",
    [
        "http://x:99999/",
        "http://x:y/",
        "http://[::1/",
        "ftp://x/",
        "file:///etc/passwd",
        "http://x/\u00e9",
        "http://x:0/",
    ],
)
def test_invalid_redirects_are_refused(place: str) -> None:
    with pytest.raises(PackageError, match="which tower does not follow"):
        _redirected("http://packages.test/main", place)


def test_redirects_are_resolved_but_never_from_https_to_http() -> None:
    assert _redirected("http://packages.test/main/x", "../y") == "http://packages.test/y"
    assert _redirected("http://packages.test/", "https://other.test:443/y") == "https://other.test:443/y"
    with pytest.raises(PackageError, match="which tower does not follow"):
        _redirected("https://packages.test/", "http://packages.test/")


def test_a_package_is_fetched_once(site: Site) -> None:
    come: list[int] = []
    path = site.get(come.append)
    assert path.read_bytes() == (site.mirror.folder / "main" / ARCH / BIG).read_bytes()
    assert sum(come) == site.downloads.received == site.package.size
    assert site.get() == path
    assert len(site.mirror.requests) == 1
    assert not list(site.folder.glob("*.part"))


def test_connections_are_used_again(site: Site) -> None:
    site.downloads.index(REPOSITORY, ARCH)
    site.get()
    assert site.tunnel.opened == 1


def test_an_index_is_asked_news_of(site: Site) -> None:
    first = site.downloads.index(REPOSITORY, ARCH).read_bytes()
    assert site.downloads.index(REPOSITORY, ARCH).read_bytes() == first
    site.mirror.publish({"big": Made(version="2.0-r0")}, made=1_700_000_100)
    path = site.downloads.index(REPOSITORY, ARCH)
    assert path.read_bytes() != first
    assert [one.status for one in site.mirror.requests] == [200, 304, 200]
    site.downloads.forget_index(path)
    site.downloads.index(REPOSITORY, ARCH)
    assert site.mirror.requests[-1].status == 200


def test_an_interrupted_transfer_is_continued(site: Site) -> None:
    site.mirror.cut[BIG] = 300_000
    site.get()
    assert [one.range for one in site.mirror.requests] == ["", "bytes=300000-"]
    assert site.downloads.received == site.package.size


def test_a_part_of_another_file_is_thrown_away(site: Site) -> None:
    part = site.downloads.place(site.package).with_suffix(".part")
    part.write_bytes(b"x" * 1000)
    path = site.get()
    assert path.stat().st_size == site.package.size
    assert [one.range for one in site.mirror.requests] == ["bytes=1000-", ""]


def test_a_part_that_is_too_long_is_thrown_away(site: Site) -> None:
    part = site.downloads.place(site.package).with_suffix(".part")
    part.write_bytes(b"x" * (site.package.size + 5))
    assert site.get().stat().st_size == site.package.size
    assert [one.range for one in site.mirror.requests] == [""]


def test_a_part_that_is_whole_is_taken(site: Site) -> None:
    path = site.get()
    path.rename(path.with_suffix(".part"))
    assert site.get() == path
    assert len(site.mirror.requests) == 1


def test_a_server_that_is_gone(site: Site) -> None:
    site.tunnel.down = 3
    with pytest.raises(PackageError, match="cannot be fetched through router: router: nothing answers") as caught:
        site.get()
    assert "run the same command again" in caught.value.hint
    site.tunnel.down = 2
    assert site.get().is_file()


def test_a_package_that_the_index_does_not_name_is_not_kept(site: Site) -> None:
    other = Package("big", "1.0-r0", hashlib.sha1(b"other").hexdigest(), site.package.size, 0)
    with pytest.raises(PackageError, match="is not the file of"):
        site.downloads.package(REPOSITORY, ARCH, other, lambda _: None)
    assert not [path for path in site.folder.iterdir() if path.is_file()]


def test_a_server_that_sends_too_much_is_stopped(site: Site) -> None:
    small = Package("big", "1.0-r0", site.package.checksum, 1000, 0)
    with pytest.raises(PackageError, match="more than the 1000 bytes"):
        site.downloads.package(REPOSITORY, ARCH, small, lambda _: None)


def test_a_file_that_is_not_there(site: Site) -> None:
    gone = Package("gone", "1.0-r0", "0" * 40, 10, 0)
    with pytest.raises(PackageError, match="the server says 404"):
        site.downloads.package(REPOSITORY, ARCH, gone, lambda _: None)


def test_old_packages_go_when_there_are_too_many(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site.get()
    old = site.folder / f"old-1.{'0' * 40}.apk"
    old.write_bytes(b"x" * 1000)
    os.utime(old, (0, 0))
    monkeypatch.setattr("tower.install.fetch._MOST_KEPT", site.package.size + 10)
    site.downloads.tidy()
    assert (path.exists(), old.exists()) == (True, False)
