# SPDX-License-Identifier: Apache-2.0
"""tower.env: written and read back, hostile values and files, and what a shell would make of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base.errors import ValueRefusedError
from tower.base.names import HostName, ssid_octets
from tower.base.networks import ROUTER_ADDRESS
from tower.hosts import env
from tower.hosts.env import Encryption, TowerEnv, Wlan

KEY = "0f" * 32


def router(settings: TowerEnv, ssid: str) -> TowerEnv:
    return replace(settings, hostname=HostName("router"), address=ROUTER_ADDRESS, wlan=Wlan(ssid, KEY))


def test_a_file_is_read_as_it_was_written(settings: TowerEnv) -> None:
    assert env.parse(env.dump(settings)) == settings
    offline = replace(settings, online=False, address=IPv4Address("192.168.3.254"))
    assert env.parse(env.dump(offline)) == offline


def test_a_host_is_encrypted_unless_the_file_says_otherwise(settings: TowerEnv) -> None:
    asked = env.dump(replace(settings, encryption=Encryption.NONE))
    assert env.parse(asked).encryption is Encryption.NONE
    last = b"ENCRYPTION='none'\n"
    assert asked.endswith(last)
    assert env.parse(asked.removesuffix(last)).encryption is Encryption.REQUIRED
    with pytest.raises(ValueRefusedError, match="ENCRYPTION is ''"):
        env.parse(asked.replace(last, b"ENCRYPTION=''\n"))


@pytest.mark.parametrize("ssid", ["Bob's Wi-Fi", "'; reboot; '", "$(reboot)", "a\nb", "a\0b", "é ü", "caf\udce9", "x\u200by"])
def test_names_of_networks_are_hexadecimal(settings: TowerEnv, ssid: str) -> None:
    data = env.dump(router(settings, ssid))
    assert env.parse(data).wlan == Wlan(ssid, KEY)
    script = data + b'printf %s "$WLAN_SSID_HEX|$PASSWORD_HASH"\n'
    done = subprocess.run(["sh", "-eu"], input=script, capture_output=True, check=True, timeout=10)
    assert done.stdout.decode() == f"{ssid_octets(ssid).hex()}|{settings.password_hash}"


@pytest.mark.parametrize("ssid", ["Bob's Wi-Fi", "Café", "48656c6c6f", "a" * 32])
def test_files_of_earlier_versions_have_the_name_as_text(settings: TowerEnv, ssid: str) -> None:
    new = env.dump(router(settings, ssid))
    line = f"WLAN_SSID_HEX='{ssid.encode().hex()}'\n".encode()
    text = ssid.replace("'", r"'\''")
    old = new.replace(line, f"WLAN_SSID='{text}'\n".encode())
    assert old != new
    assert env.dump(env.parse(old)) == new
    with pytest.raises(ValueRefusedError, match="twice"):
        env.parse(old + line)
    with pytest.raises(ValueRefusedError, match="no WLAN_SSID_HEX"):
        env.parse(new.replace(line, b""))


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-1],
    "cut in the middle": lambda data: data[: len(data) // 2],
    "a line less": lambda data: data.partition(b"\n")[2],
    "a line twice": lambda data: data + data.partition(b"\n")[0] + b"\n",
    "unknown name": lambda data: data + b"EVIL='1'\n",
    "a comment": lambda data: b"# x\n" + data,
    "no quotes": lambda data: data.replace(b"LANG='fr_FR.UTF-8'", b"LANG=fr_FR.UTF-8"),
    "double quotes": lambda data: data.replace(b"LANG='fr_FR.UTF-8'", b'LANG="fr_FR.UTF-8"'),
    "command": lambda data: data.replace(b"'fr'", b"'fr'; reboot"),
    "substitution": lambda data: data.replace(b"'fr'", b"$(reboot)"),
    "export": lambda data: b"export " + data,
    "carriage returns": lambda data: data.replace(b"\n", b"\r\n"),
    "a zero": lambda data: data.replace(b"'fr'", b"'f\0r'"),
    "not UTF-8": lambda data: data.replace(b"'fr'", b"'\xff'"),
    "large": lambda data: data + b"\n" * env.MOST,
    "another address of the thin client": lambda data: data.replace(b"192.168.2.100", b"192.168.2.101"),
    "address of another network": lambda data: data.replace(b"192.168.2.200", b"192.168.3.200"),
    "address that is no host's": lambda data: data.replace(b"192.168.2.200", b"192.168.2.2"),
    "router's address": lambda data: data.replace(b"192.168.2.1'", b"192.168.2.9'"),
    "wide network": lambda data: data.replace(b"192.168.2.0/24", b"0.0.0.0/0"),
    "Wi-Fi on a host": lambda data: data.replace(b"WLAN_SSID_HEX=''", b"WLAN_SSID_HEX='78'"),
    "bad host name": lambda data: data.replace(b"'web'", b"'../web'"),
    "kind of installation": lambda data: data.replace(b"'install'", b"'wipe'"),
    "neither true nor false": lambda data: data.replace(b"'true'", b"'yes'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(settings: TowerEnv, name: str) -> None:
    data = env.dump(settings)
    broken = BROKEN[name](data)
    assert broken != data
    with pytest.raises(ValueRefusedError, match=r"tower\.env"):
        env.parse(broken)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        env.parse(data)
    except ValueRefusedError:
        pass


@given(st.data())
def test_a_changed_file_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    good = GOOD_FILE
    place = data.draw(st.integers(0, len(good) - 1))
    changed = good[:place] + data.draw(st.binary(max_size=3)) + good[place + data.draw(st.integers(0, 3)) :]
    try:
        found = env.parse(changed)
    except ValueRefusedError:
        return
    assert env.parse(env.dump(found)) == found


GOOD_FILE = (
    "HOSTNAME='web'\nUSERNAME='al'\nPUBLIC_KEY='ssh-ed25519 " + "A" * 68 + "'\nPASSWORD_HASH='$6$salt$" + "a" * 86 + "'\n"
    "KEYBOARD_LAYOUT='us'\nKEYBOARD_VARIANT='us'\nTIMEZONE='UTC'\nLANG='C.UTF-8'\nONLINE='false'\nWLAN_SSID_HEX=''\n"
    "WLAN_SHARED_KEY=''\nTHIN_CLIENT_IP='192.168.3.100'\nTOWER_NETWORK='192.168.3.0/24'\nSTATIC_HOST_IP='192.168.3.200'\n"
    "ROUTER_IP=''\nINSTALLATION_TYPE='install'\nCOLOR='#000000'\nALPINE_BRANCH='v3.24'\nENCRYPTION='required'\n"
).encode()


def test_the_example_is_good() -> None:
    assert env.dump(env.parse(GOOD_FILE)) == GOOD_FILE


def test_secrets_are_not_shown(settings: TowerEnv) -> None:
    shown = repr(router(settings, "Home")) + repr(Wlan("Home", KEY)) + str(settings)
    assert KEY not in shown
    assert settings.password_hash not in shown


@pytest.mark.parametrize(
    "change",
    [
        {"hostname": HostName("router")},
        {"address": ROUTER_ADDRESS},
        {"online": False},
        {"wlan": Wlan("Home", KEY)},
        {"address": IPv4Address("192.168.2.100")},
    ],
)
def test_settings_that_do_not_fit_each_other(settings: TowerEnv, change: dict[str, object]) -> None:
    with pytest.raises(ValueRefusedError):
        replace(settings, **change)  # type: ignore[arg-type]
