# SPDX-License-Identifier: Apache-2.0
"""Names and settings: what is taken, and a table of what is not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tower.base import names, networks
from tower.base.errors import ValueRefusedError

GOOD: list[tuple[Callable[[str], object], str]] = [
    (names.parse_host_name, "web"),
    (names.parse_host_name, "a" * 63),
    (names.parse_host_name, "office-2"),
    *((names.parse_user_name, text) for text in ("al_ice-2", "john.doe", "Alice", "0xneo", "_", "a" * 32, "a.", "7up")),
    (names.parse_time_zone, "America/Argentina/Buenos_Aires"),
    (names.parse_time_zone, "Etc/GMT+3"),
    (names.parse_keyboard, "fr-bepo"),
    (names.parse_lang, "de_DE.UTF-8@euro"),
    (names.parse_lang, "C.UTF-8"),
    (names.parse_color, "#00ff7f"),
    (names.parse_branch, "v3.24"),
    (names.parse_password_hash, "$y$j9T$" + "a" * 60),
    *(
        (names.parse_ssid, text)
        for text in (
            "Bob's Wi-Fi $(reboot) é",
            "👨\u200d👩\u200d👧",
            "a\u00a0b",
            "\uff26\u3000\uff37",
            "\U0001fae9",
            "caf\udce9",
            "x\u200by",
            "a\nb",
            "a\0b",
            "\x1b[2J",
            " ",
            "\udcff" * 32,
        )
    ),
    (networks.parse_address, "192.168.2.200"),
]
BAD: list[tuple[Callable[[str], object], str]] = [
    *((names.parse_host_name, text) for text in (
        "", "-web", "web-", "Web", "we b", "web.lan", "web_1", "1web", "192", "a" * 64, "wéb", "web\n", "$(reboot)", "../x", "..",
        "localhost", "thinclient", "all", "web;id", "web'", "*", "/dev/sda", "\0",
    )),
    *((names.parse_user_name, text) for text in (
        "", "root", "mail", "video", "al ice", "1", "1000", "al:x", "a" * 33, "al\n", "1\n", "-al", ".al", "..", "al$", "al@lan",
        "D\\al", "josé", "al/b",
    )),
    *((names.parse_time_zone, text) for text in ("", "../etc/passwd", "/etc/localtime", "Europe//Paris", "UTC\n", "a b", "A/..")),
    *((names.parse_keyboard, text) for text in ("", "US", "us;id", "../us", "us us", "a" * 40)),
    *((names.parse_lang, text) for text in ("", "english", "en_us", "en_US.UTF 8", "en_US.UTF-8;id", "$LANG")),
    *((names.parse_color, text) for text in ("", "red", "#FFFFFF", "#fff", "#0000000", "4363d8")),
    *((names.parse_branch, text) for text in ("", "v3 24", "../x", "-v", "V3.24")),
    *((names.parse_public_key, text) for text in ("", "ssh-rsa AAAA", "ssh-ed25519 AAAA", "ssh-ed25519 " + "A" * 68 + " a b")),
    *((names.parse_password_hash, text) for text in ("", "secret", "$1$salt$" + "a" * 30, "$6$", "$6$sa't$" + "a" * 86)),
    *((names.parse_ssid, text) for text in ("", "a" * 33, "é" * 17, "\udcff" * 33, "\ud800")),
    *((names.parse_ssid_hex, text) for text in ("", "4", "g0", "4 8", "0x48", "48" * 33, "48\n", "４８")),
    *((names.parse_wlan_key, text) for text in ("", "0" * 63, "G" * 64, "password1")),
    *((networks.parse_address, text) for text in ("", "192.168.2", "192.168.2.256", "::1", "192.168.2.200/24", "192.168.002.1")),
    *((networks.parse_network, text) for text in ("", "192.168.2.0", "10.0.0.0/8", "0.0.0.0/0")),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text"), GOOD)
def test_valid_names_and_settings_are_kept_unchanged(parse: Callable[[str], object], text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize(("parse", "text"), BAD)
def test_refused(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueRefusedError):
        parse(text)


@pytest.mark.parametrize("parse", [names.parse_password_hash, names.parse_wlan_key])
def test_a_secret_given_in_the_wrong_place_is_not_shown(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueRefusedError) as raised:
        parse("my secret password")
    assert "my secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("DOM\\alice", "alice"), ("DOM+alice", "alice"), ("alice@corp.example.org", "alice"),
        ("John Doe", "John.Doe"), ("José", "Jose"),
        ("1000", "u1000"), ("samba$", "samba"), (".hidden", "hidden"), ("a" * 40, "a" * 32), ("9" * 40, "u" + "9" * 31),
        ("李", "alice"),
        ("", "alice"), ("-", "alice"), ("root", "alice"), ("DOM\\mail", "alice"), ("\udcff", "alice"),
    ],
)  # fmt: skip
def test_an_unusable_user_name_is_answered_with_a_usable_one(text: str, near: str) -> None:
    with pytest.raises(ValueRefusedError) as raised:
        names.parse_user_name(text)
    assert raised.value.hint.endswith(f"--username {near}")
    assert names.parse_user_name(near) == near


@given(st.binary(min_size=1, max_size=32))
def test_every_name_of_a_network_is_kept_byte_by_byte(octets: bytes) -> None:
    ssid = names.parse_ssid(os.fsdecode(octets))
    assert names.ssid_octets(ssid) == octets
    assert names.parse_ssid_hex(octets.hex()) == names.parse_ssid_hex(octets.hex().upper()) == ssid
    assert names.ssid_text(ssid).isprintable()


def test_names_of_networks_are_shown() -> None:
    for octets, text in (
        (b"caf\xe9", "caf\\xe9"),
        ("Café".encode(), "Café"),
        (b"a\0\n", "a\\x00\\n"),
        ("x\u200by".encode(), "x\\u200by"),
    ):
        assert names.ssid_text(names.parse_ssid_hex(octets.hex())) == text
