# SPDX-License-Identifier: Apache-2.0
"""What mirrors and networks do wrong, by real HTTP and HTTPS: the address is named, the next mirror asked, the bytes right."""

from __future__ import annotations

import gzip
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tower.base.patience import Patience

from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import FactoryError, FetchError, VerifyError
from pipeline.supply import fetch as module
from pipeline.supply import web
from pipeline.supply.fetch import Mirrors, VanishedError, fetch, get, get_checked
from pipeline.supply.lock import LockedFile
from pipeline.supply.vault import Vault
from tests.unit.mirror import Quiet
from tests.unit.servers import (
    PAGE,
    Authority,
    Server,
    dripping,
    harmless,
    head,
    make_authority,
    ranges,
    says,
    served,
    silent,
    well,
    wrong,
)

CONTENT = gzip.compress(b"signature" * 50, mtime=0) + gzip.compress(random.Random(1).randbytes(40_000), mtime=0)
FILE = LockedFile("busybox", "1.36", digest_bytes(CONTENT), len(CONTENT), "v3.24/main/x86_64/busybox-1.36.apk")
INDEX = "v3.24/main/x86_64/APKINDEX.tar.gz"
WRONG, HARMLESS, RANGES = wrong(CONTENT), harmless(CONTENT), ranges(CONTENT)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BACK_OFF", 0.001)
    monkeypatch.setattr(web, "_TIMEOUT", (5, 5))
    monkeypatch.setattr(web, "Patience", lambda: Patience(0.2, 1000))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.certificate))
    return authority


@pytest.fixture
def good() -> Iterator[Server]:
    with served(well(CONTENT)) as server:
        yield server


def bring(folder: Path, *servers: Server, start: bytes = b"") -> Quiet:
    """Fetch the file; `start` is what came of it before."""
    quiet, vault = Quiet(), Vault(folder)
    if start:
        vault.untrusted(FILE).parent.mkdir(parents=True, exist_ok=True)
        vault.untrusted(FILE).write_bytes(start)
    fetch([FILE], vault, Mirrors(tuple(server.address for server in servers)), quiet, title="files")
    assert vault.read(FILE) == CONTENT
    assert quiet.made.moved == len(CONTENT)
    return quiet


def verified(data: bytes) -> bytes:
    """As a signed index is: what is not the file is refused."""
    if data != CONTENT:
        raise VerifyError(f"not signed: sha256 {digest_bytes(data)[:8]}")
    return data


# --- whole files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", WRONG)
def test_the_next_mirror_is_asked(tmp_path: Path, good: Server, how: str) -> None:
    act, words = WRONG[how]
    with served(act) as bad:
        quiet = bring(tmp_path, bad, good)
        (said,) = quiet.said
        assert said.startswith(f"{bad.address}/{FILE.location}: ")
        assert re.search(words, said), said
        assert get_checked(Mirrors((bad.address, good.address)), INDEX, limit=1 << 20, check=verified) == CONTENT


