# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import qa
from pipeline.errors import FactoryError
from pipeline.paths import Paths
from tests.unit.small import write

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = {
    "unit/test_one.py": """
import pytest

@pytest.mark.qa("T01")
@pytest.mark.qa("H02")
def test_good(): pass

@pytest.mark.qa("H02")
def test_bad(): assert False

@pytest.mark.qa("H03")
def test_later(): pass

def test_other(): pass
""",
}
LIST = """
| row | what |
|---|---|
| T01 | starts |
| H02 | refuses |
| H03 | waits |
| H04 | sings |
"""


@pytest.fixture
def small(tmp_path: Path) -> Paths:
    """A checkout with a list of four rows, three tests, and the real conftest."""
    write(tmp_path, {"docs/acceptance.md": LIST, **{f"tests/{name}": text for name, text in TESTS.items()}})
    shutil.copy(CHECKOUT / "tests/conftest.py", tmp_path / "tests/conftest.py")
    write(tmp_path, {"pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["qa(id): row", "unit", "timeout"]\n'})
    return Paths(tmp_path)


def test_rows_and_how_their_tests_ended(small: Paths) -> None:
    argv = (sys.executable, "-m", "pytest", "-q", "-k", "good or bad", "tests")
    run = subprocess.run(argv, cwd=small.checkout, capture_output=True, text=True, timeout=50, check=False)
    assert "1 failed, 1 passed, 2 deselected" in run.stdout
    kept = json.loads((small.build / "qa.json").read_bytes())
    outcomes = {test.partition("::")[2]: row["outcome"] for test, row in kept.items()}
    assert outcomes == {"test_good": "passed", "test_bad": "failed"}
    rows = {row.number: row for row in qa.read_rows(small)}
    assert {number: row.state for number, row in rows.items()} == {
        "T01": "passed",
        "H02": "failed",
        "H03": "not run",
        "H04": "not automated",
    }
    assert rows["H02"].what == "refuses"
    assert sorted(rows["H02"].outcomes.values()) == ["failed", "passed"]


def test_tests_that_cannot_be_listed(small: Paths) -> None:
    write(small.checkout, {"tests/unit/test_two.py": "import nothing_of_that_name\n"})
    with pytest.raises(FactoryError, match="nothing_of_that_name"):
        qa.read_rows(small)


def test_a_row_that_is_there_twice() -> None:
    with pytest.raises(FactoryError, match="T01 is there twice"):
        list(qa.rows_of("| T01 | one |\n| T01 | two |\n"))


def test_every_mark_is_a_row_of_the_list() -> None:
    known = {number for number, _ in qa.rows_of((CHECKOUT / qa.LIST).read_text(encoding="utf-8"))}
    found = {number for numbers in qa._tests(Paths(CHECKOUT)).values() for number in numbers}
    assert found
    assert found <= known
