# SPDX-License-Identifier: Apache-2.0
"""The channel end to end, on a mirror of this machine: lock, fetch, repository; and what must not get through."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.apk.format.signature import Signer
from pipeline.apk.solver.pool import IndexFile
from pipeline.apk.solver.solve import Solver
from pipeline.base.canonical import digest_bytes, digest_json, tree_entries
from pipeline.base.errors import ConfigError, FactoryError, FetchError, LockError, VerifyError
from pipeline.channels.alpine.driver import AlpineDriver
from pipeline.channels.alpine.settings import read_settings
from pipeline.supply import lockfile
from pipeline.supply.fetch import VanishedError
from pipeline.supply.lock import Choice, Lock, LockedFile, Worlds
from pipeline.supply.vault import VERIFIED_NS
from tests.unit.alpine.upstream import ARCHES, BRANCH, COMMIT, MADE, MKIMAGE, Upstream
from tests.unit.mirror import Quiet, serving


def kept(driver: AlpineDriver, *, accept_older: bool = False) -> Lock:
    """Lock, and keep the lock as the factory does."""
    made = driver.lock(Quiet(), accept_older=accept_older)
    path = lockfile.lock_path(driver.paths, driver.channel)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lockfile.render(made))
    assert lockfile.read(path, driver.channel) == made
    return made


def names(files: tuple[LockedFile, ...]) -> list[str]:
    return [f"{file.name}-{file.version}" for file in files]


def laid(driver: AlpineDriver, lock: Lock, output: Path, arch: str = "x86_64") -> Path:
    output.mkdir()
    driver.repository(lock, arch, output, io.BytesIO())
    return output


def test_a_lock_names_all_that_a_build_takes(upstream: Upstream, checkout_path: Path) -> None:
    driver = upstream.driver(checkout_path)
    lock = kept(driver)
    assert {arch: names(files) for arch, files in lock.packages.items()} == {
        arch: ["app-1.0-r0", "lib-1.0-r0"] for arch in ARCHES
    }
    assert names(lock.builder) == ["lib-1.0-r0", "tool-1.0-r0"]
    assert names(lock.media) == ["alpine-minirootfs-x86_64-9.9.1", "alpine-rpi-aarch64-9.9.1", f"aports-scripts-{COMMIT}"]
    app = lock.packages["aarch64"][0]
    data = upstream.files["main", "aarch64"]["app-1.0-r0.apk"]
    assert (app.sha256, app.size, app.signer) == (digest_bytes(data), len(data), "two.rsa.pub")
    assert app.location == f"{BRANCH}/main/aarch64/app-1.0-r0.apk"
    assert [(index.name, index.made, index.signer) for index in lock.indexes["x86_64"]] == [
        ("main", MADE, "one.rsa.pub"),
        ("community", MADE, "one.rsa.pub"),
    ]
    assert "127.0.0.1" not in lockfile.render(lock)


def test_a_builder_for_a_second_architecture(upstream: Upstream, checkout_path: Path) -> None:
    """For an engine of that architecture: locked beside the usual one, and a builder of its own."""
    plain = upstream.driver(checkout_path)
    before = kept(plain)
    settings = {**plain.channel.settings, "builder_only": {"aarch64": ["app"]}}
    channel = replace(plain.channel, native_builders=("aarch64",), settings=settings)
    driver = AlpineDriver(channel, read_settings(channel), plain.worlds, plain.paths)
    assert driver.lock_key() != plain.lock_key()
    lock = kept(driver)
    assert names(lock.builder) == ["lib-1.0-r0", "tool-1.0-r0"]
    assert {arch: names(files) for arch, files in lock.native_builders.items()} == {
        "aarch64": ["app-1.0-r0", "lib-1.0-r0", "tool-1.0-r0"]
    }
    assert {file.signer for file in lock.native_builders["aarch64"]} == {"two.rsa.pub"}
    assert lockfile.differences(before, lock) == [
        *(f"aarch64 builder: added {name} 1.0-r0" for name in ("app", "lib", "tool")),
        "medium: added alpine-minirootfs-aarch64 9.9.1",
    ]
    assert set(lock.native_builders["aarch64"]) <= set(lock.files)
    driver.fetch(lock, Quiet())
    assert not driver.vault.missing(lock.native_builders["aarch64"])
    assert driver.builder_key(lock, "aarch64") != driver.builder_key(lock, "x86_64") == plain.builder_key(before, "x86_64")
    with pytest.raises(LockError, match="the lock has no alpine-minirootfs-aarch64"):
        driver.builder_key(before, "aarch64")


def test_the_repository_is_alpines_own_bytes(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    driver = upstream.driver(checkout_path)
    lock = kept(driver)
    driver.fetch(lock, Quiet())
    upstream.mirror.files.clear()  # all is in the vault now
    upstream.mirror.asked.clear()
    driver.fetch(lock, Quiet())
    out = laid(driver, lock, tmp_path / "out")
    found = {path.relative_to(out / BRANCH).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    files = upstream.files["main", "x86_64"]
    assert found == {
        "main/x86_64/APKINDEX.tar.gz": upstream.index("main", "x86_64"),
        "community/x86_64/APKINDEX.tar.gz": upstream.index("community", "x86_64"),
        **{f"main/x86_64/{name}-1.0-r0.apk": files[f"{name}-1.0-r0.apk"] for name in ("app", "lib")},
    }
    assert (driver.aports() / "scripts/mkimage.sh").read_bytes() == MKIMAGE
    assert os.access(driver.aports() / "scripts/mkimage.sh", os.X_OK)
    assert sorted(driver.keys()) == ["one.rsa.pub", "three.rsa.pub", driver.signing_key()[0], "two.rsa.pub"]
    assert not upstream.mirror.asked


def test_a_lock_is_made_without_the_cache_of_parsed_indexes(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    """Its files hold what they were made with, or what somebody made fit: a lock does not ask them."""
    keys = upstream.driver(checkout_path).trust.files(["x86_64"])
    files = [IndexFile(f"{name}/x86_64", upstream.index(name, "x86_64")) for name in ("main", "community")]
    right = kept(upstream.driver(checkout_path))
    assert not (tmp_path / "cache" / "tower" / "solv").exists()
    Solver.load(files, keys, "x86_64")
    for path in (tmp_path / "cache" / "tower" / "solv").iterdir():
        path.write_bytes(b"foreign" + hashlib.sha256(b"foreign").digest())
    assert kept(upstream.driver(checkout_path)) == right


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda scripts: (scripts / "mkimage.sh").write_bytes(MKIMAGE + b"# more\n"),
        lambda scripts: (scripts / "mkimage.sh").chmod(0o644),
        lambda scripts: (scripts / "mkimage.sh").unlink(),
        lambda scripts: (scripts / "mkimg.zz.sh").write_text("more"),
        lambda scripts: os.mkfifo(scripts / "pipe"),
        lambda scripts: as_link(scripts / "mkimage.sh"),
        lambda scripts: as_link(scripts.parent),
        shutil.rmtree,
    ],
)
def test_unpacked_scripts_that_somebody_changed(
    upstream: Upstream, checkout_path: Path, change: Callable[[Path], object]
) -> None:
    """mkimage.sh runs in the build: what is unpacked is held against the locked archive whenever it is used."""
    driver, said = upstream.driver(checkout_path), list[str]()
    driver.report = said.append
    kept(driver)
    scripts = driver.aports() / "scripts"
    before = tree_entries(scripts.parent)
    assert driver.aports() == scripts.parent
    assert not said
    change(scripts)
    assert driver.aports() == scripts.parent
    assert tree_entries(scripts.parent) == before
    assert len(said) == 1
    assert "was changed since it was unpacked" in said[0]
    driver.aports()
    assert len(said) == 1


def test_locking_again_brings_nothing_that_is_known(upstream: Upstream, checkout_path: Path) -> None:
    first = kept(upstream.driver(checkout_path))
    upstream.mirror.asked.clear()
    driver = upstream.driver(checkout_path)
    assert kept(driver) == first
    assert not [path for path in upstream.mirror.paths if path.endswith(".apk")]
    assert driver.lock_key() == first.made_from
    assert upstream.driver(checkout_path, world="app more").lock_key() != first.made_from
    assert upstream.driver(checkout_path, "https://elsewhere.example/alpine").lock_key() == first.made_from


def test_each_stages_world_is_solved_for_itself(upstream: Upstream, checkout_path: Path) -> None:
    upstream.add("community", "rival", depend="!app")
    upstream.publish()
    driver = upstream.driver(checkout_path, world="app rival")
    with pytest.raises(FactoryError, match="a world for x86_64 cannot be had") as caught:
        driver.lock(Quiet())
    assert "rival" in caught.value.message
    driver.worlds = Worlds(dict.fromkeys(ARCHES, (frozenset({"app"}), frozenset({"rival"}))))
    assert names(driver.lock(Quiet()).packages["x86_64"]) == ["app-1.0-r0", "lib-1.0-r0", "rival-1.0-r0"]


def test_the_choice_for_each_world_is_in_the_lock(upstream: Upstream, checkout_path: Path) -> None:
    """Two worlds of an architecture may need other packages for one name; a root gets those of its own world alone."""
    upstream.add("community", "rival", depend="!app")
    upstream.publish()
    driver = upstream.driver(checkout_path)
    driver.worlds = Worlds(dict.fromkeys(ARCHES, (frozenset({"app"}), frozenset({"rival", "lib"}))))
    lock = lockfile.parse(lockfile.render(driver.lock(Quiet())), "lock")
    assert lock.choice("x86_64", {"app"}) == ("app=1.0-r0", "lib=1.0-r0")
    assert lock.choice("x86_64", {"lib", "rival"}) == ("lib=1.0-r0", "rival=1.0-r0")
    with pytest.raises(LockError, match="no choice for x86_64 of the world app, lib"):
        lock.choice("x86_64", {"app", "lib"})
    other = Choice(("app",), ("app=1.0-r0", "rival=1.0-r0"))
    moved = replace(lock, choices={**lock.choices, "x86_64": (other, *lock.choices["x86_64"][1:])})
    assert lockfile.differences(lock, moved) == [
        "x86_64 world app: added rival=1.0-r0",
        "x86_64 world app: removed lib=1.0-r0",
    ]


def test_differences_in_words(upstream: Upstream, checkout_path: Path) -> None:
    first = kept(upstream.driver(checkout_path))
    upstream.signers = {**upstream.signers, "x86_64": upstream.signers["next"]}
    upstream.remove("main", "app-1.0-r0.apk")
    upstream.add("main", "app", "1.1-r0", depend="more")
    upstream.add("main", "tool", depend="lib", text="anew")
    upstream.made += 86400
    upstream.publish()
    second = kept(upstream.driver(checkout_path))
    assert lockfile.differences(first, second) == [
        "aarch64 index: community: made 2023-11-14 22:13 UTC -> 2023-11-15 22:13 UTC",
        "aarch64 index: main: made 2023-11-14 22:13 UTC -> 2023-11-15 22:13 UTC",
        "x86_64 index: community: made 2023-11-14 22:13 UTC -> 2023-11-15 22:13 UTC",
        "x86_64 index: main: made 2023-11-14 22:13 UTC -> 2023-11-15 22:13 UTC",
        "aarch64: upgraded app 1.0-r0 -> 1.1-r0",
        "aarch64: removed lib 1.0-r0",
        "aarch64: added more 1.0-r0",
        "x86_64: upgraded app 1.0-r0 -> 1.1-r0",
        "x86_64: removed lib 1.0-r0",
        "x86_64: added more 1.0-r0",
        "builder: changed tool 1.0-r0: same version, other content",
        "x86_64 index: key changed from one.rsa.pub to three.rsa.pub for community, main",
        "x86_64: key changed from one.rsa.pub to three.rsa.pub for app",
        "builder: key changed from one.rsa.pub to three.rsa.pub for tool",
    ]
    assert lockfile.differences(second, second) == []
    assert lockfile.differences(None, second) == [f"first lock: {len(second.files)} files"]
    back = lockfile.differences(second, first)
    assert "x86_64: downgraded app 1.1-r0 -> 1.0-r0" in back


# --- what must not get through ------------------------------------------------------------------------------


def test_an_old_index_played_back(upstream: Upstream, checkout_path: Path) -> None:
    old = dict(upstream.mirror.files)
    upstream.add("main", "app", "1.1-r0", depend="so:lib.so")
    upstream.made += 1000
    upstream.publish()
    kept(upstream.driver(checkout_path))
    upstream.mirror.files = old
    for remember in ("lock and cache", "cache"):
        driver = upstream.driver(checkout_path)
        with pytest.raises(VerifyError, match="older than the one accepted before") as caught:
            driver.lock(Quiet())
        assert "older-index=accept" in caught.value.hint, remember
        lockfile.lock_path(driver.paths, driver.channel).unlink(missing_ok=True)
    driver = upstream.driver(checkout_path)
    assert names(kept(driver, accept_older=True).packages["x86_64"])[0] == "app-1.0-r0"
    upstream.driver(checkout_path).lock(Quiet())  # the older one is the one accepted now


def test_the_lock_alone_remembers_what_was_accepted(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    """A colleague's machine, with an empty cache."""
    old = dict(upstream.mirror.files)
    upstream.made += 1000
    upstream.publish()
    kept(upstream.driver(checkout_path))
    (tmp_path / "cache").rename(tmp_path / "another-cache")
    upstream.mirror.files = old
    with pytest.raises(VerifyError, match="older than the one accepted before"):
        upstream.driver(checkout_path).lock(Quiet())


