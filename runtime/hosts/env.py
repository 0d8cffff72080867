# SPDX-License-Identifier: Apache-2.0
r"""`tower.env`: what a host is told about itself, on its boot partition. Typed here; never read by a shell.

One `NAME='value'` a line, in a fixed order. The quotes are a shell's strong ones, with `'\''` for a quote inside, so
that the file is harmless even to somebody who does source it. Reading is strict: a name that is missing, unknown or
there twice, another way of quoting, or a value that does not fit the others, is refused. Files of earlier versions may lack
ENCRYPTION, which then is `required`, and may have WLAN_SSID in place of WLAN_SSID_HEX.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from tower.base.assignments import dump_assignments, parse_assignments
from tower.base.errors import ValueRefusedError
from tower.base.names import (
    ROUTER,
    HostName,
    UserName,
    parse_branch,
    parse_color,
    parse_host_name,
    parse_keyboard,
    parse_lang,
    parse_password_hash,
    parse_public_key,
    parse_ssid_hex,
    parse_time_zone,
    parse_user_name,
    parse_wlan_key,
    ssid_octets,
)
from tower.base.networks import ROUTER_ADDRESS, Network, network_of, parse_address, parse_network

MOST: Final = 16 << 10
"""Bytes; a real file has less than one KiB."""
_NAMES: Final = (
    "HOSTNAME", "USERNAME", "PUBLIC_KEY", "PASSWORD_HASH", "KEYBOARD_LAYOUT", "KEYBOARD_VARIANT", "TIMEZONE", "LANG",
    "ONLINE", "WLAN_SSID_HEX", "WLAN_SHARED_KEY", "THIN_CLIENT_IP", "TOWER_NETWORK", "STATIC_HOST_IP", "ROUTER_IP",
    "INSTALLATION_TYPE", "COLOR", "ALPINE_BRANCH", "ENCRYPTION",
)  # fmt: skip
_DEFAULTS: Final = {"ENCRYPTION": "required"}
_OLD_SSID: Final = "WLAN_SSID"
"""The former WLAN_SSID_HEX, which had the network's name as text."""


class InstallationType(StrEnum):
    """Whether a host's disk is made anew, or keeps its home."""

    INSTALL = "install"
    UPGRADE = "upgrade"


class Encryption(StrEnum):
    """Whether to install a host without a second disk, which cannot be encrypted."""

    REQUIRED = "required"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Wlan:
    """The Wi-Fi network that the router joins, with its derived key; the password is not stored."""

    ssid: str
    """As `tower.base.names.parse_ssid` returns it: bytes that are not UTF-8 are surrogates."""
    shared_key: str

    def __repr__(self) -> str:
        return f"Wlan(ssid={self.ssid!r})"


@dataclass(frozen=True, slots=True)
class TowerEnv:
    """A host's settings. Raises ValueRefusedError if they contradict each other."""

    hostname: HostName
    username: UserName
    public_key: str
    password_hash: str
    keyboard_layout: str
    keyboard_variant: str
    timezone: str
    lang: str
    online: bool
    wlan: Wlan | None
    address: IPv4Address
    installation_type: InstallationType
    color: str
    alpine_branch: str
    encryption: Encryption = Encryption.REQUIRED

    def __post_init__(self) -> None:
        if self.is_router and (not self.online or self.address != ROUTER_ADDRESS):
            raise ValueRefusedError(f"{self.hostname}: the router is online and has the address {ROUTER_ADDRESS}")
        if not self.is_router and self.address not in self.network.hosts:
            raise ValueRefusedError(
                f"{self.hostname}: {self.address} is not an address for a host of the {self.network.name} network"
            )
        if (self.wlan is not None) != self.is_router:
            raise ValueRefusedError(f"{self.hostname}: the router, and it alone, has a Wi-Fi network")

    def __repr__(self) -> str:
        return f"TowerEnv({self.hostname!r}, {self.address})"  # no printing may show the hash or the key

    @property
    def is_router(self) -> bool:
        """Tell whether this is the host through which the other online hosts reach the Internet."""
        return self.hostname == ROUTER

    @property
    def network(self) -> Network:
        """The host's network."""
        return network_of(online=self.online)

    def values(self) -> dict[str, str]:
        """Return name -> value, in the order of the file."""
        found = (
            self.hostname, self.username, self.public_key, self.password_hash, self.keyboard_layout, self.keyboard_variant,
            self.timezone, self.lang, "true" if self.online else "false", ssid_octets(self.wlan.ssid).hex() if self.wlan else "",
            self.wlan.shared_key if self.wlan else "", str(self.network.thin_client), str(self.network.addresses),
            str(self.address), str(ROUTER_ADDRESS) if self.online else "", self.installation_type.value, self.color,
            self.alpine_branch, self.encryption.value,
        )  # fmt: skip
        return dict(zip(_NAMES, found, strict=True))


