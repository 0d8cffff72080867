# SPDX-License-Identifier: Apache-2.0
"""apk's words: names, versions, tags and constraints of packages, and the lines that apk prints while it adds some.

Only this module knows them. It imports nothing of ours, because the factory's stage host-system uses its source, too.
/usr/share/tower/apkwords.sh of the devices has the same expressions, word for word, for shell scripts. Tests compare
all of them with one table of words and with the output of apk 2.14.4 and apk 3.0.8.

Where the two differ, we accept what either accepts: the apk of the machine decides. There must be no word that an apk
would take for something other than a package (a file, an option), and no line whose meaning is overlooked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

# POSIX extended regular expressions, so that grep reads them as Python does.
NAME: Final = "([A-Za-z0-9_][]A-Za-z0-9_.+,![-]*(:[]A-Za-z0-9_.+:,/![-]*)?|/[A-Za-z0-9_][]A-Za-z0-9_+:,/![-]*)"
"""A name that some package provides: so:libz.so.1, cmd:[, /bin/sh. apk 3 could take a path with a dot for a file."""
TAG: Final = "[]A-Za-z0-9_.+:,[-]+"
"""The name of a repository, as in nano@edge."""
VERSION: Final = "[A-Za-z0-9][A-Za-z0-9_.]*(~[0-9a-f]+)?(-r[0-9]+)*"
WANTED: Final = f"{NAME}(@{TAG})?([<>=~]+{VERSION})?"
"""A word for `apk add`."""
FILE: Final = "[A-Za-z0-9_][A-Za-z0-9_.+~-]*"
"""The file of a package or an index in a repository."""
LONGEST: Final = 250
"""The most bytes of a word or a file name, as in file systems. The longest of Alpine v3.19 has 67."""

_TAG: Final = re.compile(TAG)
_WANTED: Final = re.compile(WANTED)
_FILE: Final = re.compile(FILE)
# A world also has packages of no repository, and packages that must not be installed.
_WORLD: Final = re.compile(
    f"!?[].A-Za-z0-9_+:,/[][].A-Za-z0-9_+:,/![-]*(@{TAG})?([<>=~]+{VERSION}|(><|<>)Q[0-9][A-Za-z0-9+/]+=*)?"
)
_WORD_ENDS: Final = re.compile("[<>=~@]")


def is_wanted(word: str) -> bool:
    """Tell whether a word is valid for `apk add`: a name, optionally with a tag and a version."""
    # apk 2 takes every word that contains .apk for a file.
    return len(word) <= LONGEST and _WANTED.fullmatch(word) is not None and ".apk" not in word


def is_tag(text: str) -> bool:
    """Tell whether a tag of a repository, without its @, is valid."""
    return len(text) <= LONGEST and _TAG.fullmatch(text) is not None


def is_file(text: str) -> bool:
    """Tell whether a file of a repository may have this name."""
    return len(text) <= LONGEST and _FILE.fullmatch(text) is not None


def is_world(word: str) -> bool:
    """Tell whether a word is valid in /etc/apk/world."""
    return len(word) <= 2 * LONGEST and _WORLD.fullmatch(word) is not None


def name_of(word: str) -> str:
    """Return the name in a word, without tag and version."""
    return _WORD_ENDS.split(word, maxsplit=1)[0]


# apk has checked the names and versions in its own output.
_SOME_NAME: Final = "[!-'*-?A-~]+"
_SOME_VERSION: Final = "[!-'*-~]+"
STEP: Final = re.compile(
    r"\( *[0-9]+/[0-9]+\) "
    r"((Installing|Upgrading|Downgrading|Replacing|Purging|(?:\[APK unavailable, skipped\] )?Reinstalling|Updating pinning) "
    rf"({_SOME_NAME})(?:@({TAG}))? \(({_SOME_VERSION})(?: -> ({_SOME_VERSION}))?\))"
)
"""A line of apk about one package. Its groups: the line without the count; verb, name, tag, and one or two versions."""
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
"""Lines that do not change the plan."""
_HEADING: Final = re.compile("The following (?:NEW )?packages .*:")
_VERIFIED: Final = re.compile(r".*: (?:0 - )?OK")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of apk for one package."""

    text: str
    """The line without its count, which apk 3 pads, such as `Installing nano (8.2-r0)`."""
    verb: str
    name: str
    tag: str
    version: str
    """The version; the new one if there are two."""

    @property
    def brings(self) -> bool:
        """Tell whether the package's file is needed."""
        return self.verb in _BRINGING


def parse_step(line: str) -> Step | None:
    """Parse the step in a line of apk; None if the line is not a step."""
    found = STEP.fullmatch(line)
    return found and Step(found[1], found[2], found[3], found[4] or "", found[6] or found[5])


def parse_progress(line: str) -> tuple[int, int] | None:
    """Parse a line of --progress-fd: how much is done, and of how much; None for another line."""
    found = _PROGRESS.fullmatch(line)
    return found and (int(found[1]), int(found[2]))


def says_verified(line: str) -> bool:
    """Tell whether a line of `apk verify` accepts a file."""
    return _VERIFIED.fullmatch(line) is not None


@dataclass(slots=True)
class Transaction:
    """The plan of `apk add --simulate`, read line by line."""

    steps: list[Step] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    """Lines that were not understood."""
    _total: int = 0
    _miscounted: str = ""
    _ended: bool = False
    _listing: bool = False

    def hear(self, line: str) -> None:
        """Take the next line."""
        listing, self._listing = self._listing and line.startswith("  "), False
        if _INDEXES_READ.fullmatch(line):
            # The lines before it were about repositories, whose descriptions may have any words.
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
        """Note a step whose number or total does not fit the steps before it."""
        found = _COUNT.match(line)
        number, total = (int(found[1]), int(found[2])) if found else (0, 0)
        if number != len(self.steps) or self._total not in (0, total):
            self._miscounted = self._miscounted or line
        self._total = total

    @property
    def doubt(self) -> str:
        """Return why the plan may be incomplete, in words that follow `its apk`; "" if it is complete."""
        if self.odd:
            more = f" and {len(self.odd) - 1} more lines" if len(self.odd) > 1 else ""
            return f"says {self.odd[0][:200]!r}{more}"
        if self._miscounted:
            return f"counts its steps wrongly: {self._miscounted[:200]!r}"
        if len(self.steps) != self._total:
            return f"tells {len(self.steps)} of {self._total} steps"
        if not self.steps and not self._ended:
            return "does not print a plan"
        return ""


def read_plan(lines: Iterable[str]) -> Transaction:
    """Return the plan of `apk add --simulate` from all its lines."""
    plan = Transaction()
    for line in lines:
        plan.hear(line)
    return plan
