# SPDX-License-Identifier: Apache-2.0
"""Read the `.desktop` files of a host (Desktop Entry Specification 1.5) as far as a menu needs them, and write our own.

A host is not trusted: nothing of its files gets into one of ours but a name that was cleaned, words of a command line that
need no escapes, categories that are registered, and the name of an icon.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tower.base.errors import ValueRefusedError

MOST: Final = 128 << 10
"""The most bytes of a file: those with many languages have some 50,000."""
DESKTOP: Final = frozenset({"labwc", "wlroots"})
"""What the thin client's desktop calls itself in XDG_CURRENT_DESKTOP."""
MOST_NAME: Final = 60
"""The most characters of a name."""
ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_MOST_LINES: Final = 5000
_MOST_WORDS: Final = 64
_MOST_WORD: Final = 1024
_GROUP: Final = "Desktop Entry"
_KEY: Final = re.compile(r"([A-Za-z0-9-]+)(?:\[([A-Za-z0-9_.@-]{1,40})\])?")
_WANTED: Final = frozenset(
    "Type Name NoDisplay Hidden OnlyShowIn NotShowIn TryExec Exec Terminal Icon Categories".split()  # noqa: SIM905
)
_PROGRAM: Final = re.compile(r"(?:/(?:[A-Za-z0-9_.+-]+/)*)?[A-Za-z0-9_.+][A-Za-z0-9_.+-]*")
_ICON: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
_ICON_PATH: Final = re.compile(r"(?:/[A-Za-z0-9_.+-]{1,127}){1,10}\.png")
_CATEGORIES: Final = frozenset(
    "AudioVideo Audio Video Development Education Game Graphics Network Office Science Settings System Utility".split()  # noqa: SIM905
)
_ESCAPES: Final = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
_RESERVED: Final = frozenset(" \t\n\"'\\><~|&;$*?#()`")
"""Characters that only a quoted word may have."""
_REFUSED: Final = frozenset("\"'\\$`")
"""Characters that would need an escape in a quoted word of ours."""
_NOTHING: Final = frozenset("fFuUdDnNvmk")
"""Field codes in whose place nothing comes: there is no file to open."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An application of a host, as its packages describe it."""

    id: str
    name: str
    argv: tuple[str, ...]
    try_program: str = ""
    """A program without which the application is not installed."""
    icon: str = ""
    """The name of its icon, or the path of one on the host; empty if it has none that could be read."""
    categories: tuple[str, ...] = ()


def parse(id_: str, data: bytes, languages: Sequence[str] = (), *, most_name: int = MOST_NAME) -> Entry | None:
    """Return the entry of a file, whose name is that of the first language it has; None if it is not for this menu.

    Not for this menu are hidden ones, those for other desktops or for a terminal, and what is not an application.
    Raises ValueRefusedError if the file is damaged, or describes something that we would not start.
    """
    if ID.fullmatch(id_) is None:
        raise ValueRefusedError("its name has characters that the name of such a file does not have")
    values = _values(data)
    if values.get("Type") != "Application" or any(_is_true(values, key) for key in ("Hidden", "NoDisplay", "Terminal")):
        return None
    if "OnlyShowIn" in values and not DESKTOP & set(_words(values["OnlyShowIn"])):
        return None
    if DESKTOP & set(_words(values.get("NotShowIn", ""))):
        return None
    if "Exec" not in values:
        return None  # the session bus would start it
    names = [values.get(f"Name[{one}]", "") for one in languages]
    names = [clean(_text(one), most_name) for one in (*names, values.get("Name", ""))]
    name = next(filter(None, names), id_[:most_name])
    tried = _text(values.get("TryExec", ""))
    if tried and _PROGRAM.fullmatch(tried) is None:
        raise ValueRefusedError(f"TryExec: {tried[:60]!r} is not a program")
    categories = tuple(dict.fromkeys(one for one in _words(values.get("Categories", "")) if one in _CATEGORIES))
    return Entry(id_, name, parse_command(_text(values["Exec"]), id_), tried, _icon(_text(values.get("Icon", ""))), categories)


