# SPDX-License-Identifier: Apache-2.0
"""A root is held against the signed packages that it was made of."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.errors import VerifyError
from pipeline.channels.alpine.vouched import check_root
from tests.unit.apk.forge import item, package

Entry = tuple[str, bytes | str, int]
GOOD: tuple[Entry, ...] = (
    ("./bin", "-> usr/bin", 0o777),
    ("./usr/bin/app", b"program", 0o755),
    ("./usr/bin/again", "= ./usr/bin/app", 0o755),
    ("./usr/bin/link", "-> app", 0o777),
    ("./usr/bin/sh", "-> /bin/busybox", 0o777),
    ("./etc/app.conf", b"edited by a script", 0o644),
    ("./lib/apk/db/installed", b"P:app", 0o644),
    ("./usr/share/mime.cache", b"made by a script", 0o644),
)


def made(path: Path, entries: tuple[Entry, ...]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content, mode in entries:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                info.linkname = content.split()[1]
                tar.addfile(info)
    return path


@pytest.fixture
def apk(tmp_path: Path) -> Path:
    """A package from before /bin was a link."""
    items = [
        item("bin/app", b"program", mode=0o755),
        item("bin/again", type=tarfile.LNKTYPE, linkname="bin/app"),
        item("bin/link", type=tarfile.SYMTYPE, linkname="app"),
        item("etc/app.conf", b"as packed"),
    ]
    path = tmp_path / "app-1-r0.apk"
    path.write_bytes(package(items, pkgname="app"))
    return path


def test_a_root_that_is_what_the_packages_say(tmp_path: Path, apk: Path) -> None:
    assert check_root(made(tmp_path / "root.tar", GOOD), [apk], "root") == 4


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda name, content, mode: (name, b"pr0gram" if content == b"program" else content, mode),
            "usr/bin/app: differs from the signed package",
        ),
        (
            lambda name, content, mode: (name, "-> sh" if content == "-> app" else content, mode),
            "usr/bin/link: differs from the signed package",
        ),
        (
            lambda name, content, mode: (name, content, 0o755 if "mime" in name else mode),
            "mime.cache: is executable, but in no signed package",
        ),
        (lambda name, content, mode: (name.replace("app", "other"), content, mode), "usr/bin/app: is missing"),
        (
            lambda name, content, mode: (name, content, 0o755 if "installed" in name else mode),
            "is executable, but in no signed package",
        ),
    ],
)
def test_a_root_that_is_not(tmp_path: Path, apk: Path, change: Callable[..., Entry], expected: str) -> None:
    root = made(tmp_path / "root.tar", tuple(change(*entry) for entry in GOOD))
    with pytest.raises(VerifyError, match=expected) as caught:
        check_root(root, [apk], "the builder")
    assert caught.value.message.startswith("the builder: the mini root's apk installed other files than the packages have")
