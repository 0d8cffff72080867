# SPDX-License-Identifier: Apache-2.0
"""The comparison of versions by the two generations of apk when they choose packages, odd and broken versions included.

`pipeline.apk.format.version` defines Alpine's versions. Indexes hold others too (`pc:x264=0.164.x`); apk reads those from
the left as far as it can. The generations differ where a number begins with zero, after a letter, and at `~`.
"""

from __future__ import annotations

# Kinds of parts. Where two versions part by kind, the one with the smaller kind is newer.
_FIRST, _NUMBER, _LETTER, _SUFFIX, _SUFFIX_NUMBER, _HASH, _REVISION, _END, _BROKEN = range(9)
_SUFFIXES = {
    name: rank for rank, name in enumerate(("alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p")) if name
}  # fmt: skip
_PLAIN = 4
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdef")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")

Part = tuple[int, "int | str"]


def _run(text: str, start: int, chars: frozenset[str]) -> int:
    """Return the end of the run of `chars` that begins at `start`."""
    end = start
    while end < len(text) and text[end] in chars:
        end += 1
    return end


def _next(text: str, at: int, kind: int) -> tuple[Part, int]:
    """Return the part that apk 3 reads at `at`, after a part of `kind`, and its end."""
    char = text[at]
    start, chars, after, new = at + 1, _DIGITS, _NUMBER, _NUMBER
    if char in _LOWER:
        return ((_LETTER, char) if kind <= _NUMBER else (_BROKEN, "")), at + 1
    if char in _DIGITS:
        start, after, new = at, _SUFFIX, _SUFFIX_NUMBER
        if kind != _SUFFIX:
            return (_BROKEN, ""), at
    elif char == "_":
        chars, after, new = _LOWER, _SUFFIX_NUMBER, _SUFFIX
    elif char == "~":
        chars, after, new = _HEX, _SUFFIX_NUMBER, _HASH
    elif char == "-" and text[at + 1 : at + 2] == "r":
        start, after, new = at + 2, _HASH, _REVISION
    elif char != ".":
        return (_BROKEN, ""), at
    end = _run(text, start, chars)
    value = text[start:end]
    if kind > after or not value or (new == _SUFFIX and value not in _SUFFIXES):
        return (_BROKEN, ""), at
    return (new, _SUFFIXES[value] if new == _SUFFIX else value if new in (_NUMBER, _HASH) else int(value)), end


def _parts(text: str) -> list[Part]:
    """Split a version as apk 3 reads it; the last part tells whether all of it was read."""
    at = _run(text, 0, _DIGITS)
    if not at:
        return [(_BROKEN, "")]
    parts: list[Part] = [(_FIRST, int(text[:at]))]
    while at < len(text) and parts[-1][0] != _BROKEN:
        part, at = _next(text, at, parts[-1][0])
        parts.append(part)
    if parts[-1][0] != _BROKEN:
        parts.append((_END, ""))
    return parts


def _order(a: int | str, b: int | str) -> int:
    """Compare two values of one kind: -1, 0 or 1; digits count as a number unless one of them begins with zero."""
    if isinstance(a, str) and isinstance(b, str):
        if a[:1] in _DIGITS and b[:1] in _DIGITS and "0" not in (a[0], b[0]):
            return _order(int(a), int(b))
        return (a > b) - (a < b)
    return (int(a) > int(b)) - (int(a) < int(b))


class Versions3:
    """apk 3's comparisons."""

    @staticmethod
    def is_valid(text: str) -> bool:
        """Tell whether apk 3 accepts a version in a dependency."""
        return _parts(text)[-1][0] == _END

    @staticmethod
    def compare(a: str, b: str, *, begins: bool = False) -> int:
        """Compare: -1, 0 or 1; with `begins` a version also equals one that it begins with."""
        for (kind, value), (other, wanted) in zip(_parts(a), _parts(b), strict=False):
            if kind != other:
                return Versions3._part_ways((kind, value), (other, wanted), begins=begins)
            # Hashes are compared as text; `_order` would take a hash of digits alone for a number.
            order = (str(value) > str(wanted)) - (str(value) < str(wanted)) if kind == _HASH else _order(value, wanted)
            if order:
                return order
        return 0

    @staticmethod
    def _part_ways(a: Part, b: Part, *, begins: bool) -> int:
        if begins and b[0] == _END:
            return 0
        for part, answer in ((a, -1), (b, 1)):
            if part[0] == _SUFFIX and int(part[1]) < _PLAIN:
                return answer
        return -1 if a[0] > b[0] else 1

    @classmethod
    def fulfils(cls, version: str, op: str, wanted: str) -> bool:
        """Tell whether `version` fulfils `op wanted`."""
        return _fits(cls.compare(version, wanted, begins="~" in op), op)


