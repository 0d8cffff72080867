# SPDX-License-Identifier: Apache-2.0
"""A release of a channel of apk's third format, over HTTP: lock, builder, a host's image, its boot, `release`, `verify:release`.

The channel is `alpine-v3.23`, as in test_real_channel.py, with packages and indexes that are converted and signed by a test key
that is called as Alpine's is. Of the images there is that of a host for PCs alone, to save the time of the others.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.apk.adb.writer import convert_package, write_index
from pipeline.apk.format.index import IndexEntry, package_entry, read_index
from pipeline.apk.format.opened import installed_form
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing, Signer, generate_key
from pipeline.supply.minisign import SecretKey
from tests.boot.test_real_channel import CHANNEL, KEYS, SECONDS, Released, Served, asked_for, remove_images_of, run

ARCH = "x86_64"
BRANCH = "v3.23"
LITTLE = 1 << 24
"""Memory of scrypt: the least that minisign takes."""


def convert_repository(source: Path, target: Path, signer: Signer) -> None:
    """Lay a repository of one architecture in the third format, signed by `signer`. Packages for all lie in `noarch`."""
    for folder in (target, target.parent / "noarch"):
        folder.mkdir(parents=True)

    def one(path: Path) -> IndexEntry:
        with path.open("rb") as packed, tempfile.TemporaryFile(dir=target) as scratch:
            package = read_package(packed, None, name=path.name)
            place = target.parent / ("noarch" if package.info.arch == "noarch" else target.name) / path.name
            with place.open("wb") as out:
                convert_package(package, out, signer, scratch, level=1)
        with place.open("rb") as stream:
            return package_entry(read_package(stream, None, name=path.name), place.stat().st_size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = list(pool.map(one, sorted(source.glob("*.apk"))))
    with (source / "APKINDEX.tar.gz").open("rb") as stream:
        title = read_index(stream, None).description
    with (target / "Packages.adb").open("wb") as out:
        write_index(out, title, entries, signer)


@pytest.fixture(scope="module")
def mirror(large_files: Path, checkout: Path) -> Iterator[Served]:
    """The mirror of this checkout, made if it is not there, in the third format; of one architecture."""
    run(checkout, "channel:lock")
    lab, folder = checkout / "build" / "lab" / "mirror", large_files / "mirror"
    private, public = generate_key(large_files / "keys", KEYS[ARCH], 2048)
    convert_repository(lab / BRANCH / "main" / ARCH, folder / BRANCH / "main" / ARCH, Signer(private, public.name))
    for name in (f"{BRANCH}/releases/{ARCH}", "aports"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", lab / name, folder / name], check=True)
    served = Served(folder, {ARCH: public})
    yield served
    served.stop()


class Third(Released):
    """The channel in the third format, of one architecture; the recipe of a host, up to the image for PCs."""

    def _channel(self, address: str) -> None:
        super()._channel(address)
        path = self.folder / "pipeline" / "channels" / f"{CHANNEL}.toml"
        text = re.sub(r"^architectures = .*$", f'architectures = ["{ARCH}"]', path.read_text(), flags=re.MULTILINE)
        path.write_text(text.replace("[settings]\n", "[settings]\napk_format = 3\n"))

    def _recipes(self) -> None:
        folder = self.folder / "pipeline" / "recipes"
        for name in ("common", "thinclient"):
            (folder / f"{name}.toml").unlink()
        path = folder / "host.toml"
        text = re.sub(r"^\[(targets|stages\.target_options)\.rpi\]\n(?:\S.*\n)+\n", "", path.read_text(), flags=re.MULTILINE)
        path.write_text(re.sub(r"^(host-rpi-\w+|target_options\.rpi) = .*\n", "", text, flags=re.MULTILINE))

    def ended(self, *words: str, said: str = "", timeout: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run the factory on images that are not compressed, whatever comes of it."""
        return super().ended(*words, "compress=none", said=said, timeout=timeout)


