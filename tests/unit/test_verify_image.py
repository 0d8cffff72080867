# SPDX-License-Identifier: Apache-2.0
"""`tower verify-image`: what holds, and everything that must not."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tower.base.errors import TowerError
from tower.cli import main
from tower.image.minisign import SUFFIX
from tower.image.verify import comment_of, dump_sums, key_of, trusted_keys, verify_image

from pipeline.images import blockmap
from pipeline.supply.minisign import SecretKey

KEY = SecretKey.generate()
RAW = bytes(4096) * 3 + b"boot" * 2000 + bytes(4096) * 5 + b"root" * 3000 + bytes(5000)
NAME = "toweros-host-1.2-stable-pc.img"


def sign(path: Path, name: str = "", *, key: SecretKey = KEY, version: str = "1.2") -> None:
    signed = key.sign_bytes(path.read_bytes(), comment_of(name or path.name, version, "stable"))
    path.with_name(path.name + SUFFIX).write_bytes(signed)


def make(folder: Path, ending: str = "") -> Path:
    """A signed image with its map, packed as `ending` says, in a signed SHA256SUMS."""
    plain = folder / "plain"
    plain.write_bytes(RAW)
    image = folder / f"{NAME}{ending}"
    image.with_name(f"{image.name}.bmap").write_bytes(blockmap.dump(blockmap.read_image(plain)))
    if ending == ".zst":
        program = shutil.which("zstd")
        if program is None:
            pytest.skip("zstd is not installed")
        subprocess.run([program, "-q", plain, "-o", image], check=True)
    else:
        image.write_bytes(lzma.compress(RAW) if ending == ".xz" else RAW)
    plain.unlink()
    sign(image)
    sums(image)
    return image


def sums(image: Path) -> None:
    path = image.with_name("SHA256SUMS")
    path.write_bytes(dump_sums({image.name: hashlib.sha256(image.read_bytes()).hexdigest()}))
    sign(path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make(tmp_path)


def remove(image: Path, *names: str) -> None:
    for name in names:
        (image.parent / name).unlink()


@pytest.mark.parametrize("ending", ["", ".xz", ".zst"])
def test_a_good_image_is_verified(tmp_path: Path, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = make(tmp_path, ending)
    assert verify_image(image, [KEY.public_key]).checks == ("signature", "SHA256SUMS", "block map")
    assert main.main(["verify-image", str(image), "--key", KEY.public_key.text]) == 0
    said = f"{image}: good: signature, SHA256SUMS, block map; version 1.2 channel stable; signed by {KEY.public_key.name}\n"
    assert capsys.readouterr().out == said


def test_for_programs(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["verify-image", str(image), str(tmp_path / "none.img"), "--key", KEY.public_key.text, "--json"]
    assert main.main(argv) == 13
    found = json.loads(capsys.readouterr().out)
    good, bad = found["images"]
    assert not found["all_good"]
    assert (good["good"], good["version"], good["checks"]) == (True, "1.2", ["signature", "SHA256SUMS", "block map"])
    assert (bad["good"], bad["image"]) == (False, str(tmp_path / "none.img"))


def test_one_of_both_signatures_is_enough(image: Path) -> None:
    remove(image, f"{NAME}.minisig")
    assert verify_image(image, [KEY.public_key]).checks == ("SHA256SUMS", "block map")
    sign(image)
    remove(image, "SHA256SUMS", "SHA256SUMS.minisig", f"{NAME}.bmap")
    assert verify_image(image, [KEY.public_key]).checks == ("signature",)


def test_checksums_of_another_download_do_no_harm(image: Path) -> None:
    """Another download's SHA256SUMS in the same folder does no harm."""
    remove(image, "SHA256SUMS.minisig")
    (image.parent / "SHA256SUMS").write_text(f"{'0' * 64}  other.iso\n")
    assert verify_image(image, [KEY.public_key]).checks == ("signature", "block map")
    (image.parent / "SHA256SUMS").write_text(f"{'0' * 64}  {NAME}\n")
    with pytest.raises(TowerError, match=r"SHA256SUMS\.minisig: No such file"):
        verify_image(image, [KEY.public_key])


def unsigned(image: Path) -> None:
    remove(image, f"{NAME}.minisig", "SHA256SUMS", "SHA256SUMS.minisig")


def renamed(image: Path) -> None:
    """An older image under the name of a newer one."""
    sign(image, "toweros-host-1.1-stable-pc.img", version="1.1")


def two_releases(image: Path) -> None:
    sign(image, version="1.1")


def by_another_key(image: Path) -> None:
    sign(image, key=SecretKey.generate())


def sums_by_another_key(image: Path) -> None:
    sign(image.parent / "SHA256SUMS", key=SecretKey.generate())


def other_sum(image: Path) -> None:
    path = image.parent / "SHA256SUMS"
    path.write_text(f"{'0' * 64}  {NAME}\n")
    sign(path)


def one_bit(image: Path) -> None:
    image.write_bytes(RAW[:5000] + b"\1" + RAW[5001:])


