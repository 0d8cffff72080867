# SPDX-License-Identifier: Apache-2.0
"""Names and settings as types: each is parsed once, where it enters, and is well-formed from then on.

Errors say what was expected. Nothing here looks at the machine.
"""

from __future__ import annotations

import os
import re
from typing import Final, NewType

from tower.base.errors import ValueRefusedError

HostName = NewType("HostName", str)
UserName = NewType("UserName", str)

ROUTER: Final = HostName("router")
THIN_CLIENT: Final = "thinclient"
_RESERVED: Final = frozenset({THIN_CLIENT, "localhost", "all"})
"""Names that mean something else to `tower`, or to every machine."""
_HOST: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_USER: Final = re.compile(r"(?![0-9]+$)[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
"""What both busybox' adduser and shadow accept, without bare numbers, which `chown` would take for a user ID."""
_SYSTEM_USERS: Final = frozenset(
    """
    root bin daemon lp sync shutdown halt mail man news uucp cron ftp sshd games ntp guest nobody dhcpcd chrony klogd messagebus
    polkitd pulse pulse-access seat seatd dnsmasq sys adm tty disk mem kmem wheel sudo floppy console audio cdrom dialout input
    tape video netdev render kvm shadow www-data users usb abuild utmp ping nogroup
    """.split()  # noqa: SIM905  (a list would have a line a word)
)
"""The system's own users and groups; a new user of such a name would get the group."""
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9][A-Za-z0-9_+-]*){0,2}")
_KEYBOARD: Final = re.compile(r"[a-z][A-Za-z0-9_-]{0,31}")
_LANG: Final = re.compile(r"(?:C|POSIX|[a-z]{2,3}(?:_[A-Z]{2})?)(?:\.[A-Za-z0-9-]{1,16})?(?:@[a-z]{1,16})?")
_COLOR: Final = re.compile(r"#[0-9a-f]{6}")
_BRANCH: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,31}")
_PUBLIC_KEY: Final = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}(?: [A-Za-z0-9@._-]{1,128})?")
_HASH: Final = re.compile(r"\$(?:6|y)\$[A-Za-z0-9./$=,]{20,200}")
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,9})([MGT])", re.IGNORECASE)
_UNITS: Final = {"M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_LARGEST: Final = 1 << 50
_LONGEST: Final = 30 * 86400.0
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_WLAN_KEY: Final = re.compile(r"[0-9a-f]{64}")


def _form(text: str, pattern: re.Pattern[str], what: str, example: str) -> str:
    if pattern.fullmatch(text) is None:
        raise ValueRefusedError(f"{text!r} is not {what}", hint=f"for example: {example}")
    return text


def parse_host_name(text: str) -> HostName:
    """Parse the name of a host: one label of RFC 1123, in lower case, that begins with a letter. Raises ValueRefusedError."""
    if _HOST.fullmatch(text) is None:
        raise ValueRefusedError(
            f"{text!r} is not a host name", hint="a letter, then up to 62 letters, digits or dashes; no capitals: web, office-2"
        )
    if text in _RESERVED:
        raise ValueRefusedError(
            f"{text!r} is reserved, and cannot name a host", hint=f"choose a name other than {', '.join(sorted(_RESERVED))}"
        )
    return HostName(text)


def parse_user_name(text: str) -> UserName:
    """Parse the name of a user who may log in; never root, or another one of the system's own. Raises ValueRefusedError."""
    if _USER.fullmatch(text) is None:
        why = "it has at most 32 letters, digits, dots, dashes and underscores, and is not a number"
        raise ValueRefusedError(
            f"{text!r} cannot be a user of a host: {why}", hint=f"give another name: --username {near_user_name(text)}"
        )
    if text in _SYSTEM_USERS:
        raise ValueRefusedError(
            f"{text} cannot log in: a host's system uses that name", hint="give another name: --username alice"
        )
    return UserName(text)


def near_user_name(text: str) -> str:
    r"""Return the name most like `text` that a user of a host may have: `DOMAIN\\José` gives Jose."""
    import unicodedata

    name = unicodedata.normalize("NFKD", re.split(r"[\\/+]", text)[-1].partition("@")[0])
    name = re.sub(r"[^a-z0-9_.-]", "", re.sub(r"\s+", ".", name.strip()), flags=re.IGNORECASE | re.ASCII).lstrip(".-")[:32]
    if name.isdecimal():
        name = f"u{name[:31]}"
    return name if _USER.fullmatch(name) and name not in _SYSTEM_USERS else "alice"


def parse_time_zone(text: str) -> str:
    """Parse the name of a time zone."""
    return _form(text, _ZONE, "a time zone", "Europe/Paris")


def parse_keyboard(text: str) -> str:
    """Parse a keyboard layout, or the variant of one."""
    return _form(text, _KEYBOARD, "a keyboard layout", "us, fr, fr-bepo")


def parse_lang(text: str) -> str:
    """Parse a locale."""
    return _form(text, _LANG, "a locale", "en_US.UTF-8")


def parse_color(text: str) -> str:
    """Parse a colour of red, green and blue."""
    return _form(text, _COLOR, "a colour", "#4363d8")


def parse_branch(text: str) -> str:
    """Parse the branch that a system's packages come from."""
    return _form(text, _BRANCH, "a branch", "v3.24")


def parse_public_key(text: str) -> str:
    """Parse a public ed25519 key of ssh; returns it as one line."""
    return _form(text, _PUBLIC_KEY, "an ed25519 public key of ssh", "ssh-ed25519 AAAA... alice@thinclient")


def parse_password_hash(text: str) -> str:
    """Parse a hashed password as in /etc/shadow: sha512crypt or yescrypt. Raises ValueRefusedError."""
    if _HASH.fullmatch(text) is None:  # not shown: it may be a password
        raise ValueRefusedError("this is not the hash of a password", hint="it begins with $6$ or $y$")
    return text


def parse_ssid(text: str) -> str:
    """Parse the name of a Wi-Fi network as it was typed: any 1 to 32 bytes. Bytes that are not UTF-8 become surrogates.

    Raises ValueRefusedError.
    """
    try:
        return _ssid(os.fsencode(text))
    except UnicodeEncodeError:
        raise ValueRefusedError(f"{text!r} is not the name of a Wi-Fi network", hint="give its bytes in hexadecimal") from None


def parse_ssid_hex(text: str) -> str:
    """Parse the name of a Wi-Fi network from its bytes in hexadecimal. Raises ValueRefusedError."""
    if _HEX.fullmatch(text) is None:
        raise ValueRefusedError(f"{text!r} is not the name of a Wi-Fi network in hexadecimal", hint="for example: 486f6d65")
    return _ssid(bytes.fromhex(text))


def _ssid(octets: bytes) -> str:
    text = octets.decode(errors="surrogateescape")
    if not 1 <= len(octets) <= 32:
        what = f"'{ssid_text(text)}', {len(octets)} bytes, is not the name of a Wi-Fi network"
        raise ValueRefusedError(what, hint="it has 1 to 32 bytes")
    return text


def ssid_octets(ssid: str) -> bytes:
    """Return the bytes of a network's name, as they are sent by radio."""
    return ssid.encode(errors="surrogateescape")


def ssid_text(ssid: str) -> str:
    """Return a network's name for people; unprintable characters become escapes."""
    readable = ssid_octets(ssid).decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in readable)


def parse_wlan_key(text: str) -> str:
    """Parse a derived Wi-Fi key: 256 bits in hexadecimal. Raises ValueRefusedError."""
    if _WLAN_KEY.fullmatch(text) is None:  # not shown
        raise ValueRefusedError("the shared key of the Wi-Fi is not valid", hint="it has 64 hexadecimal digits")
    return text


def parse_size(text: str) -> int:
    """Parse a size such as 512M, 4G or 1T (powers of 1024), at most 1024T; returns bytes. Raises ValueRefusedError."""
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2].upper()] if match else _LARGEST + 1
    if size > _LARGEST:
        raise ValueRefusedError(f"{text!r} is not a size", hint="a number with M, G or T, at most 1024T: 512M, 4G")
    return size


def seconds(text: str) -> float:
    """Parse a time limit, for argparse, which shows this name. Raises ValueError for nan, inf, 0 and less."""
    found = float(text)
    if not 0 <= found <= _LONGEST:
        raise ValueError(text)
    return found
