# SPDX-License-Identifier: Apache-2.0
"""apk's words: names, versions, tags and constraints of packages, and the lines that apk says while it adds some.

This is the one place that knows them. It imports nothing of ours, so that the factory's stage host-system takes its source
too; /usr/share/tower/apkwords.sh of the devices has the same expressions, word for word, for their shell scripts. Tests
hold all of them against one table of words and against what apk 2.14.4 and apk 3.0.8 said.

Where the two differ, we take what either takes: the apk of the machine decides. What must not be is a word that an apk
would read as something else than a package (a file, an option), and a line that says something and is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# Extended regular expressions as POSIX has them, so that grep reads them like Python does.
NAME: Final = "([A-Za-z0-9_][]A-Za-z0-9_.+,![-]*(:[]A-Za-z0-9_.+:,/![-]*)?|/[A-Za-z0-9_][]A-Za-z0-9_+:,/![-]*)"
"""A name that some package provides: so:libz.so.1, cmd:[, /bin/sh. A path with a dot could be a file for apk 3."""
TAG: Final = "[]A-Za-z0-9_.+:,[-]+"
"""The name of a repository, as in nano@edge."""
VERSION: Final = "[A-Za-z0-9][A-Za-z0-9_.]*(~[0-9a-f]+)?(-r[0-9]+)*"
WANTED: Final = f"{NAME}(@{TAG})?([<>=~]+{VERSION})?"
"""What `apk add` may be told to add."""
FILE: Final = "[A-Za-z0-9_][A-Za-z0-9_.+~-]*"
"""The file of a package or an index in a repository."""
LONGEST: Final = 250
"""Bytes of a word or a file's name: a file system takes no longer ones. The longest of Alpine v3.19 has 67."""

_TAG: Final = re.compile(TAG)
_WANTED: Final = re.compile(WANTED)
_FILE: Final = re.compile(FILE)
# In the list of what is wanted there are also packages of nobody's repository, and what must not be there.
_WORLD: Final = re.compile(
    f"!?[].A-Za-z0-9_+:,/[][].A-Za-z0-9_+:,/![-]*(@{TAG})?([<>=~]+{VERSION}|(><|<>)Q[0-9][A-Za-z0-9+/]+=*)?"
)
_WORD_ENDS: Final = re.compile("[<>=~@]")


def is_wanted(word: str) -> bool:
    """Whether `apk add` may be told to add that: a name, with a tag and a version if need be."""
    # apk 2 takes every word with .apk in it for a file.
    return len(word) <= LONGEST and _WANTED.fullmatch(word) is not None and ".apk" not in word


def is_tag(text: str) -> bool:
    """Whether a repository may have that tag; it is written without its @."""
    return len(text) <= LONGEST and _TAG.fullmatch(text) is not None


def is_file(text: str) -> bool:
    """Whether a file of a repository may be called that."""
    return len(text) <= LONGEST and _FILE.fullmatch(text) is not None


def is_world(word: str) -> bool:
    """Whether that may be a word of /etc/apk/world."""
    return len(word) <= 2 * LONGEST and _WORLD.fullmatch(word) is not None


def name_of(word: str) -> str:
    """The name in a word, without tag and version."""
    return _WORD_ENDS.split(word, maxsplit=1)[0]


# What a package is called, and its version, are for apk to judge where it says what it does.
_SOME_NAME: Final = "[!-'*-?A-~]+"
_SOME_VERSION: Final = "[!-'*-~]+"
STEP: Final = re.compile(
    r"\( *[0-9]+/[0-9]+\) "
    r"((Installing|Upgrading|Downgrading|Replacing|Purging|(?:\[APK unavailable, skipped\] )?Reinstalling|Updating pinning) "
    rf"({_SOME_NAME})(?:@({TAG}))? \(({_SOME_VERSION})(?: -> ({_SOME_VERSION}))?\))"
)
"""A line of apk about one package. Its groups: all but the count; verb, name, tag, version or two of them."""
_COUNT: Final = re.compile(r"\( *([0-9]+)/([0-9]+)\) ")
_BRINGING: Final = frozenset({"Installing", "Upgrading", "Downgrading", "Replacing", "Reinstalling"})
_PROGRESS: Final = re.compile(r"([0-9]{1,18})/([0-9]{1,18})(?: [a-z]+)?")
_SIZE: Final = "[0-9]+(?:[.][0-9]+)? (?:B|[KMGT]iB)"
_SUMMARY: Final = re.compile(f"OK: (?:{_SIZE} in [0-9]+ packages|[0-9]+ packages, [0-9]+ dirs, [0-9]+ files, {_SIZE})")
_INDEXES_READ: Final = re.compile("(?:OK:|[0-9]+ unavailable, [0-9]+ stale;) [0-9]+ distinct packages available")
_TALK: Final = re.compile(
    r"(?:WARNING|NOTE|ERROR): .*"
    r"|fetch \S+"
    r"|Waiting for repository lock"
    r"|Downloading [0-9]+ packages\.\.\."
    r"|\( *[0-9]+/[0-9]+\) Downloading \S+"
    r"|Proceeding with upgrade\.\.\."
    rf"|Need to download {_SIZE} of packages\."
    rf"|After this operation, {_SIZE} of (?:additional disk space will be used|disk space will be freed)\."
)
"""Lines that change nothing about what is to be done."""
_HEADING: Final = re.compile("The following (?:NEW )?packages .*:")
_VERIFIED: Final = re.compile(r".*: (?:0 - )?OK")


@dataclass(frozen=True, slots=True)
class Step:
    """What apk does with one package."""

    text: str
    """`Installing nano (8.2-r0)` and the like: the line without its count, which apk 3 pads."""
    verb: str
    name: str
    tag: str
    version: str
    """The new one, if there are two."""

    @property
    def brings(self) -> bool:
        """Whether the package's file is needed."""
        return self.verb in _BRINGING


def parse_step(line: str) -> Step | None:
    """The step that a line of apk tells of; None if it is no such line."""
    found = STEP.fullmatch(line)
    return found and Step(found[1], found[2], found[3], found[4] or "", found[6] or found[5])


def parse_progress(line: str) -> tuple[int, int] | None:
    """A line of --progress-fd: how much is done, and of how much; None if it is no such line."""
    found = _PROGRESS.fullmatch(line)
    return found and (int(found[1]), int(found[2]))


def says_verified(line: str) -> bool:
    """Whether a line of `apk verify` says that a file is good."""
    return _VERIFIED.fullmatch(line) is not None


@dataclass(slots=True)
class Transaction:
    """What `apk add --simulate` would do, told line by line."""

    steps: list[Step] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """Lines that are none of those which we know."""
    _total: int = 0
    _miscounted: str = ""
    _ended: bool = False
    _listing: bool = False

    def hear(self, line: str) -> None:
        """Take a line in."""
        listing, self._listing = self._listing and line.startswith("  "), False
        if _INDEXES_READ.fullmatch(line):
            # All before it was about repositories, which may be described by any words.
            self.steps, self.odd, self._total, self._miscounted, self._ended = [], [], 0, "", False
        elif (step := parse_step(line)) is not None:
            self.steps.append(step)
            self._count(line)
        elif _SUMMARY.fullmatch(line):
            self._ended = True
        elif listing or _HEADING.fullmatch(line):
            self._listing = True
        elif line and _TALK.fullmatch(line) is None:
            self.odd.append(line)

    def _count(self, line: str) -> None:
        """Note a step that is not the next one, or not of as many as the others said."""
        found = _COUNT.match(line)
        number, total = (int(found[1]), int(found[2])) if found else (0, 0)
        if number != len(self.steps) or self._total not in (0, total):
            self._miscounted = self._miscounted or line
        self._total = total

    @property
    def doubt(self) -> str:
        """Why this is not known to be all that apk would do: words that follow `its apk`; empty if it is all."""
        if self.odd:
            more = f" and {len(self.odd) - 1} more lines" if len(self.odd) > 1 else ""
            return f"says {self.odd[0][:200]!r}{more}"
        if self._miscounted:
            return f"counts its steps wrongly: {self._miscounted[:200]!r}"
        if len(self.steps) != self._total:
            return f"tells {len(self.steps)} of {self._total} steps"
        if not self.steps and not self._ended:
            return "does not say what it would do"
        return ""


def read_plan(lines: Iterable[str]) -> Transaction:
    """What `apk add --simulate` would do, by all its lines."""
    plan = Transaction()
    for line in lines:
        plan.hear(line)
    return plan
