# SPDX-License-Identifier: Apache-2.0
"""A channel whose mirror publishes format 3: locked, fetched, verified and laid out by the same code as one of format 2."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import Signer
from pipeline.base.canonical import digest_bytes
from pipeline.base.errors import ConfigError, FactoryError, FetchError, VerifyError
from pipeline.channels.alpine.settings import read_settings
from pipeline.supply.lockfile import render
from tests.unit.alpine.test_lock import kept, laid, names
from tests.unit.alpine.upstream import ARCHES, BRANCH, COMMIT, MADE, Upstream, as_third
from tests.unit.mirror import Quiet

INDEX = "Packages.adb"


@pytest.fixture
def third(upstream: Upstream) -> Upstream:
    """The same mirror, in format 3."""
    upstream.third = True
    upstream.files.clear()
    upstream.add("main", "app", depend="so:lib.so")
    upstream.add("main", "lib", provides="so:lib.so=1")
    upstream.add("main", "tool", depend="lib")
    upstream.add("community", "more")
    upstream.publish()
    return upstream


def test_a_lock_names_what_the_mirror_has(third: Upstream, checkout_path: Path) -> None:
    """Packages by the SHA-256 of their metadata in the index, and of their files; indexes with the time of their builds."""
    driver = third.driver(checkout_path)
    lock = kept(driver)
    assert {arch: names(files) for arch, files in lock.packages.items()} == {
        arch: ["app-1.0-r0", "lib-1.0-r0"] for arch in ARCHES
    }
    assert names(lock.builder) == ["lib-1.0-r0", "tool-1.0-r0"]
    app = lock.packages["aarch64"][0]
    data = third.files["main", "aarch64"]["app-1.0-r0.apk"]
    assert data.startswith(b"ADBd")
    assert (app.sha256, app.size, app.signer) == (digest_bytes(data), len(data), "two.rsa.pub")
    assert app.checksum.startswith("Q2")
    assert [(index.name, index.made, index.signer, index.location) for index in lock.indexes["x86_64"]] == [
        (name, MADE, "one.rsa.pub", f"{BRANCH}/{name}/x86_64/{INDEX}") for name in ("main", "community")
    ]
    assert f"aports-scripts-{COMMIT}" in names(lock.media)
    third.mirror.asked.clear()
    again = kept(third.driver(checkout_path))
    assert render(again) == render(lock)
    assert not [path for path in third.mirror.paths if path.endswith(".apk")], "what is locked is not fetched again"


def test_the_format_is_part_of_the_lock(third: Upstream, checkout_path: Path) -> None:
    key = third.driver(checkout_path).lock_key()
    third.third = False
    assert third.driver(checkout_path).lock_key() != key


def test_the_repository_has_the_same_bytes(third: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    """From the vault alone: indexes and packages as the mirror had them, where apk looks for them."""
    driver = third.driver(checkout_path)
    lock = kept(driver)
    driver.fetch(lock, Quiet())
    index = {name: third.index(name, "x86_64") for name in ("main", "community")}
    third.mirror.files.clear()
    out = laid(driver, lock, tmp_path / "out") / BRANCH
    files = third.files["main", "x86_64"]
    assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == {
        f"main/x86_64/{INDEX}": index["main"],
        f"community/x86_64/{INDEX}": index["community"],
        "main/x86_64/app-1.0-r0.apk": files["app-1.0-r0.apk"],
        "main/x86_64/lib-1.0-r0.apk": files["lib-1.0-r0.apk"],
    }


def test_a_package_for_all_architectures(third: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    """The index calls it `noarch`, so that apk looks in the folder of that name: the mirror has it there, and so do we."""
    third.add("main", "app", depend="so:lib.so", arch="x86_64", listed="noarch")
    third.publish()
    place = f"{BRANCH}/main/noarch/app-1.0-r0.apk"
    assert f"/{place}" in third.mirror.files
    driver = third.driver(checkout_path)
    lock = kept(driver)
    driver.fetch(lock, Quiet())
    assert lock.packages["x86_64"][0].location == place
    assert lock.packages["aarch64"][0].location == f"{BRANCH}/main/aarch64/app-1.0-r0.apk"
    for arch, folder in (("x86_64", "noarch"), ("aarch64", "aarch64")):
        out = laid(driver, lock, tmp_path / arch, arch) / BRANCH / "main"
        found = {str(path.relative_to(out)) for path in out.rglob("*.apk")}
        assert found == {f"{folder}/app-1.0-r0.apk", f"{arch}/lib-1.0-r0.apk"}


def test_an_old_index_played_back(third: Upstream, checkout_path: Path) -> None:
    """An index with none of the later builds is older."""
    old = dict(third.mirror.files)
    third.made += 1000
    third.add("main", "app", "1.1-r0", depend="so:lib.so")
    third.publish()
    kept(third.driver(checkout_path))
    third.mirror.files = old
    with pytest.raises(VerifyError, match=r"index of main for x86_64: made .* older than the one accepted before"):
        third.driver(checkout_path).lock(Quiet())
    third.driver(checkout_path).lock(Quiet(), accept_older=True)


def test_an_index_from_the_future(third: Upstream, checkout_path: Path) -> None:
    third.add("main", "app", "1.1-r0", depend="so:lib.so", builddate=str(1 << 33))
    third.publish()
    with pytest.raises(VerifyError, match="but this machine's clock says"):
        third.driver(checkout_path).lock(Quiet())


def swapped(third: Upstream) -> bytes:
    """Another package in the place of the right one, by the right key."""
    return third.files["main", "x86_64"]["lib-1.0-r0.apk"]


def renamed(third: Upstream) -> bytes:
    """A package of the same name and version, signed by the right key, that the index does not list."""
    good = third.files["main", "x86_64"]["app-1.0-r0.apk"]
    third.add("main", "app", depend="so:lib.so", text="other", arch="x86_64")
    return third.files["main", "x86_64"].pop("app-1.0-r0.apk") if good else b""


def flipped(third: Upstream) -> bytes:
    """One bit of its data."""
    good = bytearray(third.files["main", "x86_64"]["app-1.0-r0.apk"])
    good[-9] ^= 4
    return bytes(good)


def strangers(third: Upstream) -> bytes:
    """The same package, signed by a key that nobody trusts."""
    data = third.files["main", "x86_64"]["app-1.0-r0.apk"]
    return as_third(data, third.signers["stranger"])


def unsigned(third: Upstream) -> bytes:
    """The same package without a signature."""
    no_signer: Signer | None = None
    return as_third(third.files["main", "x86_64"]["app-1.0-r0.apk"], no_signer)  # type: ignore[arg-type]


def longer(third: Upstream) -> bytes:
    """With something behind it."""
    return third.files["main", "x86_64"]["app-1.0-r0.apk"] + bytes(8)


@pytest.mark.parametrize("change", [swapped, renamed, flipped, strangers, unsigned, longer])
def test_refused_packages_and_indexes(third: Upstream, checkout_path: Path, change: Callable[[Upstream], bytes]) -> None:
    """Whatever the mirror serves in the place of a package: no lock is made, and nothing of it is in the vault."""
    place = f"/{BRANCH}/main/x86_64/app-1.0-r0.apk"
    good = third.mirror.files[place]
    third.mirror.files[place] = change(third)
    assert third.mirror.files[place] != good
    driver = third.driver(checkout_path)
    with pytest.raises(FactoryError, match=r"app-1\.0-r0\.apk") as caught:
        driver.lock(Quiet())
    assert isinstance(caught.value, (FetchError, VerifyError))
    if change is not swapped:  # that one is right in its own place
        assert digest_bytes(third.mirror.files[place]) not in {path.name for path in driver.vault.folder.rglob("*")}


def test_a_bit_that_changes_no_content_is_found_by_the_lock(third: Upstream, checkout_path: Path) -> None:
    """In a large packed package, such a bit is not found by its signature and digests; the lock has the SHA-256 of the file."""
    third.add("main", "app", depend="so:lib.so", text=("hello world, this is text\n" * 40 + "0123456789" * 30 + "hello\n") * 60)
    third.publish()
    lock = kept(third.driver(checkout_path))
    place = f"/{BRANCH}/main/x86_64/app-1.0-r0.apk"
    good = third.mirror.files[place]
    bad = next(filter(verifies, flips(good)))
    third.mirror.files[place] = bad
    driver = third.driver(checkout_path)
    shutil.rmtree(driver.vault.folder)
    with pytest.raises(VerifyError, match=rf"app-1\.0-r0\.apk: .*sha256 is {digest_bytes(bad)}, the lock says"):
        driver.fetch(lock, Quiet())
    assert digest_bytes(bad) not in {path.name for path in driver.vault.folder.rglob("*")}
    third.mirror.files[place] = good
    driver.fetch(lock, Quiet())


def flips(data: bytes) -> Iterator[bytes]:
    """The file with each of its bits changed in turn."""
    for bit in range(8 * len(data)):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        yield bytes(bad)


def verifies(data: bytes) -> bool:
    try:
        read_package(io.BytesIO(data), None).verify_data()
    except VerifyError:
        return False
    return True


def test_an_index_by_a_stranger(third: Upstream, checkout_path: Path) -> None:
    third.mirror.files[f"/{BRANCH}/main/x86_64/{INDEX}"] = third.index("main", "x86_64", third.signers["stranger"])
    with pytest.raises(FactoryError, match="no valid signature by a trusted key"):
        third.driver(checkout_path).lock(Quiet())


def test_an_edited_lock(third: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    """A lock that names other bytes, or another checksum, brings nothing in."""
    driver = third.driver(checkout_path)
    lock = kept(driver)
    driver.fetch(lock, Quiet())
    app, lib = lock.packages["x86_64"]
    for number, edited in enumerate((replace(app, checksum=lib.checksum), replace(app, sha256=lib.sha256, size=lib.size))):
        changed = replace(lock, packages={**lock.packages, "x86_64": (edited, lib)})
        with pytest.raises(FactoryError):
            laid(driver, changed, tmp_path / f"out-{number}")


@pytest.mark.parametrize("value", [1, 4, 30])
def test_other_formats_are_no_setting(third: Upstream, checkout_path: Path, value: int) -> None:
    channel = third.driver(checkout_path).channel
    channel = replace(channel, settings={**channel.settings, "apk_format": value})
    with pytest.raises(ConfigError, match=r"settings\.apk_format: must be one of 2, 3"):
        read_settings(channel)


def test_a_mirror_of_the_other_format(third: Upstream, checkout_path: Path) -> None:
    """The index is looked for under the name of the channel's format."""
    third.third = False
    with pytest.raises(FetchError, match=r"APKINDEX\.tar\.gz"):
        third.driver(checkout_path).lock(Quiet())
    assert io.BytesIO(third.mirror.files[f"/{BRANCH}/main/x86_64/{INDEX}"]).read(3) == b"ADB"
