# SPDX-License-Identifier: Apache-2.0
"""Keys, hashes and the Wi-Fi key; checked with the programs that will read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tower.base.errors import ValueRefusedError
from tower.base.names import parse_public_key
from tower.hosts import secret


def test_ssh_takes_the_key_pair(tmp_path: Path) -> None:
    pair = secret.new_key_pair("al@web")
    parse_public_key(pair.public)
    path = tmp_path / "key"
    path.write_bytes(pair.private)
    path.chmod(0o600)
    done = subprocess.run(["ssh-keygen", "-y", "-f", path], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split()[:2] == pair.public.split()[:2]
    assert "PRIVATE" not in repr(pair)


def test_the_hash_is_that_of_the_password() -> None:
    found = secret.hash_password("correct horse")
    kind, salt = found.split("$")[1:3]
    argv = ["openssl", "passwd", f"-{kind}", "-salt", salt, "-stdin"]
    done = subprocess.run(argv, input=b"correct horse\n", capture_output=True, check=True, timeout=30)
    assert done.stdout.decode().strip() == found
    assert secret.no_password() != secret.no_password()


@pytest.mark.parametrize("password", ["", "a\nb", "a\0b", "x" * 300])
def test_unusable_passwords(password: str) -> None:
    with pytest.raises(ValueRefusedError) as raised:
        secret.hash_password(password)
    assert not password or password not in str(raised.value)


def test_the_wlan_key_is_that_of_the_standard() -> None:
    # IEEE 802.11i, annex H.4
    assert secret.wlan_key("IEEE", "password") == "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    assert secret.wlan_key("ThisIsASSID", "ThisIsAPassword") == "0dc0d6eb90555ed6419756b9a15ec3e3209b63df707dd508d14581f8982721af"


def test_the_key_itself_may_be_given() -> None:
    key = secret.wlan_key("IEEE", "password")
    assert secret.wlan_key("IEEE", key) == secret.wlan_key("other", key.upper()) == key
    assert secret.wlan_key("IEEE", key[:63]) != key[:63]
    assert secret.wlan_key("caf\udce9", "password") != secret.wlan_key("café", "password")


@pytest.mark.parametrize("password", ["", "short", "x" * 64, "0" * 65, "0" * 63 + "g", "٠" * 64, "pässword1", "tab\tpassword"])
def test_invalid_wlan_passwords(password: str) -> None:
    with pytest.raises(ValueRefusedError) as raised:
        secret.wlan_key("Home", password)
    assert not password or password not in str(raised.value)


def test_key_files_differ() -> None:
    assert len(secret.new_key_file()) == secret.KEY_FILE_BYTES
    assert secret.new_key_file() != secret.new_key_file()
