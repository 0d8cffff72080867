# SPDX-License-Identifier: Apache-2.0
"""A disk that `tower provision` made of the factory's own image: whole, with the host's files; the host makes itself ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.images.boot import LOGIN, SSH, Machine, check_banner, started
from pipeline.images.disk import boot_file, partitions, root_file, root_filesystem

GIB = 1 << 30


@pytest.fixture(scope="session")
def provisioned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The disk of a host, and the folder that the thin client keeps about it."""
    (image,) = images.glob("toweros-host-*-lab-pc.img.zst")
    home = tmp_path_factory.mktemp("home")
    target = home / "vm.img"
    argv = [
        sys.executable,
        "-P",
        "-m",
        "tower",
        "provision",
        "vm",
        "--offline",
        "--unencrypted",
        "--username",
        "al",
        "--unsigned",
        "--no-wait",
        "--yes",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    options = ["--image", str(image), "--device-file", str(target), "--size", "2G", "--json"]
    done = subprocess.run([*argv, *options], cwd=home, env=env, check=True, capture_output=True, timeout=300)
    assert json.loads(done.stdout)["state"] == "written"
    return target, home / ".local/tower/hosts/vm"


def test_the_disk_is_whole_and_has_the_hosts_files(provisioned: tuple[Path, Path], tmp_path: Path) -> None:
    disk, folder = provisioned
    boot, root = partitions(disk)
    assert root.start + root.size == disk.stat().st_size == 2 * GIB
    assert root.start == boot.start + boot.size
    for name in ("tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "tower-receipt.json"):
        assert boot_file(disk, name) == (folder / name).read_bytes(), name
    subprocess.run(["e2fsck", "-f", "-n", root_filesystem(disk, tmp_path)], check=True, capture_output=True, timeout=120)
    assert b"ID=toweros\n" in root_file(disk, "/etc/os-release", tmp_path)


@pytest.mark.qa("H01")
@pytest.mark.qa("H04")
@pytest.mark.qa("H08")
@pytest.mark.qa("H13")
@pytest.mark.qa("H18")
@pytest.mark.parametrize("machine", [Machine.HOST_PC_BIOS, Machine.HOST_PC_UEFI])
def test_the_host_makes_itself_ready_and_answers(machine: Machine, provisioned: tuple[Path, Path], checkout: Path) -> None:
    log = checkout / "build" / "log" / f"provisioned-{machine.value}.log"
    disk, folder = provisioned
    with started(machine, disk, log=log) as guest:
        guest.wait(LOGIN, machine.limit)
        check_banner(guest, guest.banner(SSH, machine.limit / 2))
        assert "vm login:" in guest.text
        config, port = folder.parents[1] / "config", guest.ports[SSH]
        ssh = (
            "ssh",
            "-F",
            config,
            "-oBatchMode=yes",
            "-oHostName=127.0.0.1",
            f"-oPort={port}",
            "-oConnectTimeout=60",
            "-n",
            "vm",
        )

        def on_host(line: str) -> str:
            done = subprocess.run([*ssh, line], capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            return done.stdout

        assert on_host("hostname; id -un; doas id -un").split() == ["vm", "al", "root"]
        assert on_host("cat /etc/tower/tower-receipt.json") == (folder / "tower-receipt.json").read_text()
        on_host("doas /usr/libexec/tower/firewall check && doas /sbin/rc-service -q firewall status")
        assert (
            on_host(
                "doas /sbin/rc-service -q tower-radio status; cat /sys/class/rfkill/*/soft 2>/dev/null | grep -c 0 || true"
            ).strip()
            == "0"
        )
        left = on_host("doas mount /boot && doas ls /boot; doas umount /boot").split()
        assert "tower-receipt.json" in left
        assert not {"tower.env", "crypto_keyfile.bin", "ssh_host_ed25519_key"} & set(left)
