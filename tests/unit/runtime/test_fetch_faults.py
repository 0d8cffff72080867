# SPDX-License-Identifier: Apache-2.0
"""What servers and networks do wrong to the downloads of `tower install`, by real HTTP and HTTPS; and changed caches."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from tower.base.errors import PackageError
from tower.base.patience import Patience
from tower.install.apkindex import Index, Package, read_index
from tower.install.bundle_fetch import fetch_all
from tower.install.bundle_install import _checked
from tower.install.fetch import Downloads
from tower.install.repository import Repository
from tower.ssh.way import Way

from pipeline.apk.format.index import read_index as read_signed
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing
from pipeline.base.errors import VerifyError
from tests.network.mirror import ARCH, KEY, Made, Mirror
from tests.unit.servers import NAME, PAGE, Authority, Server, harmless, head, make_authority, ranges, says, served, well, wrong

SERVED: dict[str, bytes] = {}
"""The files of a repository by name; made once."""


@pytest.fixture(scope="module", autouse=True)
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    mirror = Mirror(tmp_path_factory.mktemp("site"))
    mirror.publish({"big": Made(size=40_000), "small": Made(size=3000)}, made=1_700_000_000)
    folder = mirror.folder / "main" / ARCH
    SERVED.update({path.name: path.read_bytes() for path in folder.iterdir()})
    SERVED[KEY] = mirror.public_key.encode() if isinstance(mirror.public_key, str) else mirror.public_key
    yield folder
    SERVED.clear()


BIG, INDEX = "big-1.0-r0.apk", "APKINDEX.tar.gz"


@dataclass
class Tunnel:
    """Stands where the connection to the router is: each server's name leads to a port of this machine."""

    ports: dict[tuple[str, int], int]
    host: Any = field(default_factory=lambda: type("Host", (), {"name": "router"}))

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[int]:
        yield self.ports[target, port]


@contextmanager
def downloads_from(folder: Path, *servers: Server, said: list[str] | None = None) -> Iterator[tuple[Downloads, Repository]]:
    """Downloads from the first server, which is called NAME; a second one is that of the other scheme."""
    ports = {(NAME, 443 if server.scheme == "https" else 80): server.port for server in servers}
    way = Way(cast(Any, Tunnel(ports)))
    first = servers[0]
    with contextlib.closing(way):
        repository = Repository(first.scheme, NAME, 443 if first.scheme == "https" else 80, "/main", "")
        report = said.append if said is not None else (lambda _: None)
        yield Downloads(folder, way, lambda _: None, patience=Patience(0.2, 1000), report=report), repository


def serving(files: dict[str, Callable[[Any], Iterator[bytes]]]) -> Callable[[Any], Iterator[bytes]]:
    """Each file in its own way; the others well."""

    def act(asked: Any) -> Iterator[bytes]:
        name = asked.path.partition("?")[0].rpartition("/")[2]
        return files[name](asked) if name in files else well(SERVED[name])(asked)

    return act


def package(name: str = "big", tmp: Path | None = None) -> Package:
    assert tmp is not None
    (tmp / INDEX).write_bytes(SERVED[INDEX])
    return read_index(tmp / INDEX).packages[name, "1.0-r0"]


def fetched(folder: Path, server: Server, wanted: Package, start: bytes = b"") -> bytes:
    with downloads_from(folder, server) as (downloads, repository):
        if start:
            downloads.place(wanted).with_suffix(".part").write_bytes(start)
        return downloads.package(repository, ARCH, wanted, lambda _: None).read_bytes()


WRONG = list(wrong(b"x" * 100))
TEXTS = {
    "a page": r"a web page \(text/html\)",
    "a page without a length": "a web page",
    "a page in chunks": "a web page",
    "less than it said": r"\d+ bytes are missing",
    "more than it said and than there is": "more than the",
    "more, in chunks": "more than the",
    "status 500": "says 500 Oops",
    "status 401": "says 401",
    "a circle": "redirects in circles",
    "a redirect to a file": "which tower does not follow",
    "a redirect to nowhere": "",
    "dripping headers": "too slow: less than 1000 bytes",
    "dripping bytes": "too slow",
    "dripping chunks": "too slow",
    "a dripping chunk's size": "too slow",
    "silence": "too slow",
    "silence after the headers": "too slow",
    "silence half way": "too slow",
}


