# SPDX-License-Identifier: Apache-2.0
"""`tower upgrade` with the boot device in this machine, the medium of the thin client, and which devices a host may write.

Over the network: tests/network/test_upgrade.py.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tower import receipt
from tower.receipt import Stage

from tests.integration.disks import AGAIN, make_builds, newer, provisioned, run
from tests.unit.runtime.disks import BOOT, MIB, check_disk, garbage, tool, write_manifest

SCRIPT = Path(__file__).resolve().parents[2] / "runtime" / "upgrade.sh"


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_builds(tmp_path_factory.mktemp("builds"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def vm(home: Path, builds: Path, tmp_path: Path) -> Path:
    """The disk of host `vm`, of version 1.2.0, which answered."""
    return provisioned(home, builds, tmp_path, "vm")


def check(home: Path, disk: Path, tmp_path: Path) -> None:
    check_disk(disk, tmp_path)
    folder = home / ".local/tower/hosts/vm"
    for name in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json"):
        argv = ("mcopy", "-i", f"{disk}@@{BOOT[0]}", f"::{name}", "-")
        assert subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout == (folder / name).read_bytes(), name
    assert "INSTALLATION_TYPE='upgrade'" in (folder / "tower.env").read_text()
    found = receipt.read(folder / "receipt.json")
    assert (found.stage, found.version) == (Stage.WRITTEN, "1.3.0")


KEPT = ("crypto_keyfile.bin", "id_ed25519", "id_ed25519.pub", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "world")


def test_a_boot_device_in_this_machine(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    folder = home / ".local/tower/hosts/vm"
    before = {name: (folder / name).read_bytes() for name in KEPT}
    settings, config = (folder / "tower.env").read_text(), (home / ".local/tower/config").read_bytes()
    disk = vm.read_bytes()
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(vm))
    assert json.loads(run(home, *argv, "--dry-run"))["version"] == "1.2.0 becomes 1.3.0"
    assert vm.read_bytes() == disk
    found = json.loads(run(home, *argv))
    assert (found["state"], found["version"], found["next"]) == ("written", "1.3.0", "tower upgrade --resume vm")
    check(home, vm, tmp_path)
    assert {name: (folder / name).read_bytes() for name in KEPT} == before
    assert (folder / "tower.env").read_text() == settings.replace("'install'", "'upgrade'")
    assert (home / ".local/tower/config").read_bytes() == config


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("disk._grow", signal.SIGKILL),
        ("flash._fill", signal.SIGINT),
        ("upgrade.adopt", signal.SIGKILL),
        ("upgrade.write_file", signal.SIGTERM),
    ],
)
def test_stopped_and_gone_on_with(home: Path, builds: Path, vm: Path, tmp_path: Path, step: str, number: signal.Signals) -> None:
    module, name = step.split(".")
    code = (
        f"import os, signal\nfrom tower import cli, {module}\nwhole = {module}.{name}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"def stop(*a, **k):\n    os.kill(os.getpid(), {int(number)})\n    return whole(*a, **k)\n{module}.{name} = stop"
    )
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file", str(vm))
    run(home, *argv, status=-9 if number is signal.SIGKILL else 128 + number, code=code)
    assert "begun already" in run(home, *argv, status=11)
    run(home, "upgrade", "--resume", "vm", *AGAIN)
    check(home, vm, tmp_path)


def test_the_disk_of_another_host_is_refused(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    other = provisioned(home, builds, tmp_path, "db")
    before = other.read_bytes()
    argv = ("upgrade", "vm", *AGAIN, *newer(builds), "--device-file")
    assert "that of host db" in run(home, *argv, str(other), status=14)
    nothing = tmp_path / "nothing"
    nothing.write_bytes(garbage(96 * MIB))
    assert "no host's receipt" in run(home, *argv, str(nothing), status=14)
    assert other.read_bytes() == before
    assert not (home / ".local/tower/hosts/vm/upgrade").exists()
    moved = tmp_path / "moved"
    shutil.copyfile(vm, moved)
    run(home, *argv, str(moved))
    assert vm.read_bytes() != moved.read_bytes()
    check(home, moved, tmp_path)


def test_what_must_be_asked_for(home: Path, builds: Path, vm: Path, tmp_path: Path) -> None:
    path = home / ".local/tower/hosts/vm/receipt.json"
    found = receipt.read(path)
    (old,) = builds.glob("*.img.zst")
    argv = ("upgrade", "vm", *AGAIN, "--device-file", str(vm), "--dry-run", "--image")
    assert "very image" in json.loads(run(home, *argv, str(old)))["next"]
    assert json.loads(run(home, *argv, str(old), "--again"))["version"] == "1.2.0 becomes 1.2.0"
    receipt.write(path, found.at(Stage.WRITTEN))
    assert "never answered" in run(home, *argv, str(old), status=11)
    receipt.write(path, found)
    settings = home / ".local/tower/hosts/vm/tower.env"
    settings.write_text(settings.read_text().replace("'required'", "'none'"))
    assert "--lose-files" in run(home, *argv, str(old), status=11)
    run(home, *argv, str(old), "--lose-files")
    assert "no upgrade is begun" in run(home, "upgrade", "--resume", "vm", status=11)


def test_a_medium_for_the_thin_client(home: Path, builds: Path, tmp_path: Path) -> None:
    (image,) = builds.glob("*.img.zst")
    folder = tmp_path / "media"
    folder.mkdir()
    iso = folder / "toweros-thinclient-1.3.0-lab-x86_64.iso"
    with iso.open("wb") as out:
        subprocess.run(["zstd", "-dcq", image], stdout=out, check=True, timeout=30)
    shutil.copyfile(f"{image}.bmap", f"{iso}.bmap")
    write_manifest(iso)
    stick = tmp_path / "stick.img"
    argv = ("upgrade", "thinclient", "--image", str(iso), "--device-file", str(stick), "--yes", "--json")
    assert "not signed" in run(home, *argv, status=13)
    found = json.loads(run(home, *argv, "--unsigned", "--dry-run"))
    assert not stick.exists()
    found = json.loads(run(home, *argv, "--unsigned"))
    assert "Install TowerOS" in found["next"]
    assert stick.read_bytes() == iso.read_bytes()
    data = bytearray(iso.read_bytes())
    data[-1] ^= 1
    iso.write_bytes(data)
    assert "sha256" in run(home, *argv, "--unsigned", status=13)


# --- what a host says about its boot device ---------------------------------------------------------------------------


def look(device: Path, *, status: int = 0, shell: tuple[str, ...] = ("sh",)) -> str:
    done = subprocess.run([*shell, SCRIPT, "look", device], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def loop(tmp_path: Path, builds: Path) -> Iterator[Path]:
    """A block device with the partitions of a host."""
    (image,) = builds.glob("*.img.zst")
    backing = tmp_path / "backing"
    with backing.open("wb") as out:
        subprocess.run(["zstd", "-dcq", image], stdout=out, check=True, timeout=30)
    try:
        device = Path(tool("losetup", "--find", "--show", backing).strip())
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this machine gives no loop devices")
    yield device
    tool("losetup", "--detach", device)


@pytest.mark.parametrize("shell", [("sh",), ("busybox", "ash")])
def test_a_host_describes_its_boot_device(loop: Path, shell: tuple[str, ...]) -> None:
    rows = dict(line.split("=", 1) for line in look(loop, shell=shell).splitlines())
    assert (rows["device"], rows["size"]) == (str(loop), str(68 * MIB))
    assert base64.b64decode(rows["table"]) == loop.read_bytes()[:512]
    assert rows["state"] == "nothing"


def test_a_host_writes_no_device_in_use(loop: Path, tmp_path: Path) -> None:
    tool("mke2fs", "-q", "-F", "-t", "ext4", loop)
    point = tmp_path / "point"
    point.mkdir()
    try:
        tool("mount", loop, point)
    except subprocess.CalledProcessError:
        pytest.skip("this machine mounts nothing")
    try:
        assert f"in use: {point}" in look(loop, status=1)
    finally:
        tool("umount", point)
    assert "no such device" in look(tmp_path / "none", status=1)


def test_a_host_never_writes_what_it_runs_from() -> None:
    name = tool("findmnt", "--noheadings", "--output", "SOURCE", "/").strip()
    if not Path(name).is_block_device():
        pytest.skip("the root of this machine is no block device")
    assert "runs from" in look(Path(name), status=1)


def test_a_device_is_written_past_the_cache(loop: Path, tmp_path: Path) -> None:
    """The whole of the host's side on a block device, in a folder of its own."""
    import hashlib

    folder = tmp_path / "host"
    folder.mkdir()
    text = SCRIPT.read_text()
    assert text.count("folder=/var/lib/tower/upgrade\n") == 1
    script = folder / "upgrade.sh"
    script.write_text(text.replace("folder=/var/lib/tower/upgrade\n", f"folder={folder}\n"))
    pieces = [(32, garbage(64 * MIB // 1024, seed=5)), (0, garbage(2 * 65536, seed=6))]
    sums = [hashlib.sha256(data).hexdigest() for _, data in pieces]
    stream = b"".join(f"{one} {len(data) // 65536}\n".encode() + data for one, (_, data) in zip(sums, pieces, strict=True))
    kept = subprocess.run(["sh", script, "keep"], input=stream, capture_output=True, check=True, timeout=30)
    assert kept.stdout.decode().split() == sums
    bad = subprocess.run(["sh", script, "keep"], input=stream[:70000], capture_output=True, check=False, timeout=30)
    assert b"damaged or incomplete" in bad.stderr
    plan = "".join(f"{place} {len(data) // 65536} {one}\n" for one, (place, data) in zip(sums, pieces, strict=True)).encode()
    (folder / "plan").write_bytes(plan)
    digest = hashlib.sha256(plan).hexdigest()
    for wanted, said in (("0" * 64, "failed the plan"), (digest, "done")):
        subprocess.run(["sh", script, "write", str(loop), wanted], check=False, timeout=60)
        assert (folder / "state").read_text().startswith(said)
    data = loop.read_bytes()
    for place, piece in pieces:
        assert data[place * 65536 : place * 65536 + len(piece)] == piece
