# SPDX-License-Identifier: Apache-2.0
"""The firewall command: whole or not at all, the same each time, and closed when in doubt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.network.machines import Machine, Tower

CONFIG, TABLE = "etc/tower/firewall.env", "usr/share/tower/firewall/online"
SAVED = ("etc/iptables/rules-save", "etc/iptables/rules6-save")


@pytest.fixture
def online(machines: Tower) -> Iterator[Machine]:
    machine = machines["online2"]
    kept = {name: machine.read(name) for name in (CONFIG, TABLE)}
    machine.firewall("set")
    yield machine
    for name, text in kept.items():
        machine.write(name, text)
    machine.firewall("set")


def rules(machine: Machine) -> str:
    """What acts, without comments, which have the time in them, and counters."""
    saved = machine.run("iptables-save").stdout + machine.run("ip6tables-save").stdout
    return "\n".join(line.partition(" [")[0] for line in saved.splitlines() if not line.startswith("#"))


@pytest.mark.qa("T14")
@pytest.mark.qa("H08")
def test_every_role_has_the_rules_of_its_table(machines: Tower) -> None:
    machines.set_firewalls()
    for machine in machines:
        if machine.plan.role is not None:
            machine.firewall("check")
            forwards = machine.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout.strip()
            assert forwards == ("1" if machine.plan.role == "router" else "0")


def test_set_replaces_whatever_was_there(online: Machine) -> None:
    before = rules(online)
    for command in ("iptables", "ip6tables"):
        online.run(command, "-P", "INPUT", "ACCEPT")
        online.run(command, "-I", "OUTPUT", "-j", "ACCEPT")
        online.run(command, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT")
        online.run(command, "-t", "mangle", "-A", "INPUT", "-j", "ACCEPT")
        online.run(command, "-N", "more")
    shown = online.firewall("check", check=False)
    assert shown.returncode == 1
    assert "unexpected: -A OUTPUT -j ACCEPT" in shown.stdout
    assert "missing:    INPUT DROP" in shown.stdout
    for _ in range(2):
        online.firewall("set")
        assert rules(online) == before


def test_saved_rules_are_restored_by_the_stock_command(online: Machine) -> None:
    """As Alpine's services do at boot."""
    online.firewall("set", "--save")
    before, saved = rules(online), [online.read(name) for name in SAVED]
    online.firewall("wipe")
    assert rules(online) != before
    for command, name in zip(("iptables-restore", "ip6tables-restore"), SAVED, strict=True):
        online.run(command, f"/{name}")
    assert rules(online) == before
    online.firewall("wipe")
    online.firewall("restore")
    assert rules(online) == before
    online.firewall("save")
    assert [online.read(name) for name in SAVED] == saved
    assert (online.root / SAVED[0]).stat().st_mode & 0o777 == 0o600


def test_rules_act_although_they_cannot_be_saved(online: Machine) -> None:
    online.firewall("set", "--save")
    before = rules(online)
    online.firewall("wipe")
    online.run("mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "full", "/etc/iptables")
    try:
        done = online.firewall("set", "--save")
    finally:
        online.run("umount", "/etc/iptables")
    assert "firewall: the rules could not be saved" in done.stderr
    assert rules(online) == before
    assert "no such option: '--sav'" in online.firewall("set", "--sav", check=False).stderr


def test_wipe_closes(online: Machine) -> None:
    online.firewall("wipe")
    lines = rules(online).splitlines()
    loopback = ["-A INPUT -i lo -j ACCEPT", "-A OUTPUT -o lo -j ACCEPT"]
    assert [line for line in lines if line.startswith("-A")] == loopback * 2
    assert [lines.count(f":{chain} DROP") for chain in ("INPUT", "FORWARD", "OUTPUT")] == [2, 2, 2]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (TABLE, "input eth0 tcp - :22 new accept extra\n", "seven columns"),
        (TABLE, "input eth0 tcp - :22 new\n", "seven columns"),
        (TABLE, "sideways eth0 tcp - :22 new accept\n", "chain 'sideways'"),
        (TABLE, "input eth0 tcp nobody :22 new accept\n", "address 'nobody'"),
        (TABLE, "input eth0 tcp 1.2.3.4/33 - new accept\n", "address '1.2.3.4/33'"),
        (TABLE, "input eth0 - - :22 new accept\n", "a port without a protocol"),
        (TABLE, "input eth0 tcp - :22x new accept\n", "port '22x'"),
        (TABLE, "input eth0 tcp - :22 new perhaps\n", "verdict 'perhaps'"),
        (TABLE, "input eth0;x tcp - :22 new accept\n", "interface 'eth0;x'"),
        (TABLE, "input eth0 tcp - :99999 new accept\n", "nothing was changed"),
        (TABLE, "# nothing\n", "no rules"),
        (CONFIG, "ROLE=king\n", "ROLE must be"),
        (CONFIG, "ROLE=../offline\n", "ROLE must be"),
        (CONFIG, "ROLE=online\nTHIN_CLIENT_IP=192.168.2.300\n", "THIN_CLIENT_IP must be"),
        (CONFIG, "ROLE=online\nTHIN_CLIENT_IP=$(touch /tmp/ran)\n", "THIN_CLIENT_IP must be"),
        (CONFIG, "ROLE=online\nTOWER_NETWORK=0.0.0.0/0\n", "TOWER_NETWORK must be"),
        (CONFIG, "ROLE=router\nUPLINK=-j ACCEPT\n", "UPLINK must be"),
    ],
)
def test_a_mistake_changes_nothing(online: Machine, name: str, text: str, said: str) -> None:
    before = rules(online)
    online.write(name, text)
    failed = online.firewall("set", check=False)
    assert failed.returncode == 1
    assert said in failed.stderr
    assert rules(online) == before
    assert not (online.root / "tmp/ran").exists()


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("ONLINE=true\nSTATIC_HOST_IP=192.168.2.201\nROUTER_IP=192.168.2.1\n", "online"),
        ("ONLINE='true'\nSTATIC_HOST_IP='192.168.2.1'\nROUTER_IP='192.168.2.1'\nWLAN_SSID='x'\n", "router"),
        ("ONLINE=false\nSTATIC_HOST_IP=192.168.3.200\nTHIN_CLIENT_IP=192.168.3.100\nTOWER_NETWORK=192.168.3.0/24\n", "offline"),
        ("ONLINE=perhaps\nSTATIC_HOST_IP=192.168.2.1\nROUTER_IP=192.168.2.1\n", "offline"),
        ("HOSTNAME=web\nROLE=router\n", "offline"),
        ("", "offline"),
    ],
)
def test_a_host_gets_its_role_from_tower_env(online: Machine, text: str, role: str) -> None:
    online.write("tmp/tower.env", text)
    online.firewall("configure", "/tmp/tower.env")
    assert f"ROLE={role}\n" in online.read(CONFIG)
    online.firewall("set")
    online.firewall("check")


def test_a_machine_without_a_role_is_an_offline_host(online: Machine) -> None:
    (online.root / CONFIG).unlink()
    online.firewall("set")
    assert "-A OUTPUT -d 192.168.3.100/32 -o eth0 -p tcp -m tcp --sport 22" in rules(online)