@pytest.mark.parametrize("how", WRONG)
def test_a_package_is_right_or_refused(tmp_path: Path, how: str) -> None:
    """The address is named, with what came; nothing of it is kept as the package, and the next try is not spoilt."""
    act, _ = wrong(SERVED[BIG])[how]
    wanted = package(tmp=tmp_path)
    with served(serving({BIG: act})) as server:
        if how in ("other bytes", "a length that is none"):
            return  # the content is verified with the host's keys: below; and without a length it is right
        with pytest.raises(PackageError) as caught:
            fetched(tmp_path / "cache", server, wanted)
        assert caught.value.message.startswith(f"http://{NAME}/main/{ARCH}/{BIG}: ")
        assert re.search(TEXTS.get(how, ""), caught.value.message), caught.value.message
        server.act = serving({})
        with downloads_from(tmp_path / "cache", server) as (downloads, repository):
            files = fetch_all([job(repository, wanted)], downloads, cast(Any, Viewed()))
        assert files[wanted.checksum].read_bytes() == SERVED[BIG]


@pytest.mark.parametrize("how", WRONG)
def test_an_invalid_index_replaces_no_other(tmp_path: Path, how: str) -> None:
    act, _ = wrong(SERVED[INDEX])[how]
    with served(serving({})) as server, downloads_from(tmp_path, server) as (downloads, repository):
        good = downloads.index(repository, ARCH)
        server.act = serving({INDEX: act})
        if how in ("half of it", "less, in chunks", "other bytes", "more, in chunks", "more than it said and than there is"):
            return  # looks like one: the host's keys decide
        if how in ("status 304", "broken off in chunks", "a length that is none"):
            with contextlib.suppress(PackageError):
                downloads.index(repository, ARCH)
        else:
            with pytest.raises(PackageError) as caught:
                downloads.index(repository, ARCH)
            assert caught.value.message.startswith(f"http://{NAME}/main/{ARCH}/{INDEX}: ")
        assert good.read_bytes() == SERVED[INDEX]


@pytest.mark.parametrize("how", list(harmless(b"x")))
def test_the_bytes_are_those_of_the_file(tmp_path: Path, how: str) -> None:
    acts = {name: harmless(SERVED[name])[how] for name in (BIG, INDEX)}
    with served(serving(acts)) as server:
        assert fetched(tmp_path, server, package(tmp=tmp_path)) == SERVED[BIG]
        with downloads_from(tmp_path, server) as (downloads, repository):
            assert downloads.index(repository, ARCH).read_bytes() == SERVED[INDEX]


@pytest.mark.parametrize("how", list(ranges(b"x" * 100)))
def test_going_on_where_it_broke_off(tmp_path: Path, how: str) -> None:
    """Whatever the server makes of a range: in the end the file is right."""
    with served(serving({BIG: ranges(SERVED[BIG])[how]})) as server:
        wanted = package(tmp=tmp_path)
        assert fetched(tmp_path, server, wanted, start=SERVED[BIG][:1000]) == SERVED[BIG]
        assert server.asked[0].start == 1000


@pytest.mark.parametrize("junk", [PAGE, b"x" * 30_000])
def test_a_wrong_partial_download_is_discarded(tmp_path: Path, junk: bytes) -> None:
    with served(serving({})) as server:
        assert fetched(tmp_path, server, package(tmp=tmp_path), start=junk) == SERVED[BIG]
        assert [one.start for one in server.asked] == [len(junk), 0]


# --- https ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    return authority


@pytest.mark.parametrize("how", ["", "a page", "less than it said", "dripping bytes", "dripping headers", "silence half way"])
def test_by_https(tmp_path: Path, trusted: Authority, how: str) -> None:
    act = serving({BIG: wrong(SERVED[BIG])[how][0]} if how else {})
    with served(act, trusted.server) as server:
        if not how:
            assert fetched(tmp_path, server, package(tmp=tmp_path)) == SERVED[BIG]
            return
        with pytest.raises(PackageError, match=TEXTS[how]) as caught:
            fetched(tmp_path, server, package(tmp=tmp_path))
        assert caught.value.message.startswith(f"https://{NAME}/main/{ARCH}/{BIG}: ")


def test_a_certificate_that_nobody_trusts(tmp_path: Path, trusted: Authority) -> None:
    other = make_authority(tmp_path / "other")
    with served(serving({}), other.server) as server:
        with pytest.raises(PackageError, match="certificate"):
            fetched(tmp_path / "cache", server, package(tmp=tmp_path))
        assert not server.asked


def led_to(scheme: str) -> Callable[[Any], Iterator[bytes]]:
    return says(head("302 Found", Location=f"{scheme}://{NAME}/main/{ARCH}/{BIG}", Content_Length=0))


