# SPDX-License-Identifier: Apache-2.0
"""A host's reader of tower.env (overlays/host): takes what `tower` writes, refuses all else, and shows no value."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.base.names import HostName, UserName
from tower.base.networks import ROUTER_ADDRESS
from tower.hosts import env
from tower.hosts.env import Encryption, InstallationType, TowerEnv, Wlan

CHECKOUT = Path(__file__).resolve().parents[3]
SHARE = CHECKOUT / "overlays/host/usr/share/tower"
SETUP = CHECKOUT / "overlays/host/usr/libexec/tower/setup"
HASH = "$6$salt$" + "a" * 86
SETTINGS = TowerEnv(
    hostname=HostName("web"),
    username=UserName("al"),
    public_key="ssh-ed25519 " + "A" * 68 + " al@web",
    password_hash=HASH,
    keyboard_layout="fr",
    keyboard_variant="fr-bepo",
    timezone="America/Argentina/Ushuaia",
    lang="fr_FR.UTF-8@euro",
    online=True,
    wlan=None,
    address=IPv4Address("192.168.2.200"),
    installation_type=InstallationType.INSTALL,
    color="#4363d8",
    alpine_branch="v3.24",
    encryption=Encryption.NONE,
)
ROUTER = replace(SETTINGS, hostname=HostName("router"), address=ROUTER_ADDRESS, wlan=Wlan("caf\udce9'; reboot", "0f" * 32))
OFFLINE = replace(SETTINGS, online=False, address=IPv4Address("192.168.3.254"), installation_type=InstallationType.UPGRADE)
GOOD = env.dump(SETTINGS)


def check(folder: Path, data: bytes | None) -> subprocess.CompletedProcess[str]:
    """What the host says of a file."""
    file = folder / "tower.env"
    if data is not None:
        file.write_bytes(data)
    own = {"PATH": os.environ["PATH"], "SETUP_SHARE": str(SHARE), "SETUP_WORK": str(folder)}
    return subprocess.run(
        ["busybox", "sh", SETUP, "check", file], env=own, capture_output=True, text=True, check=False, timeout=50
    )


@pytest.mark.parametrize("settings", [SETTINGS, ROUTER, OFFLINE, replace(SETTINGS, encryption=Encryption.REQUIRED)])
def test_settings_written_by_tower_are_read_unchanged(tmp_path: Path, settings: TowerEnv) -> None:
    data = env.dump(settings)
    done = check(tmp_path, data)
    assert (done.returncode, done.stderr) == (0, "")
    argv = ("busybox", "awk", "-f", str(SHARE / "env.awk"), str(tmp_path / "tower.env"))
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=50).stdout
    assert dict(line.split("=", 1) for line in shown.splitlines()) == settings.values()


def test_files_of_earlier_versions_have_no_encryption(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD.replace(b"ENCRYPTION='none'\n", b"")).returncode == 0


def set_to(name: str, value: str) -> bytes:
    """The good file, with another value."""
    lines = [f"{name}='{value}'" if line.startswith(f"{name}=") else line for line in GOOD.decode().splitlines()]
    return "".join(f"{line}\n" for line in lines).encode()


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is cut off"),
    "cut off": (GOOD[:-1], "is cut off"),
    "cut off in a value": (GOOD[:40], "is cut off"),
    "a line less": (GOOD.replace(b"ONLINE='true'\n", b""), "there is no ONLINE"),
    "half of it": (b"".join(GOOD.splitlines(keepends=True)[:9]), "there is no WLAN_SSID_HEX"),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), "CRLF"),
    "one CRLF": (GOOD.replace(b"\n", b"\r\n", 1), "CRLF"),
    "too large": (GOOD + b"#" * (1 << 20) + b"\n", "which no such file has"),
    "zeros": (b"\0" * 700, "is cut off"),
    "a zero": (GOOD.replace(b"web", b"w\0b"), "no characters of ASCII"),
    "a tab": (GOOD.replace(b"COLOR='", b"COLOR='\t"), "no characters of ASCII"),
    "UTF-8": (GOOD.replace(b"web", "wéb".encode()), "no characters of ASCII"),
    "a mark of the byte order": (b"\xef\xbb\xbf" + GOOD, "no characters of ASCII"),
    "an unknown name": (GOOD + b"LD_PRELOAD='/tmp/x'\n", "line 20: LD_PRELOAD is not known"),
    "a name twice": (GOOD + b"ONLINE='true'\n", "line 20: ONLINE is there twice"),
    "a comment": (b"# mine\n" + GOOD, "line 1 is not NAME='value'"),
    "an empty line": (b"\n" + GOOD, "line 1 is not NAME='value'"),
    "export": (b"export " + GOOD, "line 1 is not NAME='value'"),
    "no quotes": (GOOD.replace(b"'web'", b"web"), "line 1 is not NAME='value'"),
    "double quotes": (GOOD.replace(b"'web'", b'"web"'), "line 1 is not NAME='value'"),
    "an open quote": (GOOD.replace(b"'web'", b"'web"), "line 1 is not NAME='value'"),
    "a command behind": (GOOD.replace(b"'web'", b"'web'; reboot"), "line 1 is not NAME='value'"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_by_both(tmp_path: Path, case: str) -> None:
    data, said = BAD_FILES[case]
    done = check(tmp_path, data)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert done.stdout == ""
    assert HASH not in done.stderr
    with pytest.raises(ValueRefusedError):
        env.parse(data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    done = check(tmp_path, None)
    assert done.returncode == 1
    assert "is not there: write the boot device with `tower provision`" in done.stderr


BAD_VALUES = [
    *(("HOSTNAME", value) for value in ("", "Web", "-web", "web-", "w.b", "a" * 64, "thinclient", "all", "$(reboot)", "router")),
    *(("USERNAME", value) for value in ("", "0", "1000", "a b", "al:x", "../al", "-al", "a" * 33, "al;id", "`id`")),
    *(("PUBLIC_KEY", value) for value in ("", "ssh-rsa " + "A" * 68, "ssh-ed25519 AAAA", 'command="x" ssh-ed25519 ' + "A" * 68)),
    *(("PASSWORD_HASH", value) for value in ("", "secret", "$1$salt$" + "a" * 22, HASH + ":0:0", HASH + "a" * 200)),
    *(("KEYBOARD_LAYOUT", value) for value in ("", "../fr", "fr/fr", "FR")),
    *(("TIMEZONE", value) for value in ("", "../etc/shadow", "/etc/shadow", "a/b/c/d", "Europe/../x")),
    *(("LANG", value) for value in ("", "fr_FR;id", "fr FR", "$LANG")),
    *(("ONLINE", value) for value in ("", "yes", "True", "false")),
    ("WLAN_SSID_HEX", "486f6d65"),
    ("WLAN_SHARED_KEY", "0" * 64),
    *(("THIN_CLIENT_IP", value) for value in ("", "192.168.3.100", "192.168.2.101", "10.0.0.1")),
    *(("TOWER_NETWORK", value) for value in ("", "192.168.3.0/24", "0.0.0.0/0", "192.168.2.0/16")),
    *(
        ("STATIC_HOST_IP", value)
        for value in ("", "192.168.2.1", "192.168.2.100", "192.168.2.255", "192.168.3.200", "192.168.2.0200")
    ),
    *(("ROUTER_IP", value) for value in ("", "192.168.2.2")),
    *(("INSTALLATION_TYPE", value) for value in ("", "Install", "repair")),
    *(("COLOR", value) for value in ("", "red", "#12345", "#GGGGGG", "#4363D8")),
    *(("ALPINE_BRANCH", value) for value in ("", "../x", "v3 24")),
    *(("ENCRYPTION", value) for value in ("", "None", "no")),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_by_both(tmp_path: Path, name: str, value: str) -> None:
    data = set_to(name, value)
    done = check(tmp_path, data)
    assert done.returncode == 1, f"{name}='{value}' was taken"
    assert "tower.env: " in done.stderr
    assert value == "" or len(value) < 12 or value not in done.stderr
    with pytest.raises(ValueRefusedError):
        env.parse(data)


@pytest.mark.parametrize("change", [lambda text: text.replace("'true'", "'false'"), lambda text: text.replace("0f0f", "0F0F")])
def test_a_router_is_one_altogether(tmp_path: Path, change: Callable[[str], str]) -> None:
    done = check(tmp_path, change(env.dump(ROUTER).decode()).encode())
    assert done.returncode == 1
