# SPDX-License-Identifier: Apache-2.0
"""Debian's index as the lab takes it: signed by a key of the keyring, fresh and whole, or not at all.

A small mirror of our own, with a key made here; apt and gpgv are the machine's.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.base.errors import FetchError
from pipeline.channels.lab.apt import Apt, Suite
from tests.unit.mirror import Quiet

PLACE = "main/binary-amd64/Packages"
OLD, NEW = "1.0-1", "2.0-1"


@dataclass
class Mirror:
    """A Debian mirror of one package."""

    folder: Path
    home: Path
    address: str = ""

    @property
    def suite(self) -> Path:
        return self.folder / "debian" / "dists" / "trixie"

    def gpg(self, *words: str) -> None:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--yes", "--passphrase", "", "--pinentry-mode", "loopback", *words]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)

    def make_key(self, name: str) -> Path:
        """A new key; the keyring that holds it."""
        self.gpg("--quick-generate-key", name, "ed25519", "sign", "never")
        ring = self.home.parent / f"{name}.gpg"
        self.gpg("--output", str(ring), "--export", name)
        return ring

    def publish(self, version: str, *, key: str = "debian", days: int = 7) -> None:
        """Lay out an index of this version, signed, and good for so many days."""
        path = self.suite / PLACE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"Package: hello\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
            f"Filename: pool/hello_{version}_amd64.deb\nSize: 10\nSHA256: {'0' * 64}\n\n"
        )
        path.with_name("Packages.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        now = datetime.now(UTC)
        lines = ["Suite: trixie", "Codename: trixie", "Architectures: amd64", "Components: main"]
        lines += [f"{name}: {when:%a, %d %b %Y %H:%M:%S} UTC" for name, when in (("Date", now - timedelta(days=30)),)]
        lines += [f"Valid-Until: {now + timedelta(days=days):%a, %d %b %Y %H:%M:%S} UTC", "SHA256:"]
        for name in (PLACE, f"{PLACE}.gz"):
            data = (self.suite / name).read_bytes()
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
        release = self.suite / "Release"
        release.write_text("\n".join(lines) + "\n")
        self.gpg("--local-user", key, "--output", str(self.suite / "InRelease"), "--clearsign", str(release))

    def flip(self, name: str, at: float) -> None:
        """Flip one bit of a file, at a part of its length."""
        data = bytearray((self.suite / name).read_bytes())
        data[int(len(data) * at)] ^= 1
        (self.suite / name).write_bytes(data)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)
    made = Mirror(tmp_path / "www", home)
    made.folder.mkdir()
    made.make_key("debian")
    made.publish(OLD)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            # Times of files are too coarse for changes that follow each other at once.
            del self.headers["If-Modified-Since"]
            super().do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(made.folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.address = f"http://127.0.0.1:{server.server_port}/debian"
    yield made
    server.shutdown()
    server.server_close()
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)


@pytest.fixture
def apt(mirror: Mirror, tmp_path: Path) -> Apt:
    home = tmp_path / "R&D it's grün, a;b #1 %41 [x] (y) ~ back\\slash a|b=c `id` *?! <^> //"
    return Apt(home, Suite(mirror.address, "trixie", ("main",), tmp_path / "debian.gpg"), "x86_64")


def version(apt: Apt) -> str:
    (row,) = apt.closure(["hello"])
    return row.version


def unsigned(mirror: Mirror) -> None:
    (mirror.suite / "InRelease").unlink()


def by_another(mirror: Mirror) -> None:
    mirror.make_key("other")
    mirror.publish(NEW, key="other")


def flipped(mirror: Mirror) -> None:
    for name in (PLACE, f"{PLACE}.gz"):
        mirror.flip(name, 0.7)


REFUSED: dict[str, Callable[[Mirror], None]] = {
    "a flipped bit in what is signed": lambda mirror: mirror.flip("InRelease", 0.4),
    "a flipped bit in the signature": lambda mirror: mirror.flip("InRelease", 0.9),
    "another key": by_another,
    "no signature": unsigned,
}
NOT_TAKEN: dict[str, Callable[[Mirror], None]] = {
    "a flipped bit in the index": flipped,
    "an index played back after its time": lambda mirror: mirror.publish(NEW, days=-1),
}


def test_a_good_index(mirror: Mirror, apt: Apt) -> None:
    apt.update(Quiet())
    assert version(apt) == OLD
    mirror.publish(NEW)
    apt.update(Quiet())
    assert version(apt) == NEW


@pytest.mark.parametrize("trick", [*REFUSED, *NOT_TAKEN])
def test_a_bad_index_is_never_the_first(mirror: Mirror, apt: Apt, trick: str) -> None:
    {**REFUSED, **NOT_TAKEN}[trick](mirror)
    with pytest.raises(FetchError, match="no verified index of trixie") as caught:
        apt.update(Quiet())
    assert "TOWER_DEBIAN_MIRROR" in caught.value.hint


@pytest.mark.parametrize("trick", REFUSED)
def test_a_bad_signature_is_refused_though_there_was_a_good_one(mirror: Mirror, apt: Apt, trick: str) -> None:
    apt.update(Quiet())
    mirror.publish(NEW)
    REFUSED[trick](mirror)
    with pytest.raises(FetchError, match="no verified index of trixie"):
        apt.update(Quiet())


@pytest.mark.parametrize("trick", NOT_TAKEN)
def test_a_bad_index_is_not_taken_in_place_of_a_good_one(mirror: Mirror, apt: Apt, trick: str) -> None:
    """As with a mirror that is out of reach or half renewed: the verified one of before serves, and that is said."""
    apt.update(Quiet())
    mirror.publish(NEW)
    NOT_TAKEN[trick](mirror)
    progress = Quiet()
    apt.update(progress)
    assert "its index is not valid; locking from the indexes fetched earlier\n  E: " in "\n".join(progress.said)
    assert version(apt) == OLD


def changed(lists: Path) -> None:
    (path,) = lists.glob("*_Packages")
    path.write_text(path.read_text().replace(OLD, "9.9-1"))


CHANGES: dict[str, Callable[[Path], object]] = {
    "an index": changed,
    "an index without a trace": lambda lists: as_before(lists, changed),
    "one more": lambda lists: (lists / "other_dists_trixie_main_binary-amd64_Packages").write_text("Package: more\n"),
    "what is signed": lambda lists: next(lists.glob("*_InRelease")).write_text("Suite: trixie\n"),
    "its record": lambda lists: (lists.parent / "lists.json").write_text("["),
    "its record, for another index": lambda lists: (lists.parent / "lists.json").write_text("{}"),
}


def as_before(lists: Path, change: Callable[[Path], object]) -> None:
    """With the times of before."""
    times = {path: path.stat() for path in lists.iterdir()}
    change(lists)
    for path, info in times.items():
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("there", [True, False])
def test_an_index_that_was_changed_here(mirror: Mirror, apt: Apt, change: str, there: bool) -> None:
    """What apt verified yesterday is not believed today: it is fetched anew, or there is none."""
    apt.update(Quiet())
    assert version(apt) == OLD
    CHANGES[change](apt.root / "lists")
    progress = Quiet()
    if not there:
        mirror.suite.rename(mirror.suite.with_name("gone"))
        with pytest.raises(FetchError, match="no verified index of trixie"):
            apt.update(progress)
    else:
        apt.update(progress)
        assert version(apt) == OLD
        apt.update(Quiet())
    assert ("was changed since apt verified it" in "\n".join(progress.said)) == (change != "its record")


def test_apts_parsed_indexes_are_not_trusted(mirror: Mirror, apt: Apt) -> None:
    """Nor settings that lie where there should be none."""
    apt.update(Quiet())
    assert version(apt) == OLD
    (apt.root / "empty" / "evil.conf").write_text('APT::Get::List-Cleanup "false"; Dir::State::status "/nowhere";\n')
    (apt.root / "empty" / "evil.list").write_text("deb [trusted=yes] http://127.0.0.1:9/ ./\n")
    for name in ("pkgcache.bin", "srcpkgcache.bin", "extended_states"):
        (apt.root / name).write_bytes(b"changed")
    progress = Quiet()
    apt.update(progress)
    assert not progress.said
    assert version(apt) == OLD
    assert not list((apt.root / "empty").iterdir())
