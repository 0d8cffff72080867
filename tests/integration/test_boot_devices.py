# SPDX-License-Identifier: Apache-2.0
"""The host's side of `tower upgrade`: which devices it takes for its boot device, and that it writes no other."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.disks import disk, looped, make_builds
from tests.unit.runtime.disks import MIB, garbage, tool

SCRIPT = Path(__file__).resolve().parents[2] / "runtime" / "upgrade" / "upgrade.sh"
SHELLS = (("sh",), ("busybox", "ash"))


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture
def loop(tmp_path: Path, builds: Path) -> Iterator[Path]:
    """A block device with the partitions of a host."""
    (image,) = builds.glob("*.img.zst")
    tool("zstd", "-q", "-d", image, "-o", tmp_path / "backing")
    with looped(tmp_path / "backing") as device:
        yield device


def look(device: Path, *, status: int = 0, shell: tuple[str, ...] = ("sh",)) -> str:
    done = subprocess.run([*shell, SCRIPT, "look", device], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def rows_of(said: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in said.splitlines())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_host_describes_its_boot_device(loop: Path, tmp_path: Path, shell: tuple[str, ...]) -> None:
    rows = rows_of(look(loop, shell=shell))
    assert (rows["device"], rows["size"]) == (str(loop), str(68 * MIB))
    assert base64.b64decode(rows["table"]) == loop.read_bytes()[:512]
    assert rows["state"] == "nothing"
    (tmp_path / "link").symlink_to(loop)
    again = rows_of(look(tmp_path / "link", shell=shell))
    assert {**again, "free": ""} == {**rows, "free": ""}
    tool("losetup", "--detach", loop)
    tool("losetup", loop, tmp_path / "backing")
    assert rows_of(look(loop, shell=shell))["identity"] != rows["identity"]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_host_writes_no_device_in_use(loop: Path, tmp_path: Path, shell: tuple[str, ...]) -> None:
    """Nor by another name of it."""
    tool("mke2fs", "-q", "-F", "-t", "ext4", loop)
    point, link, node = tmp_path / "point", tmp_path / "link", tmp_path / "node"
    point.mkdir()
    link.symlink_to(loop)
    try:
        tool("mount", loop, point)
        os.mknod(node, 0o060600, loop.stat().st_rdev)
    except (subprocess.CalledProcessError, PermissionError):
        pytest.skip("this machine mounts nothing")
    try:
        for name in (loop, link, node):
            assert f"in use: {point}" in look(name, status=1, shell=shell)
    finally:
        tool("umount", point)
    assert "no such device" in look(tmp_path / "none", status=1, shell=shell)


@pytest.mark.parametrize("shell", SHELLS)
def test_partitions_large_sectors_and_write_protected_disks_are_refused(
    loop: Path, tmp_path: Path, shell: tuple[str, ...]
) -> None:
    tool("partx", "--add", loop)
    try:
        assert "is a partition" in look(Path(f"{loop}p1"), status=1, shell=shell)
    finally:
        tool("partx", "--delete", loop)
    with disk(tmp_path / "large", 96 * MIB, "--sector-size", "4096") as device:
        assert "has sectors of 4096 bytes" in look(device, status=1, shell=shell)
    with disk(tmp_path / "closed", 96 * MIB, "--read-only") as device:
        assert "is write-protected" in look(device, status=1, shell=shell)


def test_a_host_never_writes_what_it_runs_from() -> None:
    name = tool("findmnt", "--noheadings", "--output", "SOURCE", "/").strip()
    if not Path(name).is_block_device():
        pytest.skip("the root of this machine is no block device")
    assert "runs from" in look(Path(name), status=1)


# --- writing ------------------------------------------------------------------------------------------------------------


class Writer:
    """The script in a folder of its own, with pieces that it gathered."""

    def __init__(self, folder: Path, shell: tuple[str, ...], *, before_a_piece: str = "") -> None:
        folder.mkdir()
        text = SCRIPT.read_text()
        for old, new in (
            ("folder=/var/lib/tower/upgrade\n", f"folder={folder}\n"),
            ('\t\tsay "writing', f'{before_a_piece}\n\t\tsay "writing'),
        ):
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.folder, self.shell, self.script = folder, shell, folder / "upgrade.sh"
        self.script.write_text(text)
        self.pieces = [(32, garbage(64 * MIB // 1024, seed=5)), (0, garbage(2 * 65536, seed=6))]
        sums = [hashlib.sha256(data).hexdigest() for _, data in self.pieces]
        rows = list(zip(sums, self.pieces, strict=True))
        self.stream = b"".join(f"{one} {len(data) // 65536}\n".encode() + data for one, (_, data) in rows)
        assert self.run("keep", stdin=self.stream).stdout.decode().split() == sums
        plan = "".join(f"{place} {len(data) // 65536} {one}\n" for one, (place, data) in rows).encode()
        (folder / "plan").write_bytes(plan)
        self.digest = hashlib.sha256(plan).hexdigest()

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*self.shell, self.script, *words], input=stdin, capture_output=True, check=False, timeout=60)

    def write(self, device: Path, identity: str, *, digest: str = "") -> str:
        """The state when it ended."""
        self.run("write", str(device), digest or self.digest, identity)
        return (self.folder / "state").read_text()

    def check(self, data: bytes) -> None:
        """Fail unless the pieces are where they belong."""
        for place, piece in self.pieces:
            assert data[place * 65536 : place * 65536 + len(piece)] == piece


@pytest.mark.parametrize("shell", SHELLS)
def test_a_device_is_written_past_the_cache(loop: Path, tmp_path: Path, shell: tuple[str, ...]) -> None:
    """The whole of the host's side on a block device."""
    writer = Writer(tmp_path / "host", shell)
    assert b"damaged or incomplete" in writer.run("keep", stdin=writer.stream[:70000]).stderr
    identity = rows_of(look(loop))["identity"]
    assert writer.write(loop, identity, digest="0" * 64).startswith("failed the plan")
    assert writer.write(loop, identity) == "done\n"
    writer.check(loop.read_bytes())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_device_that_was_swapped_is_not_written(loop: Path, tmp_path: Path, shell: tuple[str, ...]) -> None:
    """Between the look and the writing; both have the same size."""
    writer, identity, other = Writer(tmp_path / "host", shell), rows_of(look(loop))["identity"], tmp_path / "other"
    other.write_bytes(b"another")
    os.truncate(other, 68 * MIB)
    tool("losetup", "--detach", loop)
    tool("losetup", loop, other)
    assert "is not the device that was there before" in writer.write(loop, identity)
    assert other.read_bytes().rstrip(b"\0") == b"another"
    assert "no such device" in writer.write(tmp_path / "none", identity)
    (tmp_path / "folder").mkdir()
    assert "no such device" in writer.write(tmp_path / "folder", identity)


@pytest.mark.parametrize("shell", SHELLS)
def test_all_pieces_go_to_what_was_opened(tmp_path: Path, shell: tuple[str, ...]) -> None:
    """Another file takes the place of the one that is being written: it stays what it is."""
    target, moved, other = tmp_path / "boot.img", tmp_path / "moved.img", tmp_path / "other.img"
    for path in (target, other):
        path.write_text(path.name)
        os.truncate(path, 68 * MIB)
    swap = f"[ ! -e {other} ] || {{ mv {target} {moved}; mv {other} {target}; }}"
    writer = Writer(tmp_path / "host", shell, before_a_piece=swap)
    assert writer.write(target, rows_of(look(target))["identity"]) == "done\n"
    writer.check(moved.read_bytes())
    assert target.read_bytes().rstrip(b"\0") == b"other.img"