def test_redirects_between_http_and_https(tmp_path: Path, trusted: Authority) -> None:
    """From http to https we go; from https to http never, and nothing is asked there."""
    wanted = package(tmp=tmp_path)
    with served(serving({}), trusted.server) as safe, served(led_to("https")) as here:
        with downloads_from(tmp_path / "one", here, safe) as (downloads, repository):
            assert downloads.package(repository, ARCH, wanted, lambda _: None).read_bytes() == SERVED[BIG]
        assert safe.asked
    with served(serving({})) as plain, served(led_to("http"), trusted.server) as here:
        with (
            downloads_from(tmp_path / "two", here, plain) as (downloads, repository),
            pytest.raises(PackageError, match="which tower does not follow"),
        ):
            downloads.package(repository, ARCH, wanted, lambda _: None)
        assert not plain.asked


# --- what was changed in the cache ----------------------------------------------------------------------------


@dataclass
class Copy:
    """Where the copy of a host is: it verifies with the host's keys; the real one asks `apk verify`."""

    ring: KeyRing

    def check_index(self, number: int, index: Path, known: dict[str, Index]) -> Index:
        try:
            with index.open("rb") as stream:
                read_signed(stream, self.ring)
        except VerifyError as error:
            raise PackageError(f"its index is not signed: {error.message}") from error
        return read_index(index)

    def check_packages(self, paths: Sequence[Path]) -> None:
        for path in paths:
            try:
                with path.open("rb") as stream:
                    read_package(stream, self.ring).verify_data()
            except VerifyError as error:
                raise PackageError(f"a package was changed: {path.name}") from error


@dataclass
class Viewed:
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, _text: str) -> Any:
        return nullcontext()

    def bar(self, _text: str, _total: int) -> Any:
        return nullcontext(lambda _: None)


def job(repository: Repository, *packages: Package) -> Any:
    """A host that needs these packages."""
    state = type("State", (), {"repositories": [repository], "arch": ARCH, "keys": {}})
    choice = type("Choice", (), {"packages": tuple((0, one) for one in packages)})
    return type("Job", (), {"copy": Copy(KeyRing({KEY: SERVED[KEY]})), "state": state, "choice": choice})


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)


def test_a_package_that_was_changed_in_the_cache(tmp_path: Path) -> None:
    big, small, view = package(tmp=tmp_path), package("small", tmp_path), Viewed()
    with served(serving({})) as server, downloads_from(tmp_path / "cache", server) as (downloads, repository):
        wanted = job(repository, big, small)
        files = fetch_all([wanted], downloads, cast(Any, view))
        flip(files[big.checksum])
        assert downloads.has(big), "its head says nothing of its content"
        again = fetch_all([wanted], downloads, cast(Any, view))
        assert again[big.checksum].read_bytes() == SERVED[BIG]
        assert [line for line in view.said if "fetched again" in line] == view.said
        assert len(view.said) == 1
        # What the server itself has changed is refused, and not fetched over and over.
        files[big.checksum].unlink()
        bad = bytearray(SERVED[BIG])
        bad[-300] ^= 1
        server.act, before = serving({BIG: well(bytes(bad))}), len(server.asked)
        with pytest.raises(PackageError, match="a package was changed"):
            fetch_all([wanted], downloads, cast(Any, view))
        assert len(server.asked) - before <= 3


def test_an_index_that_was_changed_in_the_cache(tmp_path: Path) -> None:
    """The server says that there are no news of it; it is fetched again once, and said."""
    said: list[str] = []

    def act(asked: Any) -> Iterator[bytes]:
        if "If-None-Match" in asked.headers:
            return says(head("304 Not Modified"))(asked)
        data = SERVED[INDEX]
        return says(head(Content_Length=len(data), ETag='"1"'), data)(asked)

    with served(act) as server, downloads_from(tmp_path, server, said=said) as (downloads, repository):
        one = job(repository)
        path = downloads.index(repository, ARCH)
        assert _checked(one, 0, path, downloads, {}).packages
        assert downloads.index(repository, ARCH) == path
        assert _checked(one, 0, path, downloads, {}).packages
        assert not said
        flip(path)
        assert downloads.index(repository, ARCH) == path
        assert _checked(one, 0, path, downloads, {}).packages
        assert path.read_bytes() == SERVED[INDEX]
        assert len(said) == 1
        assert "it is fetched again" in said[0]
        # Fresh from the server, it is refused.
        changed = bytearray(SERVED[INDEX])
        changed[-300] ^= 1
        server.act = says(head(Content_Length=len(changed)), bytes(changed))
        downloads.forget_index(path)
        with pytest.raises(PackageError, match="not signed"):
            _checked(one, 0, downloads.index(repository, ARCH), downloads, {})
