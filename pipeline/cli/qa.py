# SPDX-License-Identifier: Apache-2.0
"""`doit qa`: show the rows of the acceptance list (docs/acceptance.md) with the last results of their tests.

Tests carry the number of a row as a mark. tests/conftest.py lists them (`--qa-list=FILE`) as {test: {row: reason}}, where
the reason says why the test only simulates the row; it is empty if the test uses the product's own images and scripts. The
last result of each test is in `build/qa.json`:
{test: {"outcome": "passed" | "failed" | "skipped", "when": "2026-01-31T12:00:00Z"}}.

A line `* T22: reason` of the list says why no test checks a row.
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
from pipeline.base.canonical import JsonValue
from pipeline.base.errors import FactoryError
from pipeline.base.paths import Paths
from pipeline.base.scratch import temporary_folder

LIST: Final = "docs/acceptance.md"
RECORD: Final = "qa.json"
STATES: Final = ("passed", "simulated", "failed", "skipped", "not run", "not automated")
_ROW: Final = re.compile(r"^\| ([A-Z]\d{2}) \| (.+?) \|$")
_REASON: Final = re.compile(r"^\* ([A-Z]\d{2}): (.+)$")
_COLLECT_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class AcceptanceRow:
    """One row of the list, with its tests and their results."""

    number: str
    what: str
    outcomes: Mapping[str, str]
    """Test -> passed, failed, skipped; or "not run"."""
    simulated: Mapping[str, str] = field(default_factory=dict)
    """Test -> the reason why it only simulates the row; a test that uses the product's own images is not in it."""
    untested: str = ""
    """Why no test checks the row; empty if the list gives no reason."""

    @property
    def reasons(self) -> list[str]:
        """Return why the row is only simulated or has no test; empty if it is in another state."""
        if self.state == "simulated":
            return sorted(set(self.simulated.values()))
        return [self.untested] if self.state == "not automated" and self.untested else []

    @property
    def json(self) -> dict[str, JsonValue]:
        """Return the row as an object of JSON."""
        return {
            "row": self.number,
            "what": self.what,
            "state": self.state,
            "tests": dict(self.outcomes),
            "simulated": dict(self.simulated),
            "untested": self.untested,
        }

    @property
    def state(self) -> str:
        """The row's state, one of STATES: the worst result of its tests; `passed` needs a test that uses the product's images."""
        if not self.outcomes:
            return "not automated"
        found = set(self.outcomes.values())
        if worst := next((word for word in ("failed", "not run", "skipped") if word in found), None):
            return worst
        return "passed" if self.outcomes.keys() - self.simulated.keys() else "simulated"

    @property
    def lines(self) -> list[str]:
        """Return the lines to print: the row with its state, and the reasons if it is simulated or not automated."""
        return [f"{self.number}  {self.state:<13}  {self.what}", *(f"{'':20}because {reason}" for reason in self.reasons)]


def count_states(rows: Iterable[AcceptanceRow]) -> dict[str, int]:
    """Count the rows in each of STATES, in that order; 0 for a state that no row has."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in STATES}


def rows_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the number and the text of each row of a list, in order. Raises FactoryError if a number occurs twice."""
    seen = set()
    for line in text.splitlines():
        if (match := _ROW.match(line)) is None:
            continue
        if match[1] in seen:
            raise FactoryError(f"{LIST}: row {match[1]} is there twice")
        seen.add(match[1])
        yield match[1], match[2]


def read_rows(paths: Paths) -> list[AcceptanceRow]:
    """Return all rows with the tests that exist now.

    Raises FactoryError if pytest cannot list the tests, or if the list gives a reason for a row that it does not have or
    that a test checks.
    """
    text = (paths.checkout / LIST).read_text(encoding="utf-8")
    known = list(rows_of(text))
    tests = _tests(paths)
    ended = _record(paths.build / RECORD)
    reasons = {match[1]: match[2] for line in text.splitlines() if (match := _REASON.match(line))}
    rows = [_row(number, what, tests, ended, reasons.get(number, "")) for number, what in known]
    untested = {row.number for row in rows if not row.outcomes}
    if odd := sorted(reasons.keys() - untested):
        raise FactoryError(f"{LIST}: says why no test checks {', '.join(odd)}, but a test does, or there is no such row")
    return rows


def _row(
    number: str, what: str, tests: Mapping[str, Mapping[str, str]], ended: Mapping[str, str], untested: str
) -> AcceptanceRow:
    own = {test: rows[number] for test, rows in tests.items() if number in rows}
    simulated = {test: reason for test, reason in own.items() if reason}
    return AcceptanceRow(number, what, {test: ended.get(test, "not run") for test in own}, simulated, untested)


def _tests(paths: Paths) -> dict[str, dict[str, str]]:
    """Map each test to the rows that it checks, each with the reason why the row is only simulated, or an empty string."""
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
    """Map each test to its last result; a damaged record counts as empty."""
    try:
        return {str(test): str(row["outcome"]) for test, row in parse_json(read_regular(path)).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
