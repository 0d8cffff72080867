# SPDX-License-Identifier: Apache-2.0
"""The path of a channel that releases are made from, over HTTP: lock, downloads, builder, a host's root, audit of the lock.

The mirror is the lab's, which has the shape of Alpine's, and its files Alpine's names; it is signed anew by test keys that
are called as Alpine's are, one for each architecture, and served on this machine. The channel is `alpine-v3.23` with that
address, these keys, and the lab's names where a package is a converted one; its driver is as it is. Of the recipes only the
host's is there, up to its root: how that becomes a disk no channel changes. `ci/whole_release.py` goes the whole way by hand.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.apk.format.index import IndexEntry, package_entry, read_index, write_index
from pipeline.apk.format.package import read_package, sign_package
from pipeline.apk.format.signature import Signer, generate_key
from pipeline.base.paths import cache_home
from pipeline.sandbox.engine import Engine
from pipeline.supply.trust import fingerprint
from tests.unit.release.keys import git

CHANNEL = "alpine-v3.23"
KEYS = {
    arch: f"alpine-devel@lists.alpinelinux.org-{number}" for arch, number in (("x86_64", "7e570001"), ("aarch64", "7e570002"))
}
EPOCH = 1767225600
SECONDS = 900
# Settings of the lab's channel: where the packages are converted ones, they have its names.
_OF_THE_LAB = ("builder", "libc", "repositories")


class Served:
    """A mirror by HTTP; `asked` are the paths of what was fetched."""

    def __init__(self, folder: Path, keys: dict[str, Path]) -> None:
        self.asked: list[str] = []
        self.folder = folder
        self.keys = keys
        served = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                served.asked.append(self.path)
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From here on nobody listens at the address."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


def sign_anew(source: Path, target: Path, signer: Signer) -> None:
    """Lay a repository of one architecture with signatures of `signer`'s alone."""
    target.mkdir(parents=True)

    def one(path: Path) -> IndexEntry:
        with path.open("rb") as packed, (target / path.name).open("wb") as out:
            sign_package(packed, out, signer)
        with (target / path.name).open("rb") as stream:
            package = read_package(stream, None, name=path.name)
            return package_entry(package, (target / path.name).stat().st_size, arch=target.name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        entries = list(pool.map(one, sorted(source.glob("*.apk"))))
    with (source / "APKINDEX.tar.gz").open("rb") as stream:
        title = read_index(stream, None).description
    with (target / "APKINDEX.tar.gz").open("wb") as out:
        write_index(out, title, entries, signer, EPOCH)


def serve_mirror(place: Path, checkout: Path) -> Served:
    """Serve the mirror of a checkout, made if it is not there, signed by test keys; it is laid below `place`."""
    run(checkout, "channel:lock")
    lab, folder = checkout / "build" / "lab" / "mirror", place / "mirror"
    keys = {}
    for arch, name in KEYS.items():
        private, keys[arch] = generate_key(place / "keys", name, 2048)
        sign_anew(lab / "v3.23" / "main" / arch, folder / "v3.23" / "main" / arch, Signer(private, keys[arch].name))
    shutil.copytree(lab / "v3.23" / "releases", folder / "v3.23" / "releases")
    shutil.copytree(lab / "aports", folder / "aports")
    return Served(folder, keys)


@pytest.fixture(scope="module")
def mirror(large_files: Path, checkout: Path) -> Iterator[Served]:
    served = serve_mirror(large_files, checkout)
    yield served
    served.stop()


def run(folder: Path, *words: str, env: dict[str, str] | None = None) -> str:
    """What the factory says on its standard output; it must end well."""
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(folder), **(env or {})}
    environment.pop("TOWER_ALPINE_MIRROR", None)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS,
        check=False,
    )  # fmt: skip
    print(f"{' '.join(words)}: {time.monotonic() - start:.1f} s")
    assert done.returncode == 0, f"{words}: exit status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return done.stdout