def parse_command(text: str, caption: str) -> tuple[str, ...]:
    """Parse the value of `Exec`: a program and its words, without files to open; `%c` is the caption.

    Raises ValueRefusedError if it is not a command line by the specification, or has words that we would have to escape.
    """
    found = []
    for word, quoted in _split(text):
        filled = word if quoted else _filled(word, caption)
        if filled or quoted:
            found.append(filled)
    if not found or _PROGRAM.fullmatch(found[0]) is None:
        raise ValueRefusedError(f"Exec: {(found or [''])[0][:60]!r} is not a program")
    if len(found) > _MOST_WORDS or any(len(word) > _MOST_WORD for word in found):
        raise ValueRefusedError("Exec: is too long")
    for word in found:
        if not word.isascii() or not word.isprintable() or _REFUSED & set(word):
            raise ValueRefusedError(f"Exec: {word[:60]!r} has characters that a menu entry cannot pass on")
    return tuple(found)


def clean(text: str, most: int = MOST_NAME) -> str:
    """Return a name without what could break lines, hide, or change the order of others; empty if nothing is left."""
    kept, marks = [], 0
    for char in unicodedata.normalize("NFC", text[: 20 * most]):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind[0] == "M" else 0
        # Format characters (Cf) are those that turn the direction of writing, or are not seen.
        if kind[0] == "Z" or char in "\t\n\r":
            kept.append(" ")
        elif kind[0] != "C" and marks <= 2:
            kept.append(char)
    return " ".join("".join(kept).split())[:most].strip()


def languages_of(locale: str) -> tuple[str, ...]:
    """Return the languages to look for, best first, for a locale such as de_AT.UTF-8@euro."""
    match = re.fullmatch(r"([A-Za-z]{2,8})(?:_([A-Za-z]{2}))?(?:\.[A-Za-z0-9-]*)?(?:@([A-Za-z]+))?", locale)
    if match is None or match[1] in ("C", "POSIX"):
        return ()
    language, country, modifier = match[1], match[2], match[3]
    found = [f"{language}_{country}@{modifier}"] if country and modifier else []
    found += [f"{language}_{country}"] if country else []
    found += [f"{language}@{modifier}"] if modifier else []
    return (*found, language)


def quoted(argv: Iterable[str]) -> str:
    """Return a value of `Exec`. Raises ValueRefusedError if a word has characters that would need an escape."""
    return " ".join(map(_quote, argv))


def dump(values: Mapping[str, str]) -> bytes:
    """Return a file with these values in its one group."""
    lines = [f"{key}={_escaped(value)}\n" for key, value in values.items()]
    return "".join([f"[{_GROUP}]\n", *lines]).encode()


def _quote(word: str) -> str:
    if not word.isprintable() or _REFUSED & set(word):
        raise ValueRefusedError(f"{word[:60]!r} cannot be a word of a menu entry")
    word = word.replace("%", "%%")
    return f'"{word}"' if not word or _RESERVED & set(word) else word


def _escaped(value: str) -> str:
    if not value.isprintable():
        raise ValueRefusedError(f"{value[:60]!r} cannot be in a menu entry")
    return value.replace("\\", "\\\\")


def _values(data: bytes) -> dict[str, str]:
    """Return the raw values of the first group by key, with its language: `Name[de]`."""
    if len(data) > MOST:
        raise ValueRefusedError(f"has more than {MOST} bytes")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueRefusedError("is not UTF-8") from None
    if len(lines) > _MOST_LINES:
        raise ValueRefusedError(f"has more than {_MOST_LINES} lines")
    values: dict[str, str] = {}
    group = ""
    for line in map(str.strip, lines):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if (line == f"[{_GROUP}]") == bool(group):
                raise ValueRefusedError(f"does not have [{_GROUP}] first, or has it twice")
            group = line
        elif not group:
            raise ValueRefusedError(f"does not begin with [{_GROUP}]")
        elif group == f"[{_GROUP}]":
            _take(line, values)
    if not values:
        raise ValueRefusedError(f"has nothing in [{_GROUP}]")
    return values


