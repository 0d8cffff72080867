# SPDX-License-Identifier: Apache-2.0
"""The thin client's own settings, the defaults for a new host: user, keyboard, time zone, language.

They are read where Alpine's setup-* programs, and Debian's, write them. If one is missing or odd, that is no error: the
default is used, since a host with another keyboard is better than none; `--dry-run` shows the result.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tower.base.errors import ValueRefusedError
from tower.base.names import UserName, parse_lang, parse_user_name
from tower.base.refused import asked_by
from tower.base.regular import read_regular
from tower.hosts import known

_MOST = 64 << 10
"""The most bytes of a file of settings."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that were found."""

    keyboard_layout: str
    keyboard_variant: str
    timezone: str
    lang: str


def read_settings(root: Path = Path("/")) -> Settings:
    """Read the settings of the system whose files are below `root`."""
    layout, variant = _keyboard(root)
    return Settings(layout, variant, _time_zone(root), _lang(root))


def current_user() -> UserName:
    """Return the user who typed the command, also behind doas or sudo. Raises ValueRefusedError for root, say."""
    import pwd

    name = asked_by()
    if not name:
        try:
            name = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            name = str(os.geteuid())
    try:
        return parse_user_name(name)
    except ValueRefusedError as error:
        raise ValueRefusedError(f"the host gets your user name, but {error.message}", hint=error.hint) from None


def _keyboard(root: Path) -> tuple[str, str]:
    keymap = re.search(r"^KEYMAP=\"?(?:\S*/)?([A-Za-z0-9_-]+)\.bmap", _text(root / "etc/conf.d/loadkmap"), re.MULTILINE)
    found = dict(re.findall(r"^(XKBLAYOUT|XKBVARIANT)=\"?([A-Za-z0-9_-]*)", _text(root / "etc/default/keyboard"), re.MULTILINE))
    layout, variant = found.get("XKBLAYOUT", ""), found.get("XKBVARIANT", "")
    rows = [(layout, f"{layout}-{variant}" if variant else ""), (layout, "")]
    if keymap is not None:
        # Alpine names a variant in full: fr-bepo, whose layout is fr.
        rows.insert(0, (keymap[1].partition("-")[0], keymap[1]))
    for row in rows:
        with suppress(ValueRefusedError):
            return known.keyboard(*row, root)
    return "us", "us"


def _time_zone(root: Path) -> str:
    names = [_text(root / "etc/timezone").strip()]
    with suppress(OSError):
        # Debian links into zoneinfo; Alpine into the copy of one zone that it keeps in /etc/zoneinfo.
        names.insert(0, (root / "etc/localtime").readlink().as_posix().partition("zoneinfo/")[2])
    for name in names:
        with suppress(ValueRefusedError):
            return known.time_zone(name, root)
    return "UTC"


def _lang(root: Path) -> str:
    names = [os.environ.get("LANG", "")]
    for file in ("etc/locale.conf", "etc/default/locale", "etc/profile.d/20locale.sh", "etc/profile.d/00locale.sh"):
        names += re.findall(r"^(?:export )?LANG=\"?(?:\$\{LANG:-)?([A-Za-z0-9_.@-]+)", _text(root / file), re.MULTILINE)
    for name in names:
        with suppress(ValueRefusedError):
            return parse_lang(name)
    return "C.UTF-8"


def _text(path: Path) -> str:
    try:
        return read_regular(path, most=_MOST).decode(errors="replace")
    except OSError:
        return ""