@pytest.mark.parametrize("how", WRONG)
def test_with_no_other_mirror_the_address_is_named(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    act, words = WRONG[how]
    monkeypatch.setattr("pipeline.supply.download.TRIES", 2)
    monkeypatch.setattr(module, "TRIES", 2)
    vault = Vault(tmp_path)
    with served(act) as bad:
        source = Mirrors((bad.address,))
        with pytest.raises((FetchError, VerifyError)) as caught:
            fetch([FILE], vault, source, Quiet(), title="files")
        assert f"{bad.address}/{FILE.location}: " in caught.value.message
        assert re.search(words, caught.value.message), caught.value.message
        assert caught.value.hint
        with pytest.raises((FetchError, VerifyError)) as caught:
            get_checked(source, INDEX, limit=len(CONTENT) + 8, check=verified)
        assert f"{bad.address}/{INDEX}: " in caught.value.message
    assert not vault.path(FILE).exists()


@pytest.mark.parametrize("how", HARMLESS)
def test_the_bytes_are_those_of_the_file(tmp_path: Path, how: str) -> None:
    """Whatever the server calls them: of a file that gzip has packed, `gzip` is what it is, and not what was done to it."""
    with served(HARMLESS[how]) as server:
        assert not bring(tmp_path, server).said
        assert get(Mirrors((server.address,)), INDEX, limit=1 << 20) == CONTENT


def test_a_file_that_was_compressed_on_the_way_is_refused(good: Server) -> None:
    """A list in plain text that comes packed, although nobody asked for it: neither unpacked nor believed."""
    text = b"- flavor: alpine-minirootfs\n"
    packed = gzip.compress(text)
    with served(says(head(Content_Encoding="gzip", Content_Length=len(packed)), packed)) as bad, served(well(text)) as other:
        name = "v3.24/releases/x86_64/latest-releases.yaml"
        assert get(Mirrors((bad.address, other.address)), name, limit=999) == text
        with pytest.raises(FetchError, match="gzip-encoded, which was not asked for"):
            get(Mirrors((bad.address,)), name, limit=999)


# --- what was begun -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", RANGES)
def test_going_on_where_it_broke_off(tmp_path: Path, how: str) -> None:
    """One mirror alone, whatever it makes of a range: in the end the file is right."""
    with served(RANGES[how]) as server:
        bring(tmp_path, server, start=CONTENT[:1000])
        assert 1 <= len(server.asked) <= 5
        assert server.asked[0].start == 1000


@pytest.mark.parametrize("junk", [PAGE, CONTENT[:999] + b"!", bytes(len(CONTENT)), bytes(len(CONTENT) + 1)])
def test_a_wrong_partial_download_is_discarded(tmp_path: Path, good: Server, junk: bytes) -> None:
    bring(tmp_path, good, start=junk)
    assert len(good.asked) <= 2
    assert good.asked[-1].start == 0


def test_the_page_of_one_mirror_spoils_no_other(tmp_path: Path, good: Server) -> None:
    """Without a length nobody knows that it is whole; the rest of the file is asked of the next, and then all of it."""
    with served(says(head(Content_Type="text/html"), PAGE)) as hotel:
        bring(tmp_path, hotel, good)
        assert [one.start for one in good.asked] == [len(PAGE), 0]


# --- several --------------------------------------------------------------------------------------------------


def test_the_error_names_the_fault_of_each_mirror(tmp_path: Path) -> None:
    acts = {
        "web page": WRONG["a page"][0],
        "status 500": WRONG["status 500"][0],
        "does not have it": says(head("404 Not Found", Content_Length=0)),
        "too slow": dripping(head(Content_Length=len(CONTENT))),
    }
    with ExitStack() as stack:
        servers = {words: stack.enter_context(served(act)) for words, act in acts.items()}
        source = Mirrors(tuple(server.address for server in servers.values()), vanished="lock again")
        with pytest.raises(FetchError) as caught:
            fetch([FILE], Vault(tmp_path), source, Quiet(), title="files")
        for error, location in ((caught.value, FILE.location),):
            lines = error.message.splitlines()
            assert "no mirror sends it" in lines[0]
            for (words, server), line in zip(servers.items(), lines[1:], strict=True):
                assert line.strip().startswith(f"{server.address}/{location}: ")
                assert words in line
            assert "log in to it" in error.hint
        with pytest.raises(FetchError) as small:
            get_checked(source, "x", limit=1 << 20, check=verified)
        assert all(server.address in small.value.message for server in servers.values())


def test_a_file_is_gone_only_if_all_mirrors_say_so(tmp_path: Path) -> None:
    gone = says(head("404 Not Found", Content_Length=0))
    with served(gone) as one, served(gone) as two, served(WRONG["status 500"][0]) as ill:
        with pytest.raises(VanishedError):
            get(Mirrors((one.address, two.address)), "x", limit=9)
        with pytest.raises(FetchError) as caught:
            get(Mirrors((one.address, ill.address)), "x", limit=9)
        assert not isinstance(caught.value, VanishedError)
        with pytest.raises(FetchError) as caught:
            fetch([FILE], Vault(tmp_path), Mirrors((one.address, ill.address)), Quiet(), title="files")
        assert not isinstance(caught.value, VanishedError)
        assert len(one.asked) <= 4


def test_a_mirror_that_refuses_is_asked_once(tmp_path: Path, good: Server) -> None:
    files = [LockedFile(f"p{number}", "1", digest_bytes(CONTENT), len(CONTENT), f"p{number}.apk") for number in range(1)]
    with served(WRONG["a page"][0]) as hotel, served(WRONG["status 401"][0]) as closed:
        quiet = Quiet()
        fetch(files, Vault(tmp_path), Mirrors((hotel.address, closed.address, good.address)), quiet, title="files")
        assert (len(hotel.asked), len(closed.asked), len(quiet.said)) == (1, 1, 2)


def test_an_interruption_waits_for_no_server(tmp_path: Path, good: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another download failed for good, and one hangs in silence: it is ended at once."""
    monkeypatch.setattr(web, "Patience", lambda: Patience(60, 1000))
    monkeypatch.setattr(web, "_TIMEOUT", (60, 60))
    began, reached = time.monotonic(), threading.Event()

    def hangs(asked: object) -> Iterator[bytes]:
        reached.set()
        return silent(head(Content_Length=len(CONTENT)))(asked)  # type: ignore[arg-type]

    class Broken(Vault):
        def accept(self, file: LockedFile) -> None:
            assert reached.wait(20)
            raise OSError(28, "No space left on device")

    with served(lambda asked: hangs(asked) if "hangs" in asked.path else well(CONTENT)(asked)) as server:
        files = [LockedFile("a", "1", FILE.sha256, FILE.size, "a.apk"), LockedFile("b", "1", digest_bytes(b""), 9, "hangs.apk")]
        with pytest.raises(OSError, match="No space left"):
            fetch(files, Broken(tmp_path), Mirrors((server.address,)), Quiet(), title="files")
    assert time.monotonic() - began < 20


# --- https ----------------------------------------------------------------------------------------------------


def test_by_https(tmp_path: Path, trusted: Authority) -> None:
    with served(well(CONTENT), trusted.server) as server:
        assert server.address.startswith("https:")
        bring(tmp_path, server)
        assert get(Mirrors((server.address,)), INDEX, limit=1 << 20) == CONTENT


@pytest.mark.parametrize("how", ["a page", "less than it said", "dripping bytes", "dripping headers", "silence half way"])
def test_faults_over_https_are_named_as_without(tmp_path: Path, trusted: Authority, how: str) -> None:
    act, words = WRONG[how]
    with served(act, trusted.server) as bad, served(well(CONTENT), trusted.server) as good:
        (said,) = bring(tmp_path, bad, good).said
        assert re.search(words, said), said


def test_a_certificate_that_nobody_trusts(tmp_path: Path, trusted: Authority, good: Server) -> None:
    other = make_authority(tmp_path / "other")
    with served(well(CONTENT), other.server) as bad:
        (said,) = bring(tmp_path / "vault", bad, good).said
        assert "certificate is not valid" in said
        with pytest.raises(FetchError, match="certificate is not valid"):
            get(Mirrors((bad.address,)), INDEX, limit=1 << 20)
        assert not bad.asked


def led_to(address: str) -> bytes:
    return head("302 Found", Location=f"{address}/elsewhere", Content_Length=0)


def test_from_http_to_https(tmp_path: Path, trusted: Authority) -> None:
    with served(well(CONTENT), trusted.server) as there, served(says(led_to(there.address))) as here:
        bring(tmp_path, here, start=CONTENT[:100])
        assert [one.path for one in there.asked] == ["/elsewhere"]
        assert there.asked[0].start == 100


@pytest.mark.parametrize("hops", [0, 1])
def test_from_https_to_http_is_refused(tmp_path: Path, trusted: Authority, good: Server, hops: int) -> None:
    """Nor by way of another https address; nothing is asked there."""
    with ExitStack() as stack:
        last = bad = stack.enter_context(served(says(led_to(good.address)), trusted.server))
        if hops:
            bad = stack.enter_context(served(says(led_to(last.address)), trusted.server))
        with pytest.raises(FetchError, match="which is not https") as caught:
            get(Mirrors((bad.address,)), INDEX, limit=1 << 20)
        assert bad.address in caught.value.message
        assert not good.asked
        with pytest.raises(FactoryError, match="which is not https"):
            fetch([FILE], Vault(tmp_path), Mirrors((bad.address,)), Quiet(), title="files")
        assert not good.asked
        assert len(bad.asked) == 2, "it is asked once for each"


def test_a_redirect_to_the_page_of_a_network(tmp_path: Path, good: Server) -> None:
    with served(WRONG["a page"][0]) as hotel, served(says(led_to(hotel.address))) as here:
        (said,) = bring(tmp_path, here, good).said
        assert said.startswith(here.address)
        assert "web page" in said
