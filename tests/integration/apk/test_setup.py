# SPDX-License-Identifier: Apache-2.0
"""lbu and the set-up scripts, on a root of their own."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.integration.apk.conftest import Shop

CONF = Path(__file__).resolve().parents[3] / "pipeline/channels/lab/packages/alpine-conf/root"


class Device:
    """A root with an installed package, and the scripts of alpine-conf run on it."""

    def __init__(self, shop: Shop, shell: tuple[str, ...], path: Path) -> None:
        self.root = shop.root
        self.shell = shell
        self.path = path
        self.prefix = CONF
        (path / "apk").write_text(f'#!/bin/sh\nexec {" ".join(shop.apk)} "$@"\n')
        (path / "apk").chmod(0o755)
        shop.package("app", files={"etc/app.conf": b"default", "etc/other.conf": b"default", "usr/bin/app": b""})
        shop.publish()
        shop.add("app")

    def run(self, name: str, *arguments: str, status: int = 0) -> str:
        script = str(self.prefix / "usr/sbin" / name)
        environment = {
            "PATH": f"{self.prefix / 'usr/sbin'}:{self.path}:{os.environ['PATH']}",
            "ROOT": str(self.root),
            "LC_ALL": "C",
        }
        done = subprocess.run(
            [*self.shell, script, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


def names_of(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return archive.getnames()


# The scripts are for busybox; where this machine has it, they are tried with its shell and its tools too.
BUSYBOX = shutil.which("busybox")
TOOLS = (
    "awk cat cp cut date dirname grep gzip head hostname ln ls mkdir mktemp mv "
    "readlink rm rmdir sed sha256sum sort sync tar touch tr"
)


@pytest.fixture(params=["sh", *(["busybox"] if BUSYBOX else [])])
def device(request: pytest.FixtureRequest, shop: Shop, tmp_path: Path) -> Device:
    """A root with one package."""
    tools = tmp_path / "tools"
    tools.mkdir()
    if request.param == "sh":
        return Device(shop, ("sh",), tools)
    for name in TOOLS.split():
        (tools / name).symlink_to(str(BUSYBOX))
    return Device(shop, (str(BUSYBOX), "sh"), tools)


def test_lbu_commits_what_changed(device: Device) -> None:
    media = device.root / "media/usb"
    media.mkdir(parents=True)
    device.run("setup-hostname", "-n", "box")
    device.write("etc/app.conf", "mine")
    device.write("etc/secret", "not this")
    device.write("root/notes", "keep me")
    device.write("root/scrap", "not me")
    device.run("lbu", "include", "/root/notes")
    device.run("lbu", "exclude", "/etc/secret")
    assert device.run("lbu", "include", "-l") == "root/notes\n"
    listed = device.run("lbu", "list").splitlines()
    assert {"etc/app.conf", "etc/hostname", "etc/apk/world", "root/notes"} <= set(listed)
    assert not {"etc/other.conf", "etc/secret", "root/scrap"} & set(listed)
    device.run("lbu", "commit", "usb")
    with tarfile.open(media / "box.apkovl.tar.gz") as archive:
        assert archive.getnames() == listed
    assert device.run("lbu", "status") == ""
    device.write("etc/app.conf", "other")
    device.write("etc/new", "")
    (device.root / "root/notes").unlink()
    assert device.run("lbu", "status") == "U etc/app.conf\nA etc/new\nD root/notes\n"
    device.run("lbu", "include", "-r", "/root/notes")
    assert device.run("lbu", "include", "-l") == ""


def test_lbu_media(device: Device) -> None:
    media = device.root / "media/usb"
    media.mkdir(parents=True)
    device.run("setup-hostname", "-n", "box")
    assert "which medium?" in device.run("lbu", "commit", status=1)
    device.write("etc/lbu/lbu.conf", "LBU_MEDIA=usb\nBACKUP_LIMIT=2\n")
    for number in range(4):
        device.run("lbu", "commit", "-v")
        os.utime(media / "box.apkovl.tar.gz", (1_700_000_000 + number,) * 2)
    assert len(device.run("lbu", "list-backup").split()) == 2
    (media / "old.apkovl.tar.gz").touch()
    assert "lbu commit -d removes it" in device.run("lbu", "commit", status=1)
    assert "would write" in device.run("lbu", "commit", "-d", "-n")
    device.run("lbu", "commit", "-d")
    assert [path.name for path in media.glob("*.apkovl.*")] == ["box.apkovl.tar.gz"]
    earlier = device.run("lbu", "lb").split()[-1]
    device.run("lbu", "revert", earlier)
    assert (media / "box.apkovl.tar.gz").read_bytes() == (media / earlier).read_bytes()


def test_lbu_package_and_encryption(device: Device, tmp_path: Path) -> None:
    device.run("setup-hostname", "box")
    device.run("lbu", "package", str(tmp_path))
    plain = tmp_path / "box.apkovl.tar.gz"
    names = names_of(plain)
    media = device.root / "media/usb"
    media.mkdir(parents=True)
    device.run("lbu", "commit", "-p", "pass word", "usb")
    argv = [
        "openssl",
        "enc",
        "-d",
        "-pbkdf2",
        "-aes-256-cbc",
        "-pass",
        "pass:pass word",
        "-in",
        str(media / "box.apkovl.tar.gz.aes-256-cbc"),
    ]
    decrypted = subprocess.run(argv, capture_output=True, check=True).stdout
    (tmp_path / "decrypted").write_bytes(decrypted)
    assert names_of(tmp_path / "decrypted") == names
    assert [path.name for path in media.iterdir()] == ["box.apkovl.tar.gz.aes-256-cbc"]


def test_bad_host_names(device: Device) -> None:
    for name in ["", "-a", "a-", "a..b", "a b", "a/b", "x" * 64, "a_b", "$(id)"]:
        assert "is not a host name" in device.run("setup-hostname", "--", name, status=1)
    assert not (device.root / "etc/hostname").exists()


def test_setup_hostname(device: Device) -> None:
    device.run("setup-hostname", "-n", "office.example.org")
    assert (device.root / "etc/hostname").read_text() == "office.example.org\n"


def test_setup_keymap(device: Device) -> None:
    for name in ("us/us", "us/us-intl", "de/de"):
        path = device.root / f"usr/share/bkeymaps/{name}.bmap.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(b"bkeymap"))
    device.run("setup-keymap", "de", "de")
    device.run("setup-keymap", "us", "us-intl")
    assert [path.name for path in (device.root / "etc/keymap").iterdir()] == ["us-intl.bmap.gz"]
    assert (device.root / "etc/conf.d/loadkmap").read_text() == "KEYMAP=/etc/keymap/us-intl.bmap.gz\n"
    assert str((device.root / "etc/runlevels/boot/loadkmap").readlink()) == "/etc/init.d/loadkmap"
    assert "no such layout. One of: de us" in device.run("setup-keymap", "xx", status=1)
    assert "no variant 'xx'. One of: us-intl us" in device.run("setup-keymap", "us", "xx", status=1)
    assert "which layout?" in device.run("setup-keymap", "../us", status=1)
    device.run("setup-keymap", "none")


def test_setup_timezone(device: Device) -> None:
    for name in ("UTC", "Europe/Rome"):
        device.write(f"usr/share/zoneinfo/{name}", name)
    device.run("setup-timezone", "-z", "/usr/share/zoneinfo/Europe/Rome")
    assert str((device.root / "etc/localtime").readlink()) == "/etc/zoneinfo/Europe/Rome"
    assert (device.root / "etc/zoneinfo/Europe/Rome").read_text() == "Europe/Rome"
    device.run("setup-timezone", "-k", "-z", "UTC")
    assert str((device.root / "etc/localtime").readlink()) == "/etc/zoneinfo/Europe/Rome"
    device.run("setup-timezone", "UTC")
    assert str((device.root / "etc/localtime").readlink()) == "/etc/zoneinfo/UTC"
    assert not (device.root / "etc/zoneinfo/Europe").exists()
    for bad in ("Mars/Phobos", "../../etc/passwd", "Europe", ""):
        assert "is not a time zone" in device.run("setup-timezone", "-z", bad, status=1)