def test_a_wrong_clock(upstream: Upstream, checkout_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: MADE - 10 * 86400.0)
    with pytest.raises(VerifyError, match="clock says 2023-11-04") as caught:
        upstream.driver(checkout_path).lock(Quiet())
    assert "clock" in caught.value.hint


def test_a_very_old_index_is_reported(upstream: Upstream, checkout_path: Path) -> None:
    driver, quiet = upstream.driver(checkout_path), Quiet()
    driver.settings = replace(driver.settings, warn_after_days=90)
    driver.lock(quiet)
    assert len([line for line in quiet.said if "is the mirror still updated?" in line]) == 4


@pytest.mark.parametrize(("key", "expected"), [("stranger", "stranger.rsa.pub"), ("aarch64", "two.rsa.pub")])
def test_an_index_signed_by_another_key(upstream: Upstream, checkout_path: Path, key: str, expected: str) -> None:
    """Unknown, or trusted for another architecture."""
    path = f"/{BRANCH}/main/x86_64/APKINDEX.tar.gz"
    upstream.mirror.files[path] = upstream.index("main", "x86_64", upstream.signers[key])
    with pytest.raises(VerifyError, match=f"no valid signature by a trusted key; signed by {expected}"):
        upstream.driver(checkout_path).lock(Quiet())


