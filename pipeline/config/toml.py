# SPDX-License-Identifier: Apache-2.0
"""Read TOML with types: every key is read by name and type, and unknown keys are refused.

Mistakes are collected, so that one run shows all of them, each with its file and key. The readers of
channels, recipes and stages use `Table`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from tower.base.regular import read_regular

from pipeline.base.errors import ConfigError

_REQUIRED: Final = object()
_T = TypeVar("_T")
_NAMES = {str: "a string", int: "an integer", bool: "true or false", list: "a list", dict: "a table", float: "a number"}


class Problems:
    """The mistakes found so far, over any number of files."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, where: str, what: str) -> None:
        """Note one mistake; `where` is file and key."""
        self._lines.append(f"{where}: {what}")

    def __bool__(self) -> bool:
        return bool(self._lines)

    def check(self, subject: str) -> None:
        """Raise one ConfigError that lists every mistake, if there is any."""
        if self._lines:
            count = f"{len(self._lines)} mistakes" if len(self._lines) > 1 else "a mistake"
            raise ConfigError("\n  ".join([f"{subject}: {count}", *self._lines]), hint="edit the files named above")


class Table:
    """A table of a TOML file, read key by key.

    For a value of the wrong type, a getter notes a mistake and returns a harmless value, so that reading continues; the
    caller discards the result when `Problems.check` raises. `close` refuses the keys that were not read.
    """

    def __init__(self, data: dict[str, Any], file: str, path: str, problems: Problems) -> None:
        self._data = data
        self._file = file
        self._path = path
        self._problems = problems
        self._known: set[str] = set()
        self._children: list[Table] = []

    def where(self, key: str = "") -> str:
        """Return file and key path, for messages."""
        full = ".".join(part for part in (self._path, key) if part)
        return f"{self._file}: {full}" if full else self._file

    def problem(self, key: str, what: str) -> None:
        """Note a mistake at `key`."""
        self._problems.add(self.where(key), what)

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        """Yield the keys of a table whose keys are names that the user chose."""
        return iter(self._data)

    def _get(self, key: str, kind: type[_T], default: object, harmless: _T) -> _T:
        self._known.add(key)
        if key not in self._data:
            if default is _REQUIRED:
                self.problem(key, f"missing; it must be {_NAMES[kind]}")
                return harmless
            return default  # type: ignore[return-value]
        value = self._data[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.problem(key, f"must be {_NAMES[kind]}, not {_shown(value)}")
            return harmless
        return value

    def text(self, key: str, default: str | object = _REQUIRED) -> str:
        """Return a string that is not empty."""
        value = self._get(key, str, default, "")
        if self._data.get(key) == "":
            self.problem(key, "must not be empty")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str | object = _REQUIRED) -> str:
        """Return one of a fixed set of strings."""
        value = self.text(key, default)
        if key in self._data and value and value not in choices:
            self.problem(key, f"{value!r} is none of {', '.join(choices)}{_suggestion(value, choices)}")
        return value

    def integer(self, key: str, default: int | object = _REQUIRED) -> int:
        """Return a whole number."""
        return self._get(key, int, default, 0)

    def boolean(self, key: str, default: bool | object = _REQUIRED) -> bool:
        """Return true or false."""
        return self._get(key, bool, default, False)

    def strings(self, key: str, default: Sequence[str] | object = _REQUIRED) -> tuple[str, ...]:
        """Return a list of strings."""
        values = self._get(key, list, list(default) if isinstance(default, Sequence) else default, [])
        for place, value in enumerate(values):
            if not isinstance(value, str):
                self.problem(f"{key}[{place}]", f"must be a string, not {_shown(value)}")
        return tuple(value for value in values if isinstance(value, str))

    def mapping(self, key: str) -> dict[str, str]:
        """Return a table of strings; empty if absent."""
        values = self._get(key, dict, {}, {})
        for name, value in values.items():
            if not isinstance(value, str):
                self.problem(f"{key}.{name}", f"must be a string, not {_shown(value)}")
        return {name: value for name, value in values.items() if isinstance(value, str)}

    def raw(self, key: str) -> Any:
        """Return a value whose type the caller checks; None if absent."""
        self._known.add(key)
        return self._data.get(key)

    def table(self, key: str) -> Table:
        """Return a table inside this one; empty if absent."""
        return self._child(self._get(key, dict, {}, {}), key)

    def tables(self, key: str) -> list[Table]:
        """Return a list of tables (`[[key]]`); empty if absent."""
        found: list[Table] = []
        for place, value in enumerate(self._get(key, list, [], [])):
            if isinstance(value, dict):
                found.append(self._child(value, f"{key}[{place}]"))
            else:
                self.problem(f"{key}[{place}]", f"must be a table, not {_shown(value)}")
        return found

    def _child(self, data: dict[str, Any], key: str) -> Table:
        child = Table(data, self._file, ".".join(part for part in (self._path, key) if part), self._problems)
        self._children.append(child)
        return child

    def close(self) -> None:
        """Note every key, here and in the tables inside, that was not read."""
        for key in self._data:
            if key not in self._known:
                self.problem(key, f"unknown key{_suggestion(key, sorted(self._known))}")
        for child in self._children:
            child.close()


def read_toml(path: Path, problems: Problems, *, shown: str = "") -> Table:
    """Return the top table of a TOML file; an unreadable file is noted, and gives an empty table."""
    name = shown or str(path)
    data: dict[str, Any] = {}
    try:
        data = tomllib.loads(read_regular(path).decode())
    except FileNotFoundError:
        problems.add(name, "no such file")
    except OSError as error:
        problems.add(name, f"cannot be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        problems.add(name, f"not TOML: {error}")
    return Table(data, name, "", problems)


def table_of(data: dict[str, Any], file: str, path: str, problems: Problems) -> Table:
    """Return a `Table` for data that was read before, such as a channel's `[settings]`."""
    return Table(data, file, path, problems)


def _shown(value: object) -> str:
    return f"{_NAMES.get(type(value), type(value).__name__)} ({value!r})"[:80]


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; do you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
