# SPDX-License-Identifier: Apache-2.0
"""`tower wlan-connect` on the ring: the router's network, its key, and the way back.

There is no radio here. What is written is read by the real wpa_supplicant; whether a network is joined says a stand-in of
`wpa_cli` that knows the access point's name and key. All else is real: the host's program, ssh, doas, tower, and the
server of the Internet's machine that gives the router its address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.sim.leases import Leases
from tests.network.home import FOLDER, User, make_hosts
from tests.network.machines import Machine, Tower

PROGRAM = "/usr/libexec/tower/wlan"
CONFIG = "/etc/wpa_supplicant/wpa_supplicant.conf"
PASSWORD = "correct horse"
RADIO = """#!/bin/sh
# The name and the key of the access point are in /var/ap, whether it is joined in /var/joined.
while [ $# -gt 0 ]; do case $1 in -p | -i) shift 2 ;; *) break ;; esac; done
case $1 in
ping) echo PONG ;;
disconnect) echo "$1" >>/var/asked; echo 0 >/var/joined; echo OK ;;
reconfigure) echo "$1" >>/var/asked; cp /etc/wpa_supplicant/wpa_supplicant.conf /var/read; echo OK ;;
reconnect)
	read -r name key </var/ap
	if grep -q "ssid=$name$" /var/read && grep -q "psk=$key$" /var/read; then (sleep 0.5; echo 1 >/var/joined) >/dev/null & fi
	echo OK
	;;
status) read -r joined </var/joined; [ "$joined" = 1 ] && echo wpa_state=COMPLETED || echo wpa_state=SCANNING ;;
esac
"""  # sleeps: a radio takes a moment to join


@pytest.fixture(scope="module")
def user(machines: Tower) -> User:
    made = make_hosts(machines, ("router",))
    router = machines["router"]
    router.write("usr/sbin/wpa_cli", RADIO, 0o755)
    return made


@pytest.fixture
def leases(machines: Tower) -> Leases:
    """The server of addresses on the router's uplink, which has one address."""
    machines.leases.start(machines["internet"].pid)
    return machines.leases


@pytest.fixture
def router(machines: Tower, user: User, leases: object) -> Machine:
    """A router that is connected to `Home`, and has `Office` in reach."""
    made = machines["router"]
    join(made, user, "Home")
    access_point(made, user, "Office")
    made.run("rm", "-f", "/var/asked", f"{CONFIG}.before")
    return made


def key_of(name: str, password: str = PASSWORD) -> str:
    """The key, by the program of wpa_supplicant itself."""
    done = subprocess.run(["wpa_passphrase", name, password], capture_output=True, check=True)
    return next(line.partition(b"=")[2].decode() for line in done.stdout.splitlines() if line.startswith(b"\tpsk="))


def access_point(router: Machine, user: User, name: str) -> None:
    router.write("var/ap", f"{os.fsencode(name).hex()} {key_of(name)}\n")


def join(router: Machine, user: User, name: str) -> None:
    access_point(router, user, name)
    router.run(PROGRAM, "set", "10", data=f"{os.fsencode(name).hex()}\n{key_of(name)}\n")


def connect(user: User, name: str, password: str = PASSWORD, *more: str) -> subprocess.CompletedProcess[str]:
    return user.tower("wlan-connect", name, "--json", *more, data=f"{password}\n")


def kept(user: User) -> list[str]:
    """Name and key of the router's network in the thin client's folder."""
    text = user.machine.read(f"{FOLDER}/hosts/router/tower.env")
    return [line.partition("=")[2].strip("'") for line in text.splitlines() if line.startswith("WLAN_")]