def test_another_architectures_index(upstream: Upstream, checkout_path: Path, signers: tuple[Path, dict[str, Signer]]) -> None:
    """Well signed by a key of ours, of packages for a machine that is not ours."""
    path = f"/{BRANCH}/main/x86_64/APKINDEX.tar.gz"
    upstream.mirror.files[path] = upstream.index("main", "aarch64", upstream.signers["x86_64"])
    with pytest.raises(VerifyError, match="lists packages for aarch64"):
        upstream.driver(checkout_path).lock(Quiet())


def test_a_package_that_is_not_the_indexs(upstream: Upstream, checkout_path: Path) -> None:
    path, data = f"/{BRANCH}/main/x86_64/app-1.0-r0.apk", upstream.files["main", "x86_64"]["app-1.0-r0.apk"]
    upstream.add("main", "app", text="other", arch="x86_64", depend="so:lib.so")
    other = upstream.files["main", "x86_64"]["app-1.0-r0.apk"]
    lib = upstream.files["main", "x86_64"]["lib-1.0-r0.apk"]
    flipped = bytearray(data)
    flipped[-20] ^= 1
    for bad in (other, lib, bytes(flipped), data[:-1], data + b"x"):
        upstream.mirror.files[path] = bad
        with pytest.raises((VerifyError, FetchError)) as caught:
            upstream.driver(checkout_path).lock(Quiet())
        assert "app-1.0-r0.apk" in caught.value.message
        assert bad == lib or not upstream.driver(checkout_path).vault.place(digest_bytes(bad)).exists()
    upstream.mirror.files[path] = data
    upstream.driver(checkout_path).lock(Quiet())


