# SPDX-License-Identifier: Apache-2.0
r"""Text of `NAME='value'` lines, as strict as can be: no value is ever evaluated.

The quotes are a shell's strong ones, with `'\''` for a quote inside: the text is harmless even to a shell that sources it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from tower.base.errors import ValueRefusedError

_QUOTE: Final = r"'\''"
_LINE: Final = re.compile(r"([A-Z_]+)='((?:[^']|'\\'')*)'")
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


def dump_assignments(values: Mapping[str, str]) -> bytes:
    """The text of names and values, in their order."""
    return "".join(f"{name}='{value.replace(chr(39), _QUOTE)}'\n" for name, value in values.items()).encode()


def parse_assignments(
    data: bytes, where: str, names: Collection[str], *, synonyms: Mapping[str, str] = _NONE, for_people: bool = False
) -> dict[str, str]:
    """Name -> value. `synonyms` are further names, each with the one that it must not stand beside.

    A text `for_people` may have empty lines and comments, and a name that is not known gets a hint with those that are.
    Raises ValueRefusedError naming `where` and the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueRefusedError(f"{where}: is not UTF-8") from None
    if not text.endswith("\n"):
        raise ValueRefusedError(f"{where}: is cut off: its last line has no end")
    found: dict[str, str] = {}
    for number, line in enumerate(text[:-1].split("\n"), start=1):
        if for_people and (not line.strip() or line.startswith("#")):
            continue
        match = _LINE.fullmatch(line)
        if match is None or not line.isprintable():
            raise ValueRefusedError(f"{where}: line {number} is not NAME='value'")
        name = match[1]
        if name not in names and name not in synonyms:
            hint = f"one of: {', '.join(names)}" if for_people else ""
            raise ValueRefusedError(f"{where}: line {number}: {name} is not known", hint=hint)
        if {synonyms.get(one, one) for one in found} & {synonyms.get(name, name)}:
            raise ValueRefusedError(f"{where}: line {number}: {name} is there twice")
        found[name] = match[2].replace(_QUOTE, "'")
    return found