# For apk 2, which knows no hashes; it reads a number after a dot in two parts if it begins with zero.
_ZERO2, _NUMBER2, _LETTER2, _SUFFIX2, _SUFFIX_NUMBER2, _REVISION2, _END2 = range(7)
_BROKEN2 = -1
_BACK2 = {(_NUMBER2, _ZERO2), (_SUFFIX_NUMBER2, _SUFFIX2), (_LETTER2, _NUMBER2)}
_LONGEST2 = 17


def _value2(text: str, at: int, kind: int) -> tuple[int, int, int | None]:
    """Return the value that apk 2 reads for a part, its end, and the kind of the next part if that is known already."""
    if kind == _LETTER2:
        return ord(text[at]), at + 1, None
    if kind == _SUFFIX2:
        for name, rank in _SUFFIXES.items():
            if text.startswith(name, at):
                return rank - _PLAIN - (rank > _PLAIN), at + len(name), None
        return -1, at, _BROKEN2
    if kind == _ZERO2 and text[at] == "0":
        last = _run(text, at, frozenset("0")) - 1
        return at - last, last, _NUMBER2
    end = _run(text, at, _DIGITS)
    return (int(text[at:end] or "0"), end, None) if end - at <= _LONGEST2 else (-1, at, _BROKEN2)


def _next2(text: str, at: int, kind: int) -> tuple[int, int]:
    """Return the kind of the part at `at`, after a part of `kind`, and where its value begins."""
    char = text[at]
    if kind in (_ZERO2, _NUMBER2) and char in _LOWER:
        return _LETTER2, at
    if char in _DIGITS and kind in (_LETTER2, _SUFFIX2):
        return (_NUMBER2 if kind == _LETTER2 else _SUFFIX_NUMBER2), at
    if char == "-" and text[at + 1 : at + 2] == "r":
        new, at = _REVISION2, at + 1
    else:
        new = {".": _ZERO2, "_": _SUFFIX2}.get(char, _BROKEN2)
    return (new if new >= kind or (kind, new) in _BACK2 else _BROKEN2), at + 1


def _parts2(text: str) -> list[tuple[int, int]]:
    """Split a version as apk 2 reads it: the value of each part, and the kind of the next."""
    parts: list[tuple[int, int]] = []
    at, kind = 0, _NUMBER2
    while kind not in (_END2, _BROKEN2):
        value, at, following = _value2(text, at, kind) if at < len(text) else (0, at, _END2)
        if at >= len(text):
            kind = _END2 if following != _BROKEN2 else _BROKEN2
        elif following is not None:
            kind = following
        else:
            kind, at = _next2(text, at, kind)
        parts.append((value, kind))
    return parts


class Versions2:
    """apk 2's comparisons."""

    @staticmethod
    def is_valid(text: str) -> bool:
        """Tell whether apk 2 accepts a version in a dependency."""
        return _parts2(text)[-1][1] == _END2

    @staticmethod
    def compare(a: str, b: str, *, begins: bool = False) -> int:
        """Compare: -1, 0 or 1; with `begins` two versions are equal if they first differ in the kind of the next part."""
        ours, theirs = _parts2(a), _parts2(b)
        for place, ((value, kind), (other, wanted)) in enumerate(zip(ours, theirs, strict=False)):
            if value != other:
                return -1 if value < other else 1
            if kind == wanted:
                continue
            if begins:
                return 0
            for parts, answer in ((ours, -1), (theirs, 1)):
                if parts[place][1] == _SUFFIX2 and parts[place + 1][0] < 0:
                    return answer
            return -1 if kind > wanted else 1
        return 0

    @classmethod
    def fulfils(cls, version: str, op: str, wanted: str) -> bool:
        """Tell whether `version` fulfils `op wanted`."""
        return _fits(cls.compare(version, wanted, begins="~" in op), op)


def _fits(order: int, op: str) -> bool:
    return ("<", "=", ">")[order + 1] in (f"{op}=" if "~" in op else op)