def test_mirrors_that_are_down_or_lie_are_passed_over(upstream: Upstream, checkout_path: Path) -> None:
    good = kept(upstream.driver(checkout_path))
    with serving() as liar:
        liar.files = {
            path: data[:-30] + bytes(30) if path.endswith(".apk") else data for path, data in upstream.mirror.files.items()
        }
        (checkout_path.parent / "cache").rename(checkout_path.parent / "gone")
        lockfile.lock_path(upstream.driver(checkout_path).paths, upstream.driver(checkout_path).channel).unlink()
        assert kept(upstream.driver(checkout_path, "http://127.0.0.1:9", liar.address, upstream.mirror.address)) == good
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        upstream.driver(checkout_path, "http://127.0.0.1:9").lock(Quiet())
    assert "TOWER_ALPINE_MIRROR" in caught.value.hint


def test_a_package_that_vanished_upstream(upstream: Upstream, checkout_path: Path) -> None:
    lock = kept(upstream.driver(checkout_path))
    upstream.remove("main", "app-1.0-r0.apk")
    upstream.add("main", "app", "1.1-r0", depend="so:lib.so")
    upstream.made += 10
    upstream.publish()
    driver = upstream.driver(checkout_path)
    driver.vault.path(lock.packages["x86_64"][0]).unlink()
    with pytest.raises(VanishedError, match=r"app 1\.0-r0 .*no mirror has it any more") as caught:
        driver.fetch(lock, Quiet())
    assert "vault:import" in caught.value.hint
    assert "./ci/doit lock channel=small" in caught.value.hint
    driver.vault.path(lock.indexes["x86_64"][0]).unlink()
    with pytest.raises(VanishedError, match="another index than the one of 2023-11-14"):
        driver.fetch(lock, Quiet())


