# SPDX-License-Identifier: Apache-2.0
"""Which image is taken, and which never."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tower.base.errors import ImageProblemError
from tower.image import source
from tower.image.source import builds_folder, check_source, find_image, read_source
from tower.image.verify import comment_of, dump_sums, sha256_of

from pipeline.supply.minisign import SecretKey
from tests.unit.runtime.disks import write_manifest


@pytest.fixture
def image(small_image: Path, tmp_path: Path) -> Path:
    for path in small_image.parent.glob(f"{small_image.name}*"):
        shutil.copy2(path, tmp_path / path.name)
    return tmp_path / small_image.name


def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channel: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(f"TOWER_CHANNEL={channel}\n")
    monkeypatch.setattr(source, "OS_RELEASE", path)


def test_the_first_folder_that_exists(home: Path) -> None:
    assert builds_folder() == home / ".cache/tower/builds"
    (home / "builds").mkdir()
    assert builds_folder() == home / "builds"
    (home / "dist").mkdir()
    assert builds_folder() == home / "dist"


def test_the_newest_of_a_target(tmp_path: Path) -> None:
    for name in (
        "0.9.0-lab-pc.img.zst",
        "0.10.0-lab-pc.img.zst",
        "0.10.0rc1-lab-pc.img.zst",
        "9.0.0-lab-rpi.img.zst",
        "x-lab-pc.img",
    ):
        (tmp_path / f"toweros-host-{name}").touch()
    (tmp_path / "toweros-host-9.9.9-lab-pc.img.zst.bmap").touch()
    assert find_image(tmp_path, "pc").name == "toweros-host-0.10.0-lab-pc.img.zst"
    (tmp_path / "toweros-host-0.10.0-alpine-v3.24-pc.img.xz").touch()
    with pytest.raises(ImageProblemError, match="2 images"):
        find_image(tmp_path, "pc")
    with pytest.raises(ImageProblemError, match="no image"):
        find_image(tmp_path / "none", "pc")


def test_the_source_has_version_channel_and_branch_of_the_manifest(image: Path) -> None:
    found = read_source(image)
    assert (found.version, found.channel, found.branch, found.releasable) == ("1.2.0", "lab", "lab", False)


@pytest.mark.parametrize("ending", ["", ".bmap", ".manifest.json"])
def test_a_file_that_is_missing(image: Path, ending: str) -> None:
    image.with_name(image.name + ending).unlink()
    with pytest.raises(ImageProblemError, match=r"no such image|there is no"):
        read_source(image)


@pytest.mark.parametrize("change", [{"channel": None}, {"channel": {"name": "x"}}, {"files": {}}, {"version": None, "files": []}])
def test_invalid_manifests(image: Path, change: dict[str, object]) -> None:
    path = image.with_name(f"{image.name}.manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ImageProblemError, match="not the manifest"):
        read_source(image)
    path.write_text("{")
    with pytest.raises(ImageProblemError, match="not the manifest"):
        read_source(image)


def test_a_block_map_of_another_build_is_refused(image: Path) -> None:
    """What the manifest says of it counts; a manifest that says nothing leaves it to the writing."""
    block_map = image.with_name(f"{image.name}.bmap")
    path = image.with_name(f"{image.name}.manifest.json")
    manifest = json.loads(path.read_text())
    manifest["files"][block_map.name] = {"sha256": sha256_of(block_map), "size": block_map.stat().st_size}
    path.write_text(json.dumps(manifest))
    read_source(image)
    manifest["files"][block_map.name]["sha256"] = "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(ImageProblemError, match=r"different builds"):
        read_source(image)
    odd: object
    for odd in (None, [], "x"):
        manifest["files"][block_map.name] = odd
        path.write_text(json.dumps(manifest))
        with pytest.raises(ImageProblemError, match="not the manifest"):
            read_source(image)


def test_a_changed_image_is_refused(image: Path) -> None:
    found = read_source(image)
    whole = image.read_bytes()
    image.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ImageProblemError, match="sha256"):
        check_source(found, unsigned=True)


def test_without_a_signature_only_for_development(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path, monkeypatch, "lab")
    assert "not signed" in check_source(read_source(image), unsigned=False)
    release(tmp_path, monkeypatch, "alpine-v3.24")
    with pytest.raises(ImageProblemError, match="not signed"):
        check_source(read_source(image), unsigned=False)
    assert "not signed" in check_source(read_source(image), unsigned=True)
    write_manifest(image, channel="alpine-v3.24", releasable=True)
    with pytest.raises(ImageProblemError, match="not signed"):
        check_source(read_source(image), unsigned=False)


def test_images_of_the_own_medium_need_no_signature(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root alone can write says which these are; anything odd about it, and it says nothing."""
    release(tmp_path, monkeypatch, "alpine-v3.24")
    write_manifest(image, channel="alpine-v3.24", releasable=True)
    found = read_source(image)
    listed = tmp_path / "images.sha256"
    monkeypatch.setattr("tower.image.source.OWN_IMAGES", listed)
    good = f"{'0' * 64}  other.img\n{found.sha256}  {image.name}\n"
    refused = pytest.raises(ImageProblemError, match="not signed")
    for text, mode in ((None, 0), (good, 0o666), (good, 0o664), (f"{found.sha256}\n", 0o644), (f"{good}x\n", 0o644), ("", 0o644)):
        if text is not None:
            listed.write_text(text)
            listed.chmod(mode)
        with refused:
            check_source(found, unsigned=False)
    listed.write_text(good)
    listed.chmod(0o644)
    monkeypatch.setattr("tower.image.source.ROOT", os.getuid() + 1)
    with refused:
        check_source(found, unsigned=False)
    monkeypatch.setattr("tower.image.source.ROOT", os.getuid())
    assert check_source(found, unsigned=False) == "came with this system"