@pytest.fixture(scope="module")
def third(large_files: Path, checkout: Path, mirror: Served) -> Iterator[Third]:
    made = Third(large_files, checkout, mirror)
    yield made
    remove_images_of(made.folder)


@pytest.mark.timeout(1800)
def test_from_the_lock_to_a_release(third: Third, mirror: Served, tmp_path: Path) -> None:
    third.doit("lock")
    third.commit("the lock")
    lock = json.loads((third.folder / "pipeline" / "locks" / f"{CHANNEL}.lock.json").read_bytes())
    rows = lock["packages"][ARCH]
    assert {(row["signer"], row["checksum"][:2]) for row in rows} == {(f"{KEYS[ARCH]}.rsa.pub", "Q2")}
    folders = {row["location"].split("/")[2] for row in rows}
    assert folders == {ARCH, "noarch"}
    for place in (rf"{ARCH}/Packages\.adb", rf"{ARCH}/busybox-1\.\d+\.\d+-r\d+\.apk", r"noarch/alpine-base-[^/]+\.apk"):
        assert asked_for(mirror, rf"/{re.escape(BRANCH)}/main/{place}"), place
    third.doit("fetch")
    mirror.stop()

    third.doit("host", "compress=none")
    version = tomllib.loads((third.folder / "pyproject.toml").read_text())["project"]["version"]
    secret = SecretKey.generate()
    key, public = tmp_path / "tower.key", tmp_path / "tower.pub"
    key.write_bytes(secret.dump("words", memory=LITTLE))
    key.chmod(0o600)
    public.write_bytes(secret.public_key.dump())
    words = ("release", f"version={version}", f"key={key}", "passphrase=0")
    early = third.ended(*words, said="words\n")
    assert (early.returncode, "was not booted yet" in early.stderr) == (18, True), early.stderr
    third.doit("boot:host-pc", "compress=none")
    done = third.ended(*words, said="words\n")
    assert done.returncode == 0, done.stderr
    (folder,) = (path for path in (third.folder / "dist").iterdir() if path.is_dir())

    check = ("verify:release", f"dir={folder}", f"key={public}")
    good = third.ended(*check)
    assert good.returncode == 0, good.stderr
    assert f"release {version} of channel {CHANNEL}: good" in good.stdout
    (image,) = folder.glob("*.img")
    manifest = json.loads((folder / f"{image.name}.manifest.json").read_bytes())
    names = {row["name"]: row for row in manifest["packages"]}
    locked = {row["name"]: row["checksum"] for row in rows}
    both = names.keys() & locked.keys()
    assert len(both) > 40
    assert all(names[name]["checksum"] in (locked[name], installed_form(locked[name])) for name in both)
    bill = json.loads((folder / f"{image.name}.cdx.json").read_bytes())
    assert {"busybox", "alpine-base", "linux-lts"} <= {one["name"] for one in bill["components"]}
    provenance = (folder / f"{image.name}.provenance.json").read_text()
    assert next(row["sha256"] for row in rows if row["name"] == "busybox") in provenance

    # What the release says of a package cannot change unseen.
    path = folder / f"{image.name}.manifest.json"
    data = bytearray(path.read_bytes())
    data[data.index(b'"busybox"') + 1] ^= 1
    path.write_bytes(data)
    assert third.ended(*check).returncode == 13


def test_the_mirror_is_of_the_third_format(mirror: Served, tmp_path: Path) -> None:
    """Index and packages by one key alone, and what the index lists as for all lies where apk looks for it."""
    ring = KeyRing({key.name: key.read_bytes() for key in mirror.keys.values()})
    folder = mirror.folder / BRANCH / "main"
    index = read_index(io.BytesIO((folder / ARCH / "Packages.adb").read_bytes()), ring)
    assert len(index.entries) > 300
    for entry in index.entries:
        assert (folder / entry.arch / entry.file_name).stat().st_size == entry.size
