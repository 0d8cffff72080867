# SPDX-License-Identifier: Apache-2.0
r"""Text of `NAME='value'` lines, read strictly: no value is ever evaluated.

Values have a shell's strong quotes, with `'\\''` for a quote inside, so the text is harmless even to a shell that sources it.
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
    """Return the text of names and values, in their order."""
    return "".join(f"{name}='{value.replace(chr(39), _QUOTE)}'\n" for name, value in values.items()).encode()


def parse_assignments(
    data: bytes, where: str, names: Collection[str], *, synonyms: Mapping[str, str] = _NONE, for_people: bool = False
) -> dict[str, str]:
    """Parse a text: name -> value. `synonyms` are further names, each with the name that must not stand beside it.

    A text `for_people` may have empty lines and comments, and an unknown name gets a hint with the known ones.
    Raises ValueRefusedError naming `where` and the line.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueRefusedError(f"{where}: is not UTF-8") from None
    if not text.endswith("\n"):
        raise ValueRefusedError(f"{where}: is cut off: its last line has no newline")
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
            raise ValueRefusedError(f"{where}: line {number}: {name} occurs twice")
        found[name] = match[2].replace(_QUOTE, "'")
    return found