def test_a_signature_that_does_not_hold_is_never_passed_over(image: Path, home: Path) -> None:
    image.with_name(f"{image.name}.minisig").write_text("untrusted comment: x\n")
    with pytest.raises(ImageProblemError):
        check_source(read_source(image), unsigned=True)


def signed(path: Path, key: SecretKey, version: str) -> None:
    path.with_name(f"{path.name}.minisig").write_bytes(key.sign_bytes(path.read_bytes(), comment_of(path.name, version, "lab")))


def test_a_manifest_says_no_other_version_than_the_signature(image: Path, home: Path) -> None:
    """Else an old image, with known faults, could be passed off as a new one."""
    key = SecretKey.generate()
    (home / ".local/tower/keys").mkdir(parents=True)
    (home / ".local/tower/keys/makers.pub").write_bytes(key.public_key.dump())
    signed(image, key, "1.2.0")
    assert check_source(read_source(image), unsigned=False) == f"signed by {key.public_key.name}"
    signed(image, key, "1.1.0")
    with pytest.raises(ImageProblemError, match=r"signed as version 1\.1\.0, channel lab; its manifest says 1\.2\.0"):
        check_source(read_source(image), unsigned=True)


def test_a_manifest_that_the_makers_did_not_write(image: Path, home: Path) -> None:
    key = SecretKey.generate()
    (home / ".local/tower/keys").mkdir(parents=True)
    (home / ".local/tower/keys/makers.pub").write_bytes(key.public_key.dump())
    manifest = image.with_name(f"{image.name}.manifest.json")
    sums = image.with_name("SHA256SUMS")
    sums.write_bytes(dump_sums({path.name: sha256_of(path) for path in (image, manifest)}))
    signed(sums, key, "1.2.0")
    check_source(read_source(image), unsigned=False)
    manifest.write_text(manifest.read_text().replace('"branch": "lab"', '"branch": "old"'))
    assert read_source(image).branch == "old"
    with pytest.raises(ImageProblemError, match="manifest"):
        check_source(read_source(image), unsigned=True)