class Released:
    """A committed copy of the checkout whose channel is served by `mirror`, with a cache of its own."""

    def __init__(self, folder: Path, checkout: Path, mirror: Served) -> None:
        self.folder, self.cache = folder / "checkout", folder / "cache"
        listed = subprocess.run(["git", "-C", checkout, "ls-files", "-z"], check=True, capture_output=True).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (checkout / name).is_symlink() or (checkout / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(checkout / name, self.folder / name, follow_symlinks=False)
        self._channel(mirror.address)
        self._trust(mirror.keys)
        self._wheels()
        self._recipes()
        (self.folder / "dist").mkdir()
        self.commit("the mirror of the tests")

    def _channel(self, address: str) -> None:
        channels = self.folder / "pipeline" / "channels"
        path = channels / f"{CHANNEL}.toml"
        text = path.read_text()
        head = text[: text.index("[settings]")].replace('native_builders = ["aarch64"]\n', "")
        lab = tomllib.loads((channels / "lab.toml").read_text())
        head = re.sub(r"^faketime = .*$", f'faketime = "{lab["faketime"]}"', head, flags=re.MULTILINE)
        settings: dict[str, object] = {name: lab["settings"][name] for name in _OF_THE_LAB}
        settings |= {"mirrors": [address], "aports": [f"{address}/aports"], "minirootfs": "alpine-minirootfs"}
        settings["warn_after_days"] = 100_000
        # JSON of strings, numbers and lists of them is TOML.
        rows = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
        path.write_text(f"{head}[settings]\n{rows}")

    def _trust(self, keys: dict[str, Path]) -> None:
        folder = self.folder / "keys" / "alpine"
        shutil.rmtree(folder)
        folder.mkdir()
        rows = []
        for arch, key in keys.items():
            data = key.read_bytes()
            spki, bits = fingerprint(data, key.name)
            (folder / key.name).write_bytes(data)
            rows.append(
                f'[[key]]\nfile = "{key.name}"\nfile_sha256 = "{hashlib.sha256(data).hexdigest()}"\nspki_sha256 = "{spki}"\n'
                f'bits = {bits}\narchitectures = ["{arch}"]\norigin = "a test"\nsecond_source = "none"\n'
            )
        (folder / "keys.toml").write_text("\n".join(rows))

    def _wheels(self) -> None:
        """The wheels that were fetched already; of packages the cache has none."""
        shutil.copytree(cache_home() / "tower" / "wheel-sets", self.cache / "tower" / "wheel-sets")
        for note in (self.cache / "tower" / "wheel-sets").glob("*.json"):
            for digest in re.findall(r'"sha256": "([0-9a-f]{64})"', note.read_text()):
                path = Path("tower") / "vault" / "sha256" / digest[:2] / digest
                if (cache_home() / path).is_file():
                    (self.cache / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(cache_home() / path, self.cache / path)

    def _recipes(self) -> None:
        folder = self.folder / "pipeline" / "recipes"
        for name in ("common", "thinclient"):
            (folder / f"{name}.toml").unlink()
        text = (folder / "host.toml").read_text()
        head, _, rest = text.partition('[[stages]]\nname = "host-boot"\n')
        system = re.search(r'\[\[stages\]\]\nname = "host-system"\n.*?\n\n', rest, re.DOTALL)
        assert system is not None
        final = re.sub(r'^final = ".*"$', 'final = "host-system"', head, flags=re.MULTILINE)
        final = re.sub(r"^host-\w+-boot = .*\n", "", final, flags=re.MULTILINE)
        (folder / "host.toml").write_text(final + system[0].rstrip() + "\n")

    def commit(self, subject: str) -> None:
        if not (self.folder / ".git").is_dir():
            git(self.folder, "init", "-q")
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", subject)

    def doit(self, *words: str) -> str:
        return run(self.folder, *words, f"channel={CHANNEL}", env={"XDG_CACHE_HOME": str(self.cache), "CI": "true"})

    def ended(self, *words: str, said: str = "", timeout: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run the factory with something on its standard input, whatever comes of it."""
        env = {**os.environ, "XDG_CACHE_HOME": str(self.cache), "PYTHONPATH": str(self.folder), "NO_PROXY": "127.0.0.1"}
        argv = [sys.executable, "-m", "pipeline", *words, f"channel={CHANNEL}"]
        return subprocess.run(
            argv, cwd=self.folder, env=env, input=said, capture_output=True, text=True, timeout=timeout, check=False
        )


@pytest.fixture(scope="module")
def released(large_files: Path, checkout: Path, mirror: Served) -> Iterator[Released]:
    made = Released(large_files, checkout, mirror)
    yield made
    for folder in (made.folder, made.folder / "build" / "audit" / "checkout"):
        remove_images_of(folder)


def remove_images_of(folder: Path) -> int:
    """Remove the engine's images that were made for this checkout, and no other; how many."""
    engine = Engine(folder)
    return sum(engine.remove_images(f"tower.{kind}") for kind in ("builder", "minirootfs"))


def test_only_its_own_images_are_removed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    empty = bytes(10240)
    for kind, folder in itertools.product(("builder", "minirootfs"), folders):
        folder.mkdir(exist_ok=True)
        tag = f"localhost/tower-{kind}-{folder.name}:{os.getpid()}"
        Engine(folder).import_image(iter([empty]), tag, labels={f"tower.{kind}": "x"}, architecture="x86_64")
    assert [remove_images_of(folder) for folder in (folders[0], *folders)] == [2, 0, 2]


def asked_for(mirror: Served, pattern: str) -> bool:
    return any(re.fullmatch(pattern, path) for path in mirror.asked)


def test_from_the_lock_to_its_audit(released: Released, mirror: Served) -> None:
    said = released.doit("lock")
    assert said.startswith("first lock: ")
    released.commit("the lock")
    lock = json.loads((released.folder / "pipeline" / "locks" / f"{CHANNEL}.lock.json").read_bytes())
    for arch, name in KEYS.items():
        assert {row["signer"] for row in lock["packages"][arch]} == {f"{name}.rsa.pub"}
        assert asked_for(mirror, rf"/v3\.23/main/{arch}/APKINDEX\.tar\.gz")
        assert asked_for(mirror, rf"/v3\.23/main/{arch}/busybox-1\.\d+\.\d+-r\d+\.apk")
    assert asked_for(mirror, r"/v3\.23/releases/x86_64/latest-releases\.yaml")
    assert asked_for(mirror, r"/aports/([0-9a-f]+)/aports-\1\.tar\.gz\?path=scripts")

    released.doit("fetch")
    assert asked_for(mirror, r"/v3\.23/releases/x86_64/alpine-minirootfs-3\.23\.\d+-x86_64\.tar\.gz")
    mirror.stop()
    # The builder's architecture: two more roots would be made and audited for nothing new.
    audited = released.doit("audit:lock", "target=pc")
    assert "not covered" not in audited
    assert "replay without a network" in audited
    assert "replay of stage:host-system:pc: the same bytes" in audited
    left = Engine(released.folder / "build" / "audit" / "checkout").remove_images("tower.minirootfs")
    assert left == 0, "the replay left images of mini roots"