def dump(env: TowerEnv) -> bytes:
    """Return the content of the file."""
    return dump_assignments(env.values())


def parse(data: bytes, where: str = "tower.env") -> TowerEnv:
    """Parse a file that `dump` wrote. Raises ValueRefusedError naming `where` and the line; no value is ever evaluated."""
    values = _DEFAULTS | read_values(data, where)
    if _OLD_SSID in values:
        values["WLAN_SSID_HEX"] = values.pop(_OLD_SSID).encode().hex()
    missing = [name for name in _NAMES if name not in values]
    if missing:
        raise ValueRefusedError(f"{where}: there is no {', '.join(missing)}")
    try:
        env = _typed(values)
    except ValueRefusedError as error:
        raise ValueRefusedError(f"{where}: {error.message}", hint=error.hint) from None
    for name, value in env.values().items():
        if values[name] != value:
            raise ValueRefusedError(f"{where}: {name} is {values[name]!r}, but the other values require {value!r}")
    return env


def read_values(data: bytes, where: str) -> dict[str, str]:
    """Return the values as text. Raises ValueRefusedError naming the line."""
    if len(data) > MOST:
        raise ValueRefusedError(f"{where}: {len(data)} bytes, too many for such a file")
    return parse_assignments(data, where, _NAMES, synonyms={_OLD_SSID: "WLAN_SSID_HEX"})


def _typed(values: dict[str, str]) -> TowerEnv:
    if values["ONLINE"] not in ("true", "false"):
        raise ValueRefusedError(f"ONLINE is {values['ONLINE']!r}, expected 'true' or 'false'")
    if values["INSTALLATION_TYPE"] not in tuple(InstallationType):
        raise ValueRefusedError(
            f"INSTALLATION_TYPE is {values['INSTALLATION_TYPE']!r}, expected one of {', '.join(InstallationType)}"
        )
    if values["ENCRYPTION"] not in tuple(Encryption):
        raise ValueRefusedError(f"ENCRYPTION is {values['ENCRYPTION']!r}, expected one of {', '.join(Encryption)}")
    parse_network(values["TOWER_NETWORK"])
    ssid, key = values["WLAN_SSID_HEX"], values["WLAN_SHARED_KEY"]
    return TowerEnv(
        hostname=parse_host_name(values["HOSTNAME"]),
        username=parse_user_name(values["USERNAME"]),
        public_key=parse_public_key(values["PUBLIC_KEY"]),
        password_hash=parse_password_hash(values["PASSWORD_HASH"]),
        keyboard_layout=parse_keyboard(values["KEYBOARD_LAYOUT"]),
        keyboard_variant=parse_keyboard(values["KEYBOARD_VARIANT"]),
        timezone=parse_time_zone(values["TIMEZONE"]),
        lang=parse_lang(values["LANG"]),
        online=values["ONLINE"] == "true",
        wlan=Wlan(parse_ssid_hex(ssid), parse_wlan_key(key)) if ssid or key else None,
        address=parse_address(values["STATIC_HOST_IP"]),
        installation_type=InstallationType(values["INSTALLATION_TYPE"]),
        color=parse_color(values["COLOR"]),
        alpine_branch=parse_branch(values["ALPINE_BRANCH"]),
        encryption=Encryption(values["ENCRYPTION"]),
    )
