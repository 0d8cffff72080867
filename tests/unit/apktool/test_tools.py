# SPDX-License-Identifier: Apache-2.0
"""fetch, index, info and the other commands that look; abuild-sign; repositories over http."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.apk.index import read_index
from pipeline.apk.signature import KeyRing
from tests.unit.apktool.conftest import PACKAGES, Lab


@pytest.fixture
def shop(lab: Lab) -> Lab:
    """A few packages that need each other."""
    lab.package("app", files={"usr/bin/app": b"app"}, depends=("so:libx.so.1",), license="MIT", url="https://example.org")
    lab.package(
        "libx", "1.2-r0", files={"usr/lib/libx.so.1.2": b"x", "usr/lib/libx.so.1": "libx.so.1.2"}, provides=("so:libx.so.1=1.2",)
    )
    lab.package("libx", "1.1-r0", provides=("so:libx.so.1=1.1",))
    lab.publish()
    return lab


def test_fetch(shop: Lab, tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    listed = ["Downloading app-1.0-r0", "Downloading libx-1.2-r0"]
    assert shop.run("fetch", "--simulate", "--recursive", "app").splitlines() == listed
    assert shop.run("fetch", "--recursive", "--output", str(target), "app").splitlines() == listed
    assert shop.run("fetch", "--recursive", "--output", str(target), "app") == "", "all there"
    assert sorted(path.name for path in target.iterdir()) == ["app-1.0-r0.apk", "libx-1.2-r0.apk"]
    (target / "app-1.0-r0.apk").write_bytes(b"damaged")
    assert shop.run("fetch", "--link", "--output", str(target), "app").splitlines() == listed[:1]
    assert (target / "app-1.0-r0.apk").samefile(shop.repository / "x86_64/app-1.0-r0.apk")
    assert shop.run("fetch", "nothing", status=1) == "nothing: unable to select package (or its dependencies)\n"
    assert shop.run("fetch", "--url", "app") == f"{shop.repository}/x86_64/app-1.0-r0.apk\n"


def test_index_is_made_and_signed(shop: Lab, tmp_path: Path) -> None:
    index = tmp_path / "APKINDEX.tar.gz"
    files = sorted(map(str, shop.repository.glob("x86_64/*.apk")))
    out = shop.run("index", "--output", str(index), "--description", "my 1", "--rewrite-arch", "aarch64", *files)
    assert "Index has 3 packages" in out
    assert "UNTRUSTED" in shop.run("verify", str(index), status=1)
    environment = {**os.environ, "PACKAGER_PRIVKEY": str(shop.keys.parent / "test.rsa")}
    for _ in range(2):
        subprocess.run([shop.prefix / "usr/bin/abuild-sign", "-q", index], env=environment, check=True, capture_output=True)
    assert shop.run("verify", str(index)) == f"{index}: 0 - OK\n"
    with index.open("rb") as stream:
        read = read_index(stream, KeyRing.load(shop.keys))
    assert read.description == "my 1"
    assert {entry.arch for entry in read.entries} == {"aarch64"}
    assert [signature.key_name for signature in read.signatures] == ["test.rsa.pub"]
    again = tmp_path / "again.tar.gz"
    shop.run("index", "-x", str(index), "-o", str(again), "-d", "my 1", *files)
    with again.open("rb") as stream:
        assert [entry.name for entry in read_index(stream, None).entries] == ["app", "libx", "libx"]
    (tmp_path / "bad.apk").write_bytes(b"no package")
    assert "ERROR: Index not created." in shop.run("index", "-o", str(again), *files, str(tmp_path / "bad.apk"), status=1)


def test_abuild_sign_refuses(shop: Lab, tmp_path: Path) -> None:
    def sign(*arguments: str) -> str:
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        argv = [str(shop.prefix / "usr/bin/abuild-sign"), *arguments]
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    index = shop.repository / "x86_64/APKINDEX.tar.gz"
    key = str(shop.keys.parent / "test.rsa")
    before = index.read_bytes()
    assert "No private key found" in sign(str(index))
    assert "private key not found" in sign("-k", str(tmp_path / "none"), str(index))
    assert "usage: abuild-sign" in sign("-k", key)
    assert "not a type of signature" in sign("-k", key, "-t", "MD5", str(index))
    assert "openssl" in sign("-k", str(shop.keys / "test.rsa.pub"), str(index))
    assert index.read_bytes() == before
    (tmp_path / "APKINDEX.tar.gz").write_bytes(b"no index")
    assert "gzip" in sign("-k", key, str(tmp_path / "APKINDEX.tar.gz"))


def test_abuild_conf_names_the_key(shop: Lab, tmp_path: Path) -> None:
    (tmp_path / ".abuild").mkdir()
    (tmp_path / ".abuild/abuild.conf").write_text(f'PACKAGER_PRIVKEY="{shop.keys.parent}/test.rsa"\n')
    index = shop.repository / "x86_64/APKINDEX.tar.gz"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    argv = [str(shop.prefix / "usr/bin/abuild-sign"), "-t", "RSA256", str(index)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == f">>> Signed {index}\n"
    shop.add("app")


def test_functions_of_abuild(tmp_path: Path) -> None:
    functions = PACKAGES / "abuild/root/usr/share/abuild/functions.sh"
    text = f"set -eu; . {functions}; msg one; warning two; arch_to_hostspec aarch64; (die three) || echo $?"
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", text], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "aarch64-alpine-linux-musl\n1\n"
    assert done.stderr == ">>> one\n>>> WARNING: two\n>>> ERROR: three\n"


def test_info(shop: Lab) -> None:
    shop.add("app")
    assert shop.run("info") == "app\nlibx\n"
    assert shop.run("info", "-v") == "app-1.0-r0\nlibx-1.2-r0\n"
    assert shop.run("info", "-e", "app", "nothing", status=1) == "app\n"
    assert shop.run("info", "-L", "libx") == "libx-1.2-r0 contains:\nusr/lib/libx.so.1\nusr/lib/libx.so.1.2\n\n"
    assert shop.run("info", "-W", "/usr/lib/libx.so.1.2") == "/usr/lib/libx.so.1.2 is owned by libx-1.2-r0\n"
    assert shop.run("info", "-r", "libx") == "libx-1.2-r0 is required by:\napp-1.0-r0\n\n"
    assert shop.run("info", "-R", "app") == "app-1.0-r0 depends on:\nso:libx.so.1\n\n"
    assert "Could not find owner package" in shop.run("info", "--who-owns", "/nothing", status=1)
    assert shop.run("info", "--description", "app") == "app-1.0-r0 description:\ntest package app\n\n"


def test_queries(shop: Lab) -> None:
    shop.add("app")
    shop.package("app", "1.1-r0")
    shop.publish()
    assert shop.run("version") == f"{'Installed:':<42}Available:\n{'app-1.0-r0':<40}< 1.1-r0 \n"
    assert shop.run("version", "-t", "1.0_rc1", "1.0") == "<\n"
    assert shop.run("version", "-c", "1.0", "x", status=1) == "x\n"
    assert shop.run("policy", "app") == (
        f"app policy:\n  1.0-r0:\n    lib/apk/db/installed\n    {shop.repository}\n  1.1-r0:\n    {shop.repository}\n"
    )
    assert shop.run("search", "PP") == "app-1.1-r0\n"
    assert shop.run("search", "--exact", "libx") == "libx-1.2-r0\n"
    assert shop.run("list", "--upgradable") == "app-1.1-r0 x86_64 {app} () [upgradable from: app-1.0-r0]\n"
    assert "packages: 2" in shop.run("stats")
    assert shop.run("update") == f"test 1 [{shop.repository}]\nOK: 4 distinct packages available\n"
    assert shop.run("--print-arch").strip() == "x86_64"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("frobnicate",), "'frobnicate' is not an apk command"),
        (("add", "--frobnicate"), "unrecognized option: frobnicate"),
        (("add", "--virtual"), "option requires an argument: virtual"),
        (("add", "a b"), "is not a valid world dependency"),
        (("add", "/none/x.apk"), "/none/x.apk: No such file or directory"),
        (("info",), "Failed to open apk database"),
    ],
)
def test_mistakes(shop: Lab, arguments: tuple[str, ...], message: str) -> None:
    shop.root.mkdir()
    argv = ["python3", "-IS", str(shop.prefix / "usr/sbin/apk"), "--root", str(shop.root), *arguments]
    if arguments[0] == "add":
        argv.append("--initdb")
    if arguments[-1] == "--virtual":
        argv.remove("--initdb")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def server(lab: Lab) -> Iterator[str]:
    """The repository's folder over http."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    handler = functools.partial(Quiet, directory=str(lab.repository))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_repository_over_http(lab: Lab, server: str) -> None:
    lab.package("app", files={"usr/bin/app": b"app"})
    index = lab.publish()
    local, lab.address = lab.repository, server
    assert f"fetch {server}/x86_64/APKINDEX.tar.gz" in lab.add("app")
    assert len(list((lab.root / "var/cache/apk").glob("APKINDEX.*.tar.gz"))) == 1
    index.write_bytes(index.read_bytes()[:-9])
    assert lab.run("search", "app") == "app-1.0-r0\n", "the index is in the cache"
    out = lab.run("update", status=1)
    assert "1 unavailable" in out
    assert lab.run("search", "--no-network", "app") == "app-1.0-r0\n", "what does not verify replaces nothing"
    shutil.rmtree(local / "x86_64")
    out = lab.run("add", "--update-cache", "more", status=1)
    assert f"WARNING: updating and opening {server}: No such file or directory" in out
    assert "WARNING: opening from cache" in lab.run("add", "--no-network", "--no-cache", "more", status=1)


def test_packages_are_kept_in_the_cache(lab: Lab, server: str) -> None:
    lab.package("app", files={"usr/bin/app": b"app"})
    lab.publish()
    local, lab.address = lab.repository, server
    (lab.root / "etc/apk/cache").mkdir(parents=True)
    lab.add("app")
    assert len(list((lab.root / "etc/apk/cache").glob("app-1.0-r0.*.apk"))) == 1
    lab.run("del", "app")
    shutil.rmtree(local / "x86_64")
    lab.add("--no-network", "app")
    assert (lab.root / "usr/bin/app").exists()
    lab.run("del", "app")
    lab.run("cache", "clean", "--no-network")
    assert list((lab.root / "etc/apk/cache").glob("app-*")) == []
