# SPDX-License-Identifier: Apache-2.0
"""Alpine's version numbers: which are valid, which is newer, which satisfies a dependency.

A version is `number{.number}[letter[number]]{_suffix[number]}[~hash][-rN]`. It is read into tokens (kind, value)
that are compared from the left; see `compare` for versions of which one ends before the other.
"""

from __future__ import annotations

from pipeline.base.errors import FormatError

# Kinds of tokens. If two versions first differ in the kind of a token, the one with the smaller kind is newer.
_DOT_NUMBER, _NUMBER, _LETTER, _SUFFIX, _SUFFIX_NUMBER, _HASH, _REVISION, _END = range(8)

# Suffixes below zero come before the plain version, the others after it.
_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 0, "svn": 1, "git": 2, "hg": 3, "p": 4}

_LESS, _EQUAL, _GREATER = -1, 0, 1
_ACCEPTED = {
    "=": (_EQUAL,),
    "<": (_LESS,),
    "<=": (_LESS, _EQUAL),
    ">": (_GREATER,),
    ">=": (_EQUAL, _GREATER),
    "<~": (_LESS,),
    ">~": (_GREATER,),
    "~": (),
}
_DIGITS = frozenset("0123456789")
_HEX = frozenset("0123456789abcdef")
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")

Token = tuple[int, "int | str"]


def _digits(text: str, start: int) -> int:
    """Return the end of the digits that begin at `start`."""
    end = start
    while end < len(text) and text[end] in _DIGITS:
        end += 1
    return end


def _numbers(text: str) -> tuple[list[Token], int]:
    """Return the tokens of `1.2.03b`, and their end; no token if `text` does not begin with a number.

    A number may follow a letter (`7.4.0p1`), which the documentation does not mention but packages use.
    """
    end = _digits(text, 0)
    if not end:
        return [], 0
    tokens: list[Token] = [(_NUMBER, int(text[:end]))]
    while (char := text[end : end + 1]) and (char == "." or char in _LOWER or char in _DIGITS):
        if char in _LOWER:
            if tokens[-1][0] == _LETTER:
                return [], 0
            tokens.append((_LETTER, ord(char)))
            end += 1
            continue
        start = end + (char == ".")
        end = _digits(text, start)
        if end == start or (char == "." and tokens[-1][0] == _LETTER):
            return [], 0
        tokens += _dotted(text[start:end]) if char == "." else [(_NUMBER, int(text[start:end]))]
    return tokens, end


def _dotted(digits: str) -> list[Token]:
    """Return the tokens of a number after a dot: 1.05 is older than 1.5, more zeros are older still."""
    if digits[0] != "0":
        return [(_DOT_NUMBER, int(digits))]
    rest = digits.lstrip("0")
    return [(_DOT_NUMBER, len(rest) - len(digits)), (_NUMBER, int(rest or "0"))]


def _tokens(text: str) -> list[Token] | None:
    """Return the tokens of a version, or None if it is not valid."""
    tokens, at = _numbers(text)
    if not tokens:
        return None
    while text[at : at + 1] == "_":
        start = at + 1
        at = start
        while at < len(text) and text[at] in _LOWER:
            at += 1
        if text[start:at] not in _SUFFIXES:
            return None
        tokens.append((_SUFFIX, _SUFFIXES[text[start:at]]))
        start, at = at, _digits(text, at)
        if at > start:
            tokens.append((_SUFFIX_NUMBER, int(text[start:at])))
    if text[at : at + 1] == "~":
        start = at = at + 1
        while at < len(text) and text[at] in _HEX:
            at += 1
        if at == start:
            return None
        tokens.append((_HASH, text[start:at]))
    if text[at : at + 2] == "-r":
        start, at = at + 2, _digits(text, at + 2)
        if at == start:
            return None
        tokens.append((_REVISION, int(text[start:at])))
    return tokens if at == len(text) else None


def is_valid(s: str) -> bool:
    """Tell whether `s` is a version in Alpine's form."""
    return _tokens(s) is not None


def _parsed(text: str) -> list[Token]:
    tokens = _tokens(text)
    if tokens is None:
        raise FormatError(f"{text!r} is not an Alpine version", hint="for example 1.2.3, 1.2b_rc1-r0, 2024.01_git20240105-r3")
    return tokens


def _order(a: Token, b: Token) -> int:
    """Return the order of the first two tokens that differ."""
    if a[0] == b[0]:
        if isinstance(a[1], int) and isinstance(b[1], int):
            return _LESS if a[1] < b[1] else _GREATER
        return _LESS if str(a[1]) < str(b[1]) else _GREATER
    for token, answer in ((a, _LESS), (b, _GREATER)):
        if token[0] == _SUFFIX and isinstance(token[1], int) and token[1] < 0:
            return answer
    return _LESS if a[0] > b[0] else _GREATER


def _compare(a: list[Token], b: list[Token]) -> int:
    for left, right in zip(a, b, strict=False):
        if left != right:
            return _order(left, right)
    if len(a) == len(b):
        return _EQUAL
    end = (_END, 0)
    return _order(a[len(b)], end) if len(a) > len(b) else _order(end, b[len(a)])


def compare(a: str, b: str) -> int:
    """Return -1, 0 or 1: version `a` is older than, equal to, or newer than `b`.

    If one version continues where the other ends, it is newer, unless it continues with alpha, beta, pre or rc.
    Raises FormatError for an invalid version.
    """
    return _compare(_parsed(a), _parsed(b))


def _begins_with(version: list[Token], wanted: list[Token]) -> bool:
    """Tell whether `version` begins with `wanted` (the operator `~`: 1.2 accepts 1.2.3 and 1.2-r5, not 1.20)."""
    return version[: len(wanted)] == wanted


def satisfies(version: str, op: str, wanted: str) -> bool:
    """Tell whether `version` fulfils a dependency with operator `op` on `wanted`.

    With `><` both are package checksums (`Q1...`), not versions. A version that is not valid satisfies
    only `=`, `<=` and `>=` of the same text. `~` is apk's documented rule (`wanted` begins the version);
    apk-tools 2.14 itself also accepts a version that differs from it in the kind of a token (1.2-r1 for `~1.2.3`).
    Raises FormatError for an unknown operator.
    """
    if op == "><":
        return version == wanted
    if op not in _ACCEPTED:
        raise FormatError(f"{op!r} is not a version operator", hint="one of = < <= > >= ~ ><")
    have, want = _tokens(version), _tokens(wanted)
    if have is None or want is None:
        return version == wanted and _EQUAL in _ACCEPTED[op]
    if "~" in op and _begins_with(have, want):
        return True
    return _compare(have, want) in _ACCEPTED[op]
