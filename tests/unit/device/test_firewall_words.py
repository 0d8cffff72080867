# SPDX-License-Identifier: Apache-2.0
"""The firewall's tables and settings: an unknown word never makes a rule wider, and a mistake replaces nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
FIREWALL = CHECKOUT / "overlays/common/usr/libexec/tower/firewall"
ROW = "input eth0 tcp thinclient :22 new,established accept\n"


def firewall(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"],
        "FIREWALL_TABLES": str(folder / "tables"),
        "FIREWALL_CONFIG": str(folder / "etc/firewall.env"),
        "FIREWALL_SAVED": str(folder / "saved"),
    }
    return subprocess.run(["busybox", "sh", FIREWALL, *words], env=env, capture_output=True, text=True, check=False, timeout=50)


def rendered(folder: Path, row: str) -> subprocess.CompletedProcess[str]:
    (folder / "tables").mkdir(exist_ok=True)
    (folder / "tables/offline").write_text(row)
    return firewall(folder, "render", "ipv4")


def test_a_good_row(tmp_path: Path) -> None:
    done = rendered(tmp_path, ROW)
    assert done.returncode == 0
    assert (
        "-A INPUT -s 192.168.3.100/32 -i eth0 -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT"
        in done.stdout
    )


@pytest.mark.parametrize(
    "state", ["establised", "new,establised", "NEW", "new,", ",new", "new,,related", "--", "new;related", "invalid", "any"]
)
def test_an_unknown_state(tmp_path: Path, state: str) -> None:
    done = rendered(tmp_path, ROW.replace("new,established", state))
    assert done.returncode == 1, done.stdout
    assert f"firewall: {tmp_path}/tables/offline:1: state '{state}'" in done.stderr
    assert "ACCEPT" not in done.stdout


@pytest.mark.parametrize("interface", ["eth0", "uplink", "eth0>eth1>eth2"])
def test_forward_without_a_direction(tmp_path: Path, interface: str) -> None:
    done = rendered(tmp_path, f"forward {interface} - - - - accept\n")
    assert done.returncode == 1
    assert f"interface '{interface}': must be IN>OUT" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("THIN_CLIENT_IP=192.168.3.256", "THIN_CLIENT_IP must be an IPv4 address"),
        ("TOWER_NETWORK=10.0.0.0/8", "TOWER_NETWORK must be like"),
        ("ROUTER_IP=router", "ROUTER_IP must be an IPv4 address"),
        ("UPLINK=../etc", "UPLINK must be the name of an interface"),
        ("THIN_CLIENT_IP=$(touch x)", "THIN_CLIENT_IP must be an IPv4 address"),
    ],
)
def test_invalid_settings_replace_nothing(tmp_path: Path, line: str, said: str) -> None:
    good = tmp_path / "good.env"
    good.write_text("ONLINE=false\nTHIN_CLIENT_IP=192.168.3.100\n")
    assert firewall(tmp_path, "configure", str(good)).returncode == 0
    before = (tmp_path / "etc/firewall.env").read_bytes()
    bad = tmp_path / "tower.env"
    bad.write_text(f"ONLINE=false\n{line}\n")
    done = firewall(tmp_path, "configure", str(bad))
    assert done.returncode == 1
    assert said in done.stderr
    assert str(bad) in done.stderr, "the file that is to be edited is named"
    assert (tmp_path / "etc/firewall.env").read_bytes() == before
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["firewall.env"], "nothing is left behind"


@pytest.mark.parametrize("role", ["thinclient", "router", "online", "offline"])
def test_the_tables_of_all_roles(tmp_path: Path, role: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/firewall.env").write_text(f"ROLE={role}\n")
    (tmp_path / "tables").symlink_to(CHECKOUT / "overlays/common/usr/share/tower/firewall")
    for family in ("ipv4", "ipv6"):
        done = firewall(tmp_path, "render", family)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("COMMIT\n")
