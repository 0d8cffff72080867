# SPDX-License-Identifier: Apache-2.0
"""`tower provision` as it is typed: onto files and loop devices, interrupted and killed, resumed, and answered.

Disks are written for real: loop devices where this machine has them, files elsewhere. The host that answers is a real
sshd with the host key that was made for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.images.guest import free_port
from tests.unit.runtime.disks import BOOT, MIB, ROOT, check_disk, garbage, make_image, tool

COMMON = ("--offline", "--username", "al", "--target", "pc", "--unsigned", "--no-wait", "--yes", "--json")


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("builds")
    make_image(folder, compress="zstd")
    return folder


@pytest.fixture
def home(tmp_path: Path, builds: Path) -> Path:
    """A user's home with a folder of builds, and a link to them."""
    folder = tmp_path / "home"
    (folder / ".cache/tower").mkdir(parents=True)
    (folder / ".cache/tower/builds").symlink_to(builds)
    return folder


def start(home: Path, *argv: str) -> subprocess.Popen[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    command = [sys.executable, "-P", "-m", "tower", *argv]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=home, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def run(home: Path, *argv: str, status: int = 0, timeout: float = 120) -> str:
    child = start(home, *argv)
    out, err = child.communicate(timeout=timeout)
    assert child.returncode == status, f"{out}\n{err}"
    return out if status == 0 else err


def state(home: Path, name: str) -> str:
    found: str = json.loads((home / f".local/tower/hosts/{name}/receipt.json").read_text())["stage"]
    return found


def check_placed(home: Path, name: str, target: Path, scratch: Path) -> None:
    """Fail unless the disk is whole and has the host's files."""
    check_disk(target, scratch)
    folder = home / ".local/tower/hosts" / name
    for file in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json"):
        argv = ("mcopy", "-i", f"{target}@@{BOOT[0]}", f"::{file}", "-")
        assert subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout == (folder / file).read_bytes(), file


def left_over(home: Path) -> list[str]:
    """Scratch files, half-made hosts, and programs of ours."""
    folders = (home / ".cache/tower", home / ".local/tower/hosts")
    return [path.name for folder in folders if folder.is_dir() for path in folder.iterdir() if path.name.startswith(".")]


def test_a_file_becomes_a_hosts_disk(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "vm.img"
    out = run(home, "provision", "vm", *COMMON, "--device-file", str(target), "--size", "256M")
    found = json.loads(out)
    assert found["state"] == "written"
    assert found["address"] == "192.168.3.200"
    assert target.stat().st_size == 256 * MIB
    check_placed(home, "vm", target, tmp_path)
    assert left_over(home) == []
    assert "this host exists already" in run(home, "provision", "vm", *COMMON, "--device-file", str(target), status=11)
    run(home, "deprovision", "vm", "--yes")
    assert not (home / ".local/tower/hosts/vm").exists()
    assert "vm" not in (home / ".local/tower/config").read_text()


@pytest.mark.parametrize(("asked", "said"), [((), "required"), (("--unencrypted",), "none")])
def test_a_host_stays_unencrypted_only_when_asked_for(home: Path, tmp_path: Path, asked: tuple[str, ...], said: str) -> None:
    target = tmp_path / "vm.img"
    argv = ("provision", "vm", *COMMON, *asked, "--device-file", str(target))
    assert json.loads(run(home, *argv, "--dry-run"))["encryption"] == said
    run(home, *argv)
    argv = ("mcopy", "-i", f"{target}@@{BOOT[0]}", "::tower.env", "-")
    assert f"\nENCRYPTION='{said}'\n" in tool(*argv)


def test_private_keys_are_never_printed(home: Path, tmp_path: Path) -> None:
    child = start(home, "provision", "vm", *COMMON, "--device-file", str(tmp_path / "vm.img"))
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0
    settings = (home / ".local/tower/hosts/vm/tower.env").read_text()
    hashed = next(line for line in settings.splitlines() if line.startswith("PASSWORD_HASH="))
    for secret in ("PRIVATE KEY", hashed.split("'")[1]):
        assert secret not in out + err


def test_a_dry_run_changes_nothing(home: Path, tmp_path: Path) -> None:
    out = run(home, "provision", "vm", *COMMON, "--device-file", str(tmp_path / "vm.img"), "--dry-run")
    found = json.loads(out)
    assert found["address"] == "192.168.3.200"
    assert str(tmp_path / "vm.img") in found["overwrites"]
    assert not (tmp_path / "vm.img").exists()
    assert not (home / ".local").exists()
    assert not (home / ".ssh").exists()


def test_without_a_terminal_the_option_yes_is_required(home: Path, tmp_path: Path) -> None:
    argv = [word for word in COMMON if word != "--yes"]
    assert "--yes" in run(home, "provision", "vm", *argv, "--device-file", str(tmp_path / "vm.img"), status=10)
    assert not (home / ".local").exists()


# --- block devices --------------------------------------------------------------------------------------------


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A block device of 256 MiB that was used before."""
    backing = tmp_path / "backing"
    backing.write_bytes(garbage(256 * MIB))
    try:
        device = Path(tool("losetup", "--find", "--show", backing).strip())
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this machine gives no loop devices")
    yield device
    tool("losetup", "--detach", device)


def contents(device: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copyfile(device, copy)
    return copy


def test_a_block_device_becomes_a_hosts_disk(home: Path, loop: Path, tmp_path: Path) -> None:
    out = run(home, "provision", "vault", *COMMON, "--device", str(loop))
    assert str(loop) in json.loads(out)["device"]
    copy = contents(loop, tmp_path)
    check_placed(home, "vault", copy, tmp_path)
    assert check_disk(copy, tmp_path)["size"] == 256 * MIB - ROOT[0]


def test_a_device_in_use_is_refused(home: Path, loop: Path, tmp_path: Path) -> None:
    tool("mke2fs", "-q", "-t", "ext4", loop)
    point = tmp_path / "point"
    point.mkdir()
    try:
        tool("mount", loop, point)
    except subprocess.CalledProcessError:
        pytest.skip("this machine mounts nothing")
    try:
        assert "in use" in run(home, "provision", "vault", *COMMON, "--device", str(loop), status=14)
    finally:
        tool("umount", point)
    assert not (home / ".local").exists()


def test_the_systems_own_disk_is_refused(home: Path) -> None:
    rows = json.loads(tool("lsblk", "--json", "--list", "--output", "PATH,TYPE,PKNAME,MOUNTPOINTS"))["blockdevices"]
    own = [row["path"] for row in rows if row["type"] == "disk" and any(row["mountpoints"])]
    if not own:
        pytest.skip("no disk of this machine is mounted")
    assert "in use" in run(home, "provision", "vault", *COMMON, "--device", own[0], status=14)
    assert not (home / ".local").exists()


def test_a_device_that_another_program_writes(home: Path, loop: Path) -> None:
    with loop.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        err = run(home, "provision", "vault", *COMMON, "--device", str(loop), status=14)
    assert "another program" in err
    assert "--resume vault" in err
    run(home, "provision", "--resume", "vault", "--unsigned", "--no-wait")
    assert state(home, "vault") == "written"


def test_a_device_that_was_swapped_for_a_smaller_one(home: Path, loop: Path, tmp_path: Path) -> None:
    with loop.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        run(home, "provision", "vault", *COMMON, "--device", str(loop), status=14)
    tool("losetup", "--detach", loop)
    other = tmp_path / "other"
    other.write_bytes(garbage(128 * MIB))
    tool("losetup", loop, other)
    assert "not the disk" in run(home, "provision", "--resume", "vault", "--unsigned", "--no-wait", status=14)
    assert other.read_bytes() == garbage(128 * MIB)
    run(home, "provision", "--resume", "vault", "--unsigned", "--no-wait", "--yes", "--device", str(loop))
    check_placed(home, "vault", contents(loop, tmp_path), tmp_path)


# --- interrupted ----------------------------------------------------------------------------------------------

TRAP = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
from tower.cli import main as cli; import tower.{module} as module
whole = module.{name}
seen = 0
def trapped(*args, **more):
    global seen
    seen += 1
    if seen == {at}:
        os.kill(os.getpid(), signal.{signal})
    return whole(*args, **more)
module.{name} = trapped
{also}
sys.exit(cli.main(sys.argv[1:]))
"""
STEPS = {
    "keys": ("hosts.secret", "new_key_file", 1, ""),
    "host's folder": ("base.files", "sync_folder", 3, ""),
    "configuration": ("hosts.registry", "include", 1, ""),
    "first block": ("disk.flash", "_fill", 1, ""),
    "later block": ("disk.flash", "_fill", 9, ""),
    "growing": ("disk.make", "_grow", 1, ""),
    "putting back": ("disk.partition", "write_checked", 1, ""),
    "placing": ("disk.make", "_place", 1, ""),
    "receipt": ("provision.provision", "keep_receipt", 1, ""),
}


def interrupted(home: Path, step: str, number: signal.Signals, *argv: str) -> int:
    """Run `tower` and have it get a signal just before a step."""
    module, name, at, also = STEPS[step]
    code = TRAP.format(module=module, name=name, at=at, signal=number.name, also=also)
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8"}
    command = [sys.executable, "-P", "-c", code, *argv]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    done = subprocess.run(command, cwd=home, env=env, stdin=null, stdout=pipe, stderr=pipe, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_every_step_and_continued(home: Path, tmp_path: Path, step: str, number: signal.Signals) -> None:
    target = tmp_path / "vm.img"
    target.write_bytes(garbage(128 * MIB))
    argv = ("provision", "vm", *COMMON, "--device-file", str(target))
    status = interrupted(home, step, number, *argv)
    assert status == (-9 if number is signal.SIGKILL else 128 + number)
    if number is not signal.SIGKILL:
        assert left_over(home) in ([], [".lock"])
    if (home / ".local/tower/hosts/vm").is_dir():
        run(home, "provision", "--resume", "vm", "--unsigned", "--no-wait")
    else:
        run(home, *argv)
    assert state(home, "vm") == "written"
    check_placed(home, "vm", target, tmp_path)
    assert "Host vm" in (home / ".local/tower/config").read_text()
    assert (home / ".ssh/config").read_text().count("Include") == 1
    leftovers = left_over(home)
    assert not [name for name in leftovers if name.startswith(".vm")]


def test_only_one_works_on_a_host(home: Path, tmp_path: Path) -> None:
    argv = ("provision", "vm", *COMMON, "--device-file", str(tmp_path / "vm.img"))
    interrupted(home, "first block", signal.SIGTERM, *argv)
    lock = home / ".local/tower/hosts/vm/.lock"
    with lock.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert "another tower" in run(home, "provision", "--resume", "vm", "--unsigned", "--no-wait", status=12)


# --- the host answers -----------------------------------------------------------------------------------------


def serve(folder: Path, key: Path, port: int) -> subprocess.Popen[bytes]:
    """An sshd of its own with a host key; nobody has to be able to log in for the key to be seen."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(sshd).exists():
        pytest.skip("sshd is not installed")
    copy = folder / "host_key"
    shutil.copyfile(key, copy)
    copy.chmod(0o600)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = ("-o", f"HostKey={copy}", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "ListenAddress=127.0.0.1")
    return subprocess.Popen([sshd, "-D", "-e", "-f", "/dev/null", "-p", str(port), *options], stderr=subprocess.DEVNULL)


def asked(home: Path, port: int) -> subprocess.CompletedProcess[str]:
    """What ssh says of the host at another place than its own, by the configuration that tower wrote."""
    options = ("-n", "-o", "BatchMode=yes", "-o", "HostName=127.0.0.1", "-p", str(port))
    argv: Sequence[str | Path] = ("ssh", "-F", home / ".local/tower/config", *options, "vm", "true")
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    ends = time.monotonic() + 20
    while "refused" in done.stderr and time.monotonic() < ends:
        time.sleep(0.1)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done


def test_ssh_knows_the_hosts_key_and_no_other(home: Path, tmp_path: Path) -> None:
    run(home, "provision", "vm", *COMMON, "--device-file", str(tmp_path / "vm.img"))
    right, wrong = home / ".local/tower/hosts/vm/ssh_host_ed25519_key", home / ".local/tower/hosts/vm/id_ed25519"
    for key, expected in ((right, "Permission denied"), (wrong, "Host key verification failed")):
        port = free_port()
        server = serve(tmp_path, key, port)
        try:
            assert expected in asked(home, port).stderr
        finally:
            server.kill()
            server.wait()
