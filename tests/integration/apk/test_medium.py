# SPDX-License-Identifier: Apache-2.0
"""The installer reads the whole medium before it changes a disk: one flipped bit is enough to be refused, by the real apk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tower.base.errors import ImageProblemError
from tower.base.view import View
from tower.installer import disks, existing, installation, live_medium, system
from tower.installer.installation import Run, SystemInstallation, SystemUpgrade

from pipeline.apk.format.signature import Signer, generate_key
from tests.integration.apk.conftest import ARCH, Shop
from tests.unit.runtime.test_installer import disk, plan_of, row, stick, watched, wheel

_AGAIN = "the medium is damaged"


@pytest.fixture
def laid(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a medium with three packages, two wheels and an image; apk trusts the keys of its packages."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apk").write_text(f'#!/bin/sh\nexec {" ".join(shop.apk)} --keys-dir {shop.keys} "$@"\n')
    (tools / "apk").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name in ("one", "three", "two"):
        shop.package(name, files={f"usr/share/{name}": os.urandom(5 << 20)})
    shop.publish()
    folder = tmp_path / "medium/toweros"
    for name in ("wheels", "images"):
        (folder / name).mkdir(parents=True)
    shop.repository.rename(folder.parent / "apks")
    lines = [wheel(folder / "wheels", name, f"{name}/__init__.py") for name in ("tower", "rich")]
    (folder / "wheels/requirements.txt").write_text("".join(lines))
    image = folder / "images/toweros-host-1.0-lab-pc.img.zst"
    image.write_bytes(os.urandom(1 << 20))
    (folder / "images/SHA256SUMS").write_text(f"{hashlib.sha256(image.read_bytes()).hexdigest()}  {image.name}\n")
    return folder


def test_a_whole_medium_is_read_with_its_progress(laid: Path) -> None:
    seen: list[int] = []
    live_medium.check(laid, seen.append)
    assert len(seen) == 2
    assert sum(seen) == sum(path.stat().st_size for path in live_medium.packages(laid)) > 15 << 20


def flip(path: Path, place: int) -> None:
    """Flip one bit; `place` is a share of the file, in percent."""
    data = bytearray(path.read_bytes())
    data[len(data) * place // 100] ^= 1
    path.write_bytes(data)


FILES = (
    f"apks/{ARCH}/one-1.0-r0.apk", f"apks/{ARCH}/two-1.0-r0.apk", f"apks/{ARCH}/APKINDEX.tar.gz",
    "toweros/wheels/tower-1.0-py3-none-any.whl", "toweros/wheels/requirements.txt",
    "toweros/images/toweros-host-1.0-lab-pc.img.zst", "toweros/images/SHA256SUMS",
)  # fmt: skip


@pytest.mark.parametrize("place", [1, 50, 99])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed(laid: Path, name: str, place: int) -> None:
    flip(laid.parent / name, place)
    with pytest.raises(ImageProblemError) as caught:
        live_medium.check(laid, lambda _: None)
    assert _AGAIN in caught.value.hint
    if name.endswith(".apk"):
        assert Path(name).name in caught.value.message


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("harm", [_remove, _cut, _empty])
@pytest.mark.parametrize("name", FILES)
def test_a_missing_truncated_or_empty_file_is_noticed(laid: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(laid.parent / name)
    with pytest.raises(ImageProblemError) as caught:
        live_medium.check(laid, lambda _: None)
    assert _AGAIN in caught.value.hint


def test_a_package_that_a_stranger_has_signed_is_refused(laid: Path, tmp_path: Path, shop: Shop) -> None:
    other = tmp_path / "other"
    other.mkdir()
    generate_key(other, "test", bits=2048)
    (tmp_path / "repository" / ARCH).mkdir(parents=True)
    shop.signer = Signer(other / "test.rsa", "test.rsa.pub")
    made = shop.package("one", files={"usr/share/one": b"x"})
    made.rename(laid.parent / "apks" / ARCH / made.name)
    with pytest.raises(ImageProblemError, match=made.name):
        live_medium.check(laid, lambda _: None)


def an_upgrade(folder: Path) -> Run:
    return SystemUpgrade(
        existing.Existing(disk("sda"), disk("sdb"), Path("/dev/sda1"), Path("/dev/sdb1"), b"key"), folder, View()
    )


def an_installation(folder: Path) -> Run:
    return SystemInstallation(plan_of(row("sda"), stick()), folder, View())


@pytest.mark.parametrize(
    ("make", "state"), [(an_installation, "no disk was changed"), (an_upgrade, "the system is as it was")], ids=["new", "upgrade"]
)
def test_the_disks_are_as_they_were(
    laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Run], state: str
) -> None:
    """Nothing is called that opens or changes a disk."""
    called: list[str] = []
    watched(tmp_path, monkeypatch, "sda", "sdb")
    monkeypatch.setattr(installation, "LOG", tmp_path / "log")
    monkeypatch.setattr(disks, "release", lambda: None)
    for place, name in ((system, "add_tools"), (disks, "partition"), (disks, "open_volumes"), (disks, "empty_root")):
        monkeypatch.setattr(place, name, lambda *_, name=name: called.append(name))
    flip(laid.parent / FILES[1], 50)
    with pytest.raises(ImageProblemError) as caught:
        make(laid).run()
    assert state in caught.value.hint
    assert called == []
    assert "failed: packages of the medium: " in (tmp_path / "log").read_text()
