# SPDX-License-Identifier: Apache-2.0
"""Both images from packages of apk's third format, by `apk-format=3`: they are built, looked at, and the thin client starts.

The checkout is a copy, since the lab's mirror lies in it, and is of one format at a time. Its recipes leave the Raspberry Pi
out, to save the time of a second architecture.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.apk.format.index import read_index
from pipeline.apk.format.package import read_package
from pipeline.apk.format.signature import KeyRing
from pipeline.images.boot import LOGIN, MachineType, started
from pipeline.sandbox.engine import Engine
from tests.unit.release.keys import git

SECONDS = 1800
PROMPT = r"\[root@thinclient [^\]]*\][#$] $"
_KEPT = ("apk", "base", "keys", "supply.lock.json")
"""What the lab has made of Debian's packages, and its key: equal in both formats."""


class Copied:
    """A committed copy of the checkout, with what its lab has converted already."""

    def __init__(self, folder: Path, checkout: Path) -> None:
        self.folder = folder
        listed = subprocess.run(["git", "-C", checkout, "ls-files", "-z"], check=True, capture_output=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (checkout / name).is_symlink() or (checkout / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, folder / name, follow_symlinks=False)
        for name in _KEPT:
            source, target = checkout / "build" / "lab" / name, folder / "build" / "lab" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            elif source.exists():
                shutil.copy2(source, target)
        recipe = folder / "pipeline" / "recipes" / "thinclient.toml"
        text, count = re.subn(r'host-rpi = "stage:host-compress@rpi"(, |\n)', "", recipe.read_text())
        assert count == 2
        recipe.write_text(text)
        (folder / "dist").mkdir()
        git(folder, "init", "-q")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "a copy")

    def doit(self, *words: str) -> str:
        """What the factory says; it must end well."""
        env = {**os.environ, "PYTHONPATH": str(self.folder)}
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *words], cwd=self.folder, env=env, capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
        print(f"{' '.join(words)}: {time.monotonic() - start:.1f} s")
        assert done.returncode == 0, f"{words}: exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def third(large_files: Path, checkout: Path, images: Path) -> Iterator[Copied]:
    """The copy; images of the usual format are built by then, and with them what the lab converts for both."""
    del images
    made = Copied(large_files / "checkout", checkout)
    yield made
    engine = Engine(made.folder)
    for kind in ("builder", "minirootfs"):
        engine.remove_images(f"tower.{kind}")


def on_iso(iso: Path, name: str, target: Path) -> bytes:
    argv = ["xorriso", "-osirrox", "on", "-indev", str(iso), "-extract", name, str(target)]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    return target.read_bytes()


def test_both_images_are_made_of_it_and_one_starts(third: Copied, tmp_path: Path, checkout: Path) -> None:
    third.doit("thinclient", "apk-format=3", "compress=none")
    third.doit("host", "apk-format=3", "target=pc", "compress=none")
    (iso,) = (third.folder / "dist").glob("toweros-thinclient-*-lab-x86_64.iso")
    (host,) = (third.folder / "dist").glob("toweros-host-*-lab-pc.img")
    mirror = third.folder / "build" / "lab" / "mirror" / "v3.23" / "main" / "x86_64"
    ring = KeyRing.load(third.folder / "build" / "lab" / "keys")
    assert not (mirror / "APKINDEX.tar.gz").exists()
    for image in (iso, host):
        rows = json.loads((third.folder / "dist" / f"{image.name}.manifest.json").read_bytes())["packages"]
        locked = [row for row in rows if row["origin"].startswith(("debian ", "alpine "))]
        assert len(locked) > 40, "the manifest names packages of the mirror"
        for row in locked[::20]:
            package = mirror / f"{row['name']}-{row['version']}.apk"
            with package.open("rb") as stream:
                found = read_package(stream, ring, name=package.name)
                assert (found.format, row["checksum"] in found.identities) == (3, True)

    # The medium has a repository of its own: its index, signed by our key, names packages of both formats, which are there.
    data = on_iso(iso, "/apks/x86_64/APKINDEX.tar.gz", tmp_path / "index")
    assert data.startswith(b"ADB")
    entries = read_index(io.BytesIO(data), ring).entries
    listed = subprocess.run(
        ["xorriso", "-indev", str(iso), "-find", "/apks", "-name", "*.apk"], check=True, capture_output=True, text=True
    ).stdout
    assert {entry.file_name for entry in entries} == {Path(line.strip("'")).name for line in listed.splitlines()}
    assert {entry.checksum[:2] for entry in entries} == {"Q1", "Q2"}

    log = checkout / "build" / "log" / "third-format-thinclient.log"
    with started(MachineType.THINCLIENT_BIOS, iso, log=log) as guest:
        guest.wait(LOGIN, MachineType.THINCLIENT_BIOS.limit)
        guest.login("root", prompt=PROMPT)
        assert guest.command("tower version --json", timeout=120).status == 0
        failed = guest.command("rc-status --crashed").text
        assert not failed.strip(), failed
        # What `tower setup` reads: apk verifies the index with the keys of this system, and our own reader takes it.
        assert guest.command("apk --no-network verify /media/*/apks/x86_64/APKINDEX.tar.gz", timeout=120).status == 0
        read = "from pathlib import Path; from tower.install.apkindex import read_index as read; "
        read += "print(len(read(Path(sys.argv[1])).packages))"
        wheel = "PYTHONPATH=$(echo /media/*/toweros/wheels/tower-*.whl)"
        answer = guest.command(f"{wheel} python3 -c 'import sys; {read}' /media/*/apks/x86_64/APKINDEX.tar.gz", timeout=120)
        assert answer.text.strip() == str(len(entries)), answer.text
        answer = guest.command("apk --no-network --no-cache add --simulate parted", timeout=120)
        assert answer.status == 0, answer.text
