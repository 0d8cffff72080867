# SPDX-License-Identifier: Apache-2.0
"""Programs of root on devices: what a killed part of them leaves is not taken for success, nor a stranger for one of ours."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
PACKAGES = CHECKOUT / "overlays/common/usr/libexec/tower/packages"
UPGRADE = CHECKOUT / "runtime/upgrade/upgrade.sh"
OVERLAYS = CHECKOUT / "overlays"


def function(program: Path, name: str) -> str:
    found = re.search(rf"^{name}\(\) \{{\n.*?^\}}$", program.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, name
    return found.group()


def busybox(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["busybox", "sh", "-uc", script], capture_output=True, text=True, check=False, timeout=50)


@pytest.mark.parametrize(
    ("call", "status"), [("true", 0), ("false", 1), ("(exit 7)", 7), ("kill -9 $(cut -d ' ' -f 4 /proc/self/stat); sleep 60", 1)]
)
def test_the_status_is_of_this_call(tmp_path: Path, call: str, status: int) -> None:
    """Of a call whose shell was killed there is none: the one of the call before must not stand for it."""
    (tmp_path / "status").write_text("0\n")
    parts = [
        function(PACKAGES, "relay"),
        function(PACKAGES, "told"),
        f"apk_here() {{ {call}; }}",
        f"run={tmp_path}",
        "told add x",
    ]
    assert busybox("\n".join(parts)).returncode == status


def test_a_process_number_that_is_used_again_does_not_write(tmp_path: Path) -> None:
    """The writer is a number and a start: whoever has the number now is another process."""
    script = tmp_path / "upgrade.sh"
    script.write_text(UPGRADE.read_text().replace("folder=/var/lib/tower/upgrade", f"folder={tmp_path}"))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    start = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    (tmp_path / "state").write_text("writing 1 2\n")

    def state() -> str:
        return subprocess.run(["busybox", "sh", script, "state"], capture_output=True, text=True, check=True, timeout=50).stdout

    (tmp_path / "pid").write_text(f"{os.getpid()} {start} {boot}\n")
    assert state() == "writing 1 2\n"
    for other in (f"{os.getpid()} {int(start) - 1} {boot}", f"{os.getpid()} {boot}", f"{os.getpid()} {start} another"):
        (tmp_path / "pid").write_text(f"{other}\n")
        assert state() == "stopped\n"


def test_a_thin_client_that_is_gone_is_noticed() -> None:
    """Its lock on a host goes with its session, which nothing else would end for two hours."""
    lines = (OVERLAYS / "common/etc/ssh/sshd_config.d/tower.conf").read_text().splitlines()
    settings = dict(line.split(maxsplit=1) for line in lines if line and line[0] not in "#\t ")
    assert 0 < int(settings["ClientAliveInterval"]) * int(settings["ClientAliveCountMax"]) <= 120


def test_only_root_can_read_mounted_boot_media() -> None:
    """Only root can read a mounted boot medium: its tower.env holds the Wi-Fi key and the hash of a password."""
    fat = [line for line in (OVERLAYS / "host/etc/fstab").read_text().splitlines() if "vfat" in line]
    fat += re.findall(r"mount -t vfat.*", "".join(path.read_text() for path in CHECKOUT.glob("runtime/**/*.sh")))
    assert len(fat) == 2
    assert all("umask=0077" in line for line in fat)