def test_the_router_joins_another_network(router: Machine, user: User) -> None:
    done = connect(user, "Office")
    assert done.returncode == 0, done.stderr
    text = router.read(CONFIG)
    assert f"\tssid={b'Office'.hex()}\n" in text
    assert f"\tpsk={key_of('Office')}\n" in text
    assert kept(user) == [b"Office".hex(), key_of("Office")]
    assert oct(router.path(CONFIG).stat().st_mode & 0o777) == "0o600"
    assert router.read("var/asked").split() == ["disconnect", "reconfigure"]
    assert router.running("udhcpc.*wlan0")
    assert "inet 10.20.0.2/24" in router.run("ip", "-4", "addr", "show", "wlan0").stdout
    assert PASSWORD not in text + done.stdout + done.stderr
    assert list(router.path("etc/wpa_supplicant").glob("*.conf.*")) == []


def test_a_wrong_password_leaves_the_network_before(router: Machine, user: User) -> None:
    access_point(router, user, "Home")
    before, remembered = router.read(CONFIG), kept(user)
    done = connect(user, "Home", "wrong horse", "--timeout", "2")
    assert done.returncode == 17
    assert "goes back" in done.stderr
    assert router.read(CONFIG) == before
    assert kept(user) == remembered
    wait_for_check(router)


def wait_for_check(router: Machine) -> None:
    ends = time.monotonic() + 30
    while router.run(PROGRAM, "check", check=False).returncode != 0:
        assert time.monotonic() < ends, "the network before is not back"
        time.sleep(0.2)


def test_a_network_without_addresses_leaves_the_network_before(router: Machine, user: User, leases: Leases) -> None:
    before = router.read(CONFIG)
    leases.stop()
    done = connect(user, "Office", PASSWORD, "--timeout", "4")
    assert done.returncode == 17
    assert router.read(CONFIG) == before


def test_a_second_connect_to_the_same_network_changes_nothing(router: Machine, user: User) -> None:
    assert connect(user, "Office").returncode == 0
    router.path("var/asked").unlink()
    assert connect(user, "Office").returncode == 0
    assert not router.path("var/asked").exists()


def test_a_tower_that_is_killed_leaves_no_half_change(router: Machine, user: User) -> None:
    access_point(router, user, "Home")
    before = router.read(CONFIG)
    with subprocess.Popen(user.argv("wlan-connect", "Nowhere", "--timeout", "2"), stdin=subprocess.PIPE) as running:
        assert running.stdin is not None
        running.stdin.write(f"{PASSWORD}\n".encode())
        running.stdin.close()
        wait_until(router, changed=True)
        running.kill()
    wait_until(router, changed=False)
    assert router.read(CONFIG) == before
    wait_for_check(router)


def wait_until(router: Machine, *, changed: bool) -> None:
    ends = time.monotonic() + 20
    while router.path(f"{CONFIG}.before").exists() != changed:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_a_change_that_was_cut_off_does_not_count_as_the_one_before(router: Machine, user: User) -> None:
    before = router.read(CONFIG)
    router.write(f"{CONFIG}.before", before, 0o600)
    router.write(CONFIG, before.replace(b"Home".hex(), b"Cut".hex()), 0o600)
    assert connect(user, "Nowhere", PASSWORD, "--timeout", "2").returncode == 17
    assert router.read(CONFIG) == before


def test_the_next_start_undoes_what_was_cut_off(router: Machine) -> None:
    before = router.read(CONFIG)
    router.run(PROGRAM, "recover")
    assert router.read(CONFIG) == before
    router.write(f"{CONFIG}.before", before, 0o600)
    router.write(CONFIG, "not proven", 0o600)
    router.run(PROGRAM, "recover")
    assert router.read(CONFIG) == before
    router.write(f"{CONFIG}.before", "", 0o600)
    router.run(PROGRAM, "recover")
    assert [path.name for path in router.path("etc/wpa_supplicant").glob("*.conf*")] == []


