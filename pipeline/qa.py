# SPDX-License-Identifier: Apache-2.0
"""`doit qa`: the rows of the acceptance list (docs/acceptance.md), and what the last runs of their tests found.

Tests carry the number of a row as a mark; tests/conftest.py lists them (`--qa-list=FILE`) and notes how each ended, in
`build/qa.json`: {test: {"outcome": "passed" | "failed" | "skipped", "when": "2026-01-31T12:00:00Z"}}.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tower.jsontext import parse_json
from tower.regular import read_regular

from pipeline import proc
from pipeline.errors import FactoryError
from pipeline.paths import Paths
from pipeline.scratch import temporary_folder

LIST: Final = "docs/acceptance.md"
RECORD: Final = "qa.json"
_ROW: Final = re.compile(r"^\| ([A-Z]\d{2}) \| (.+?) \|$")
_COLLECT_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the list, with its tests and how they ended."""

    number: str
    what: str
    outcomes: Mapping[str, str]
    """Test -> passed, failed, skipped; or "not run"."""

    @property
    def state(self) -> str:
        """One word for all its tests: the worst that is known."""
        if not self.outcomes:
            return "not automated"
        found = set(self.outcomes.values())
        return next((word for word in ("failed", "not run", "skipped") if word in found), "passed")


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
    return [
        Row(number, what, {test: ended.get(test, "not run") for test, numbers in tests.items() if number in numbers})
        for number, what in known
    ]


def _tests(paths: Paths) -> dict[str, list[str]]:
    """Test -> the numbers that it carries."""
    with temporary_folder("qa") as folder:
        listed = folder / "tests.json"
        argv: Sequence[str] = (sys.executable, "-m", "pytest", "--collect-only", "-q", f"--qa-list={listed}", "tests")
        done = proc.run(argv, cwd=paths.checkout, timeout=_COLLECT_SECONDS, check=False)
        if done.status or not listed.is_file():
            last = done.stdout.decode(errors="replace").splitlines()[-10:]
            raise FactoryError("\n  ".join(["qa: pytest cannot list the tests", *last]), hint="./ci/doit test --collect-only")
        found: dict[str, list[str]] = parse_json(read_regular(listed))
    return found


def _record(path: Path) -> dict[str, str]:
    """Test -> how it ended last; a damaged record says nothing."""
    try:
        return {str(test): str(row["outcome"]) for test, row in parse_json(read_regular(path)).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
