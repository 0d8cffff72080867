# SPDX-License-Identifier: Apache-2.0
"""`doit qa`: the rows of the acceptance list (docs/acceptance.md), and what the last runs of their tests found.

Tests carry the number of a row as a mark. tests/conftest.py lists them (`--qa-list=FILE`) as {test: {row: reason}}, where
the reason says why the test only simulates the row; it is empty if the test uses the product's own images and scripts. How
each test ended is kept in `build/qa.json`: {test: {"outcome": "passed" | "failed" | "skipped", "when": "2026-01-31T12:00:00Z"}}.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tower.base.jsontext import parse_json
from tower.base.regular import read_regular

from pipeline.base import proc
from pipeline.base.errors import FactoryError
from pipeline.base.paths import Paths
from pipeline.base.scratch import temporary_folder

LIST: Final = "docs/acceptance.md"
RECORD: Final = "qa.json"
STATES: Final = ("passed", "simulated", "failed", "skipped", "not run", "not automated")
_ROW: Final = re.compile(r"^\| ([A-Z]\d{2}) \| (.+?) \|$")
_COLLECT_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list, with its tests and how they ended."""

    number: str
    what: str
    outcomes: Mapping[str, str]
    """Test -> passed, failed, skipped; or "not run"."""
    simulated: Mapping[str, str] = field(default_factory=dict)
    """Test -> why it proves nothing about the product's own images; tests that use these are not in it."""

    @property
    def state(self) -> str:
        """One of STATES: the worst outcome of the row's tests; `passed` needs a test that uses the product's own images."""
        if not self.outcomes:
            return "not automated"
        found = set(self.outcomes.values())
        if worst := next((word for word in ("failed", "not run", "skipped") if word in found), None):
            return worst
        return "passed" if self.outcomes.keys() - self.simulated.keys() else "simulated"

    @property
    def lines(self) -> list[str]:
        """The row as it is printed: its state, and below a simulated row the reasons."""
        first = f"{self.number}  {self.state:<13}  {self.what}"
        reasons = sorted(set(self.simulated.values())) if self.state == "simulated" else []
        return [first, *(f"{'':20}because {reason}" for reason in reasons)]


def count_states(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have each of STATES, in that order; 0 for a state that no row has."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES}


def rows_of(text: str) -> Iterator[tuple[str, str]]:
    """The numbers and texts of a list's rows, in order. Raises FactoryError for a number that is there twice."""
    seen = set()
    for line in text.splitlines():
        if (match := _ROW.match(line)) is None:
            continue
        if match[1] in seen:
            raise FactoryError(f"{LIST}: row {match[1]} is there twice")
        seen.add(match[1])
        yield match[1], match[2]


def read_rows(paths: Paths) -> list[Row]:
    """All rows, with the tests that there are now. Raises FactoryError if the tests cannot be listed."""
    tests = _tests(paths)
    ended = _record(paths.build / RECORD)
    known = list(rows_of((paths.checkout / LIST).read_text(encoding="utf-8")))
    return [_row(number, what, tests, ended) for number, what in known]


def _row(number: str, what: str, tests: Mapping[str, Mapping[str, str]], ended: Mapping[str, str]) -> Row:
    own = {test: rows[number] for test, rows in tests.items() if number in rows}
    simulated = {test: reason for test, reason in own.items() if reason}
    return Row(number, what, {test: ended.get(test, "not run") for test in own}, simulated)


def _tests(paths: Paths) -> dict[str, dict[str, str]]:
    """Test -> the numbers that it carries, each with the reason why it is only simulated, or an empty string."""
    with temporary_folder("qa") as folder:
        listed = folder / "tests.json"
        argv: Sequence[str] = (sys.executable, "-m", "pytest", "--collect-only", "-q", f"--qa-list={listed}", "tests")
        done = proc.run(argv, cwd=paths.checkout, timeout=_COLLECT_SECONDS, check=False)
        if done.status or not listed.is_file():
            last = done.stdout.decode(errors="replace").splitlines()[-10:]
            raise FactoryError("\n  ".join(["qa: pytest cannot list the tests", *last]), hint="./ci/doit test --collect-only")
        found: dict[str, dict[str, str]] = parse_json(read_regular(listed))
    return found


def _record(path: Path) -> dict[str, str]:
    """Test -> how it ended last; a damaged record says nothing."""
    try:
        return {str(test): str(row["outcome"]) for test, row in parse_json(read_regular(path)).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