def shorter(image: Path) -> None:
    image.write_bytes(RAW[:-1])


def longer(image: Path) -> None:
    image.write_bytes(RAW + b"\0")


def map_of_another_image(image: Path) -> None:
    other = image.parent / "other"
    other.write_bytes(RAW.replace(b"boot", b"loot", 1))
    (image.parent / f"{NAME}.bmap").write_bytes(blockmap.dump(blockmap.read_image(other)))


def map_with_a_hole(image: Path) -> None:
    found = blockmap.read_image(image)
    (image.parent / f"{NAME}.bmap").write_bytes(blockmap.dump(blockmap.BlockMap(found.size, found.ranges[:1])))


def map_that_was_edited(image: Path) -> None:
    path = image.parent / f"{NAME}.bmap"
    path.write_bytes(path.read_bytes().replace(b"<MappedBlocksCount> ", b"<MappedBlocksCount> 1"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (unsigned, "is not signed"),
        (renamed, "its signature is for a file with another name"),
        (two_releases, "are of different releases"),
        (by_another_key, "which is not trusted"),
        (sums_by_another_key, "which is not trusted"),
        (other_sum, "expected 0000"),
        (one_bit, "is not what key"),
        (shorter, "is not what key"),
        (longer, "is not what key"),
        (map_of_another_image, "block map says"),
        (map_with_a_hole, "its block map says that it is empty"),
        (map_that_was_edited, "its own checksum does not hold"),
        (lambda image: image.unlink(), "no such image"),
    ],
)
def test_a_bad_image_is_refused_with_the_reason(
    image: Path, spoil: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(image)
    with pytest.raises(TowerError, match=said):
        verify_image(image, [KEY.public_key])
    assert main.main(["verify-image", str(image), "--key", KEY.public_key.text]) == 13
    written = capsys.readouterr()
    assert said in written.err
    assert written.out == ""


def test_every_bit_of_the_files_beside_it(image: Path) -> None:
    for name in (f"{NAME}.minisig", "SHA256SUMS", "SHA256SUMS.minisig", f"{NAME}.bmap"):
        path = image.parent / name
        data = path.read_bytes()
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            with pytest.raises(TowerError):
                verify_image(image, [KEY.public_key])
        path.write_bytes(data)


def test_damaged_compressed_image(tmp_path: Path) -> None:
    image = make(tmp_path, ".xz")
    image.write_bytes(image.read_bytes()[:-30])
    sign(image)
    sums(image)
    with pytest.raises(TowerError, match="cannot be unpacked"):
        verify_image(image, [KEY.public_key])


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image: Path) -> None:
    folders = (tmp_path / "system", tmp_path / "user")
    monkeypatch.setattr("tower.image.verify.KEY_FOLDERS", folders)
    monkeypatch.setattr("tower.image.verify.trusted_keys.__defaults__", (folders,))
    assert main.main(["verify-image", str(image)]) == 13
    assert "there is no public key to trust" in capsys.readouterr().err
    folders[1].mkdir()
    (folders[1] / "tower.pub").write_bytes(KEY.public_key.dump())
    assert trusted_keys() == (KEY.public_key,)
    assert main.main(["verify-image", str(image)]) == 0
    assert key_of(str(folders[1] / "tower.pub")) == key_of(KEY.public_key.text) == KEY.public_key


ODD: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: path.write_bytes(b""),
    "no key": lambda path: path.write_text("x\n"),
    "key of ssh": lambda path: path.write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ5dGVzIG9mIGFub3RoZXIga2V5IGVudGlyZWx5ISE al@home\n"
    ),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 300),
    "folder": lambda path: path.mkdir(),
    "FIFO": os.mkfifo,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["0.pub", "z\x1b[2J.pub"])
def test_an_invalid_key_is_left_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], image: Path, kind: str, name: str
) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    monkeypatch.setattr("tower.image.verify.trusted_keys.__defaults__", ((keys,),))
    ODD[kind](keys / name)
    assert main.main(["verify-image", str(image)]) == 13
    assert "there is no public key to trust" in capsys.readouterr().err
    (keys / "tower.pub").write_bytes(KEY.public_key.dump())
    assert main.main(["verify-image", str(image), str(image)]) == 0
    said = capsys.readouterr().err
    assert said.count("warning: this key is ignored") == 1
    assert str(keys / name).replace("\x1b", "?") in said
    assert "\x1b" not in said


def test_keys_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    keys, closed = Path("keys"), Path("closed")
    for folder in (keys, closed):
        folder.mkdir()
    for name in ("good.pub", "unreadable.pub"):
        (keys / name).write_bytes(KEY.public_key.dump())
    (keys / "unreadable.pub").chmod(0)
    closed.chmod(0)
    with nobody():
        assert trusted_keys((Path("none"), closed, keys)) == (KEY.public_key,)
    said = capsys.readouterr().err
    assert "closed: its keys are ignored: Permission denied" in said
    assert "keys/unreadable.pub: Permission denied" in said


@contextmanager
def nobody() -> Iterator[None]:
    """Be somebody who is not root, who may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