@pytest.mark.parametrize("name", ["x\udce9", "x\u200by", "Café"])
def test_any_network_name_and_a_64_digit_key_are_accepted(router: Machine, user: User, name: str) -> None:
    """A name that is no text, and the 64 digits that wpa_passphrase prints in place of the password."""
    access_point(router, user, name)
    done = connect(user, name, key_of(name).upper())
    assert done.returncode == 0, done.stderr
    assert kept(user) == [os.fsencode(name).hex(), key_of(name)]
    assert f"\tssid={os.fsencode(name).hex()}\n" in router.read(CONFIG)
    assert f"\tpsk={key_of(name)}\n" in router.read(CONFIG)
    join(router, user, "Home")
    access_point(router, user, name)
    assert connect(user, os.fsencode(name).hex(), PASSWORD, "--hex").returncode == 0


def test_two_changes_at_once(router: Machine, user: User) -> None:
    until_told = "echo held; until [ -e /tmp/go ]; do sleep 0.1; done; rm /tmp/go"
    argv = router.argv("flock", "/run/tower-wlan.lock", "sh", "-c", until_told)
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        done = connect(user, "Office")
        router.write("tmp/go", "")
        assert holding.wait(20) == 0
    assert done.returncode == 17
    assert "another change is under way" in done.stderr


@pytest.mark.parametrize(
    "data",
    [
        "",
        "48\n",
        "48\n00\n",
        f"4\n{'0' * 64}\n",
        f"{'48' * 33}\n{'0' * 64}\n",
        f"48\n{'g' * 64}\n",
        f"zz\n{'0' * 64}\n",
        f"\n{'0' * 64}\n",
    ],
)
def test_the_program_refuses_invalid_input_and_changes_nothing(router: Machine, data: str) -> None:
    before = router.read(CONFIG)
    done = router.run(PROGRAM, "set", "5", data=data, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("wlan: ")
    assert router.read(CONFIG) == before


NAMES = [
    "Home",
    "it's",
    'a"b',
    "Café ☕",
    "x\\y",
    " blank ",
    "#",
    "${x}",
    "n" * 32,
    "x\udce9",
    "x\u200by",
    "a\nb",
    "\udcff" * 32,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_mean_the_same_to_wpa_supplicant(machines: Tower, user: User, name: str, tmp_path: Path) -> None:
    """The configuration of `configure`, as a host's first start makes it from tower.env, in the real program's eyes."""
    if shutil.which("wpa_supplicant", path="/usr/sbin:/sbin") is None:
        pytest.skip("wpa_supplicant is not installed")
    code = (
        "import sys\nfrom dataclasses import replace\nfrom tower.hosts import env, secret\nfrom tower.hosts.env import Wlan\n"
        "from tower.base.names import parse_ssid_hex\nfrom tower.hosts.registry import tower_of_user\n"
        "name, password = sys.stdin.read().split()\n"
        "router, name = tower_of_user().host('router').env, parse_ssid_hex(name)\n"
        "sys.stdout.write(env.dump(replace(router, wlan=Wlan(name, secret.wlan_key(name, password)))).decode())"
    )
    router = machines["router"]
    router.write("tmp/tower.env", user.python(code, data=f"{os.fsencode(name).hex()} {PASSWORD.replace(' ', '')}"))
    router.run("env", "WLAN_CONFIG=/tmp/wpa.conf", f"WLAN_SOCKETS={tmp_path}/wpa", PROGRAM, "configure", "/tmp/tower.env")
    text = router.read("tmp/wpa.conf")
    key = key_of(name, PASSWORD.replace(" ", ""))
    assert f"\tpsk={key}\n" in text
    (tmp_path / "wpa.conf").write_text(text)
    # It reads, and finds no such interface.
    words = ("wpa_supplicant", "-dd", "-K", "-D", "nl80211", "-i", "none0", "-c", tmp_path / "wpa.conf")
    done = subprocess.run(("unshare", "--net", *words), capture_output=True, text=True, timeout=20, check=False)
    shown = done.stdout + done.stderr
    assert "Failed to read or parse" not in shown
    assert f"ssid - hexdump_ascii(len={len(os.fsencode(name))})" in shown
    assert f"PSK - hexdump(len=32): {' '.join(key[at : at + 2] for at in range(0, 64, 2))}" in shown
