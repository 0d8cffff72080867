# SPDX-License-Identifier: Apache-2.0
"""The known time zones and keyboards. Others are refused, with similar names: a host would come up without them.

The lists came with this version; zones and keyboards of this system are accepted, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from importlib import resources
from pathlib import Path
from typing import Final

from tower.base.errors import ValueRefusedError
from tower.base.names import parse_keyboard, parse_time_zone

_ZONES: Final = ("usr/share/zoneinfo", "etc/zoneinfo")
_KEYMAPS: Final = "usr/share/bkeymaps"
_KEYMAP_IN_USE: Final = "etc/keymap"
_MISTAKEN: Final = {
    "uk": ("gb", "ua"), "en": ("us", "gb"), "eng": ("us", "gb"), "usa": ("us",), "sv": ("se",), "da": ("dk",), "cs": ("cz",),
    "el": ("gr",), "ja": ("jp",), "ko": ("kr",), "zh": ("cn",), "sl": ("si",), "et": ("ee",), "nb": ("no",), "he": ("il",),
    "sr": ("rs",), "fa": ("ir",), "hi": ("in",), "sq": ("al",), "bs": ("ba",), "ar": ("ara",), "ga": ("ie",), "es-la": ("latam",),
    "german": ("de", "at", "ch"), "french": ("fr", "be", "ch"), "english": ("us", "gb"), "spanish": ("es", "latam"),
    "italian": ("it",), "portuguese": ("pt", "br"), "russian": ("ru",), "swiss": ("ch",),
    "qwertz": ("de", "ch"), "azerty": ("fr", "be"), "qwerty": ("us", "gb"), "dvorak": ("us",), "bepo": ("fr",), "neo": ("de",),
}  # fmt: skip
"""Codes of languages and names of kinds that are not layouts, with the layouts that are meant."""
_MOST: Final = 4


def time_zone(text: str, root: Path = Path("/")) -> str:
    """Check that a time zone is known. Raises ValueRefusedError that names similar ones."""
    known = _rows("zones.txt")
    parse_time_zone(text)
    if text in known or any((root / folder / text).is_file() for folder in _ZONES):
        return text
    raise ValueRefusedError(f"{text!r} is not a time zone", hint=_or(near_zones(text, known), "for example: Europe/Paris, UTC"))


def near_zones(text: str, known: Collection[str]) -> list[str]:
    """Return zones whose name, or whose city, resembles a text; the most similar first."""
    city = text.rpartition("/")[2].casefold()
    same = [zone for zone in known if zone.rpartition("/")[2].casefold() == city]
    if same:
        return sorted(same, key=lambda zone: zone.casefold() != text.casefold())[:_MOST]
    by_city = {zone.rpartition("/")[2]: zone for zone in known}
    return list(dict.fromkeys([*_alike(text, known), *(by_city[name] for name in _alike(city, by_city))]))[:_MOST]


def keyboard(layout: str, variant: str = "", root: Path = Path("/")) -> tuple[str, str]:
    """Return a layout and its variant, by default the layout's own name. Raises ValueRefusedError that names similar ones."""
    known = _keyboards()
    if layout not in known and not _is_here(root, layout, variant or layout):
        near = [*_MISTAKEN.get(layout.casefold(), ()), *_alike(layout, known)]
        raise ValueRefusedError(f"{layout!r} is not a keyboard layout", hint=_or(near, "for example: us, gb, de, fr"))
    if variant in ("", layout):
        return layout, layout
    variants = [f"{layout}-{name}" for name in known.get(layout, ())]
    if variant in variants or _is_here(root, layout, variant):
        return layout, variant
    near = [f"{one}-{name}" for one, names in known.items() for name in names if variant in (name, f"{one}-{name}")]
    near = sorted(near, key=lambda name: not name.startswith(f"{layout}-")) or _alike(variant, variants) or sorted(variants)
    raise ValueRefusedError(
        f"{variant!r} is not a variant of the keyboard layout {layout}", hint=_or(near, f"it has none but {layout}")
    )


def _is_here(root: Path, layout: str, variant: str) -> bool:
    """Tell whether this system has or uses that keyboard: its keymap stays when the package of all keymaps is removed."""
    try:
        parse_keyboard(layout)
        parse_keyboard(variant)
    except ValueRefusedError:
        return False
    name = f"{variant}.bmap.gz"
    in_use = variant.partition("-")[0] == layout and (root / _KEYMAP_IN_USE / name).is_file()
    return in_use or (root / _KEYMAPS / layout / name).is_file()


def _alike(text: str, known: Iterable[str]) -> list[str]:
    import difflib

    folded = {name.casefold(): name for name in known}
    return [folded[name] for name in difflib.get_close_matches(text.casefold(), folded, _MOST)]


def _or(near: Iterable[str], otherwise: str) -> str:
    names = list(dict.fromkeys(near))
    return f"is it one of: {', '.join(names)}?" if names else otherwise


def _rows(name: str) -> dict[str, str]:
    """Return the lines of one of our lists: the part before a colon, and the part after it."""
    lines = resources.files("tower.hosts").joinpath(name).read_text(encoding="utf-8").splitlines()
    found = (line.partition(":") for line in lines if not line.startswith("#"))
    return {row[0]: row[2] for row in found}


def _keyboards() -> dict[str, tuple[str, ...]]:
    return {layout: tuple(names.split()) for layout, names in _rows("keyboards.txt").items()}