def test_a_vault_carried_over(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    driver = upstream.driver(checkout_path)
    lock = kept(driver)
    driver.fetch(lock, Quiet())
    driver.vault.export(lock.files, tmp_path / "vault.tar", Quiet())
    (tmp_path / "cache").rename(tmp_path / "another-machine")
    offline = upstream.driver(checkout_path, "http://127.0.0.1:9")
    offline.vault.load(tmp_path / "vault.tar", Quiet())
    offline.fetch(lock, Quiet())
    laid(offline, lock, tmp_path / "out", "aarch64")


def test_a_swapped_file_in_the_vault(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    driver = upstream.driver(checkout_path)
    lock = kept(driver)
    app, lib = lock.packages["x86_64"]
    driver.vault.path(app).write_bytes(driver.vault.read(lib).ljust(app.size, b"\0")[: app.size])
    os.utime(driver.vault.path(app), ns=(VERIFIED_NS, VERIFIED_NS))
    with pytest.raises(VerifyError, match="differs from the lock"):
        laid(driver, lock, tmp_path / "out")
    driver.fetch(lock, Quiet())
    laid(driver, lock, tmp_path / "again")


def test_a_lock_edited_by_hand(upstream: Upstream, checkout_path: Path, tmp_path: Path) -> None:
    driver = upstream.driver(checkout_path)
    lock = kept(driver)
    path = lockfile.lock_path(driver.paths, driver.channel)
    text = path.read_text()
    for bad in (
        text.replace("1.0-r0", "0.9-r0", 1),
        "\n".join(line for line in text.splitlines() if '"digest"' not in line),
        text[:-3],
        "[]",
        text.replace('"schema": 1', '"schema": 2'),
    ):
        path.write_text(bad)
        with pytest.raises(LockError) as caught:
            lockfile.read(path, driver.channel)
        assert str(path) in caught.value.message
        assert "lock channel=small" in caught.value.hint or "./ci/doit lock" in caught.value.hint
    # With the digest edited too, nothing comes in that the signed index does not name.
    upstream.add("main", "app", text="other", arch="x86_64", depend="so:lib.so")
    evil = upstream.files["main", "x86_64"]["app-1.0-r0.apk"]
    app = replace(lock.packages["x86_64"][0], sha256=driver.vault.put(evil), size=len(evil))
    for edited in (app, replace(app, checksum=""), replace(lock.packages["x86_64"][0], name="apt"), replace(app, signer="")):
        data = replace(lock, packages={**lock.packages, "x86_64": (edited,)}).to_json()
        data["digest"] = digest_json(data)
        path.write_text(json.dumps(data))
        with pytest.raises(VerifyError):
            laid(
                driver,
                lockfile.read(path, driver.channel),
                tmp_path / f"out-{edited.name}-{len(edited.checksum)}-{edited.signer}",
            )
    other = replace(lock.indexes["x86_64"][0], made=MADE + 5)
    with pytest.raises(VerifyError, match="differs from the lock"):
        laid(driver, replace(lock, indexes={"x86_64": (other,)}), tmp_path / "out-index")


def test_a_retired_key(upstream: Upstream, checkout_path: Path) -> None:
    """What only a retired key signed is verified anew, and refused."""
    kept(upstream.driver(checkout_path))
    table = checkout_path / "keys/alpine/keys.toml"
    rows = table.read_text().split("\n\n")
    table.write_text("\n\n".join(row for row in rows if "one.rsa.pub" not in row))
    (checkout_path / "keys/alpine/one.rsa.pub").unlink()
    upstream.mirror.files[f"/{BRANCH}/main/x86_64/APKINDEX.tar.gz"] = upstream.index("main", "x86_64", upstream.signers["next"])
    upstream.mirror.files[f"/{BRANCH}/community/x86_64/APKINDEX.tar.gz"] = upstream.index(
        "community", "x86_64", upstream.signers["next"]
    )
    with pytest.raises(VerifyError, match=r"-1\.0-r0.*signed by one\.rsa\.pub") as caught:
        upstream.driver(checkout_path).lock(Quiet())
    assert "keys" in caught.value.hint


def test_settings(upstream: Upstream, checkout_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWER_ALPINE_MIRROR", "https://first.example/alpine https://second.example")
    assert upstream.driver(checkout_path).settings.mirrors[:2] == ("https://first.example/alpine", "https://second.example")
    with pytest.raises(ConfigError, match="not an https address"):
        upstream.driver(checkout_path, "http://mirror.example/alpine")