def _take(line: str, values: dict[str, str]) -> None:
    """Take one line of the group, unless its key is one that nobody looks for."""
    key, equals, value = line.partition("=")
    match = _KEY.fullmatch(key.rstrip())
    if not equals:
        raise ValueRefusedError(f"has a line that is not one: {line[:60]!r}")
    if match is None or match[1] not in _WANTED:
        return
    if match[0] in values:
        raise ValueRefusedError(f"has {match[0]} twice")
    values[match[0]] = value.lstrip()


def _text(value: str) -> str:
    """Return a value without its escapes."""
    if "\\" not in value:
        return value
    made, chars = [], iter(value)
    for char in chars:
        if char == "\\":
            escape = next(chars, "")
            if escape not in _ESCAPES:
                raise ValueRefusedError(f"has an escape that is not one: \\{escape}")
            char = _ESCAPES[escape]  # noqa: PLW2901  (that is what it stands for)
        made.append(char)
    return "".join(made)


def _words(value: str) -> list[str]:
    """Return the words of a list. One with an escape is none that we know."""
    return [word for word in value.split(";") if word and "\\" not in word]


def _is_true(values: Mapping[str, str], key: str) -> bool:
    value = values.get(key, "false")
    if value not in ("true", "false", "1", "0"):  # the last two of old files
        raise ValueRefusedError(f"{key}: {value[:20]!r} is neither true nor false")
    return value in ("true", "1")


def _icon(text: str) -> str:
    """Return an icon that a host can be asked for; a name has no suffix, although some files have one."""
    if ".." in text:
        return ""
    if _ICON_PATH.fullmatch(text):
        return text
    text = re.sub(r"\.(?:png|svg|svgz|xpm)$", "", text)
    return text if _ICON.fullmatch(text) else ""


def _split(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the words of a command line as they are, and whether they are quoted."""
    at = 0
    while at < len(text):
        if text[at] == " ":
            at += 1
        elif text[at] == '"':
            word, at = _quoted_word(text, at + 1)
            yield word, True
        else:
            end = text.find(" ", at)
            word = text[at:] if end < 0 else text[at:end]
            if _RESERVED & set(word):
                raise ValueRefusedError(f"Exec: {word[:60]!r} has characters that must be quoted")
            yield word, False
            at += len(word)


def _quoted_word(text: str, at: int) -> tuple[str, int]:
    """Return the word whose opening quote is before `at`, and where the text goes on."""
    made = []
    while at < len(text) and text[at] != '"':
        if text[at] == "\\":
            at += 1
            if text[at : at + 1] not in ('"', "`", "$", "\\"):
                raise ValueRefusedError("Exec: has an escape that is not one")
        elif text[at] in "`$":
            raise ValueRefusedError("Exec: has a character that must be escaped")
        elif text[at] == "%":
            at += 1
            if text[at : at + 1] != "%":
                raise ValueRefusedError("Exec: has a field code in quotes")
        made.append(text[at])
        at += 1
    if at >= len(text):
        raise ValueRefusedError("Exec: has a quote without an end")
    if text[at + 1 : at + 2] not in ("", " "):
        raise ValueRefusedError("Exec: has a quote within a word")
    return "".join(made), at + 1


def _filled(word: str, caption: str) -> str:
    """Return a word with its field codes replaced; empty if nothing is left of it."""
    if word == "%i":
        return ""  # it would name an icon of the host
    made, chars = [], iter(word)
    for char in chars:
        if char == "%":
            code = next(chars, "")
            if code not in ("%", "c") and code not in _NOTHING:
                raise ValueRefusedError(f"Exec: %{code} is not a field code that stands there")
            char = {"%": "%", "c": caption}.get(code, "")  # noqa: PLW2901  (that is what it stands for)
        made.append(char)
    return "".join(made)
