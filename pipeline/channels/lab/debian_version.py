# SPDX-License-Identifier: Apache-2.0
"""Debian versions in Alpine's form: deterministic, valid for apk, and in the same order as far as that form allows.

    1:1.37.0-6+b9        ->  1.37.0-r601
    2.41-12+deb13u4      ->  2.41-r1240
    10.0p1-7             ->  10.0_p1-r700
    6.5+20250216-2       ->  6.5_p20250216-r200
    3.0~rc2-1            ->  3.0_rc2-r100

The release counts Debian's revision in hundreds, its stable updates in tens and rebuilds in ones. The epoch is left
out: it only says that upstream restarted its numbering. Debian's own version stays readable in the package (`commit`).
"""

from __future__ import annotations

import re

from pipeline.base.errors import FormatError

_PRE = {"alpha": "alpha", "a": "alpha", "beta": "beta", "b": "beta", "pre": "pre", "rc": "rc", "dev": "alpha"}
_POST = {"git": "git", "svn": "svn", "hg": "hg", "cvs": "cvs", "bzr": "git"}
_NUMBER_LIMIT = 18
"""The number of digits that fit into apk's numbers."""


def alpine_version(debian: str) -> str:
    """Return the version `debian` in Alpine's form."""
    text = debian.partition(":")[2] if ":" in debian else debian
    upstream, dash, revision = text.rpartition("-")
    if not dash:
        upstream, revision = text, ""
    return f"{_upstream(upstream)}-r{_release(revision, native=not dash)}"


def _release(revision: str, *, native: bool) -> int:
    """Return the release: `12+deb13u4` gives 1240, from revision, stable update and rebuild."""
    main = re.match(r"\d+", revision)
    minor = re.match(r"\d+\.(\d+)", revision)
    update = re.search(r"[+~]deb\d+u(\d+)", revision)
    rebuild = re.search(r"\+b(\d+)$", revision)
    count = int(main[0]) if main else 0
    small = 10 * int(update[1] if update else minor[1] if minor else 0) + int(rebuild[1] if rebuild else 0)
    return 0 if native and not revision else count * 100 + min(small, 99)


def _upstream(upstream: str) -> str:
    # "1.3.dfsg+really1.3.1": the real version follows "really".
    really = re.search(r"[+.~]really(\d.*)$", upstream)
    if really:
        upstream = really[1]
    head = re.match(r"\d+(?:\.\d+)*", upstream)
    if head is None:
        digits = re.findall(r"\d+", upstream)
        return ".".join(digits[:4]) or "0"
    rest = upstream[head.end() :]
    letter = re.match(r"([a-z])(?![a-z0-9])", rest)
    result = head[0] + (letter[1] if letter else "")
    for sign, word, number in re.findall(r"([+~.]?)([A-Za-z]*)(\d*)", rest[letter.end() if letter else 0 :]):
        if len(number) > _NUMBER_LIMIT:
            raise FormatError(f"version {upstream}: {number} has more than {_NUMBER_LIMIT} digits, which apk does not compare")
        result += _suffix(sign, word.lower(), number)
    return result


def _suffix(sign: str, word: str, number: str) -> str:
    """Return one part after the numbers; parts that do not affect the order are left out."""
    if word in _PRE and (sign == "~" or len(word) > 1):
        return f"_{_PRE[word]}{number}"
    if sign == "~" and (word or number):
        return f"_pre{number}" if word not in ("deb", "bpo", "dfsg", "ds") else ""
    if word in _POST:
        return f"_{_POST[word]}{number}"
    if word in ("dfsg", "ds", "repack", "nmu", "deb", "u"):
        return ""
    return f"_p{number}" if number else ""
