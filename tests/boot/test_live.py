# SPDX-License-Identifier: Apache-2.0
"""A first host made in the live system: all that it needs, images and programs, is on the thin client's medium."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.images.boot import LOGIN, MachineType, started
from pipeline.images.disk import boot_file, check_root, partitions

GIB = 1 << 30
PROMPT = r"\[root@thinclient [^\]]*\][#$] $"
IMAGE = "/media/*/toweros/images/toweros-host-*-pc.img.zst"


def test_a_host_is_provisioned_from_the_medium(images: Path, tmp_path: Path, checkout: Path) -> None:
    (iso,) = images.glob("toweros-thinclient-*-lab-x86_64.iso")
    stick = tmp_path / "stick.img"
    with stick.open("wb") as out:
        out.truncate(2 * GIB)
    log = checkout / "build" / "log" / "provisioned-in-the-live-system.log"
    with started(MachineType.THINCLIENT_BIOS, iso, log=log, stick=stick, limit=2300) as guest:
        guest.wait(LOGIN, MachineType.THINCLIENT_BIOS.limit)
        guest.login("root", prompt=PROMPT)
        options = "--offline --username al --target pc --no-wait --yes --json"
        done = guest.command(f"tower provision vault {options} --image {IMAGE} 2>/run/said", timeout=1200)
        assert done.status == 0, guest.command("cat /run/said").text
        assert "came with this system" in guest.command("cat /run/said").text
        found = json.loads(done.text)
        assert "serial STICK1, usb, 2.15 GB" in found["device"]
        assert found["state"] == "written"
        settings = guest.command("cat ~/.local/tower/hosts/vault/tower.env").text.replace("\r", "")
        guest.command("sync", timeout=120)
    boot, root = partitions(stick)
    assert root.start + root.size == stick.stat().st_size
    assert boot.start + boot.size == root.start
    assert boot_file(stick, "tower.env").decode().strip() == settings.strip()
    check_root(stick)
