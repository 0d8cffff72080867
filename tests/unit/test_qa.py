# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.base.errors import FactoryError
from pipeline.base.paths import Paths
from pipeline.base.progress import Screen
from pipeline.cli import qa
from pipeline.cli.commands import acceptance
from tests.unit.small import write

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = {
    "boot/test_images.py": """
import pytest

@pytest.mark.qa("T01")
@pytest.mark.qa("H02")
def test_good(): pass

@pytest.mark.qa("H02")
def test_bad(): assert False

@pytest.mark.qa("H03")
def test_later(): pass

@pytest.mark.qa("I01", simulated="its disk is laid by the test")
def test_laid(): pass

def test_other(): pass
""",
    "integration/test_ring.py": """
import pytest

@pytest.mark.qa("T01")
@pytest.mark.qa("H05")
@pytest.mark.qa("H06", simulated=None)
def test_good_ring(): pass

@pytest.mark.qa("H07")
def test_bad_ring(): assert False
""",
}
LIST = """
| row | what |
|---|---|
| T01 | starts |
| H02 | refuses |
| H03 | waits |
| H04 | sings |
| H05 | answers |
| H06 | is an image |
| H07 | breaks |
| I01 | is alone & <quiet> |

* H04: nobody can hear it
"""


@pytest.fixture
def small(tmp_path: Path) -> Paths:
    """A checkout with a list of rows, tests of two rings, and the real conftest."""
    write(tmp_path, {"docs/acceptance.md": LIST, **{f"tests/{name}": text for name, text in TESTS.items()}})
    shutil.copy(CHECKOUT / "tests/conftest.py", tmp_path / "tests/conftest.py")
    shutil.copy(CHECKOUT / "tests/newmachine.py", tmp_path / "tests/newmachine.py")
    write(
        tmp_path,
        {"pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["qa(id): row", "boot", "integration", "unit", "timeout"]\n'},
    )
    return Paths(tmp_path)


def run_tests(small: Paths) -> None:
    argv = (sys.executable, "-m", "pytest", "-q", "-k", "good or bad or laid", "tests")
    run = subprocess.run(argv, cwd=small.checkout, capture_output=True, text=True, timeout=50, check=False)
    assert "2 failed, 3 passed, 2 deselected" in run.stdout


def test_rows_and_how_their_tests_ended(small: Paths) -> None:
    run_tests(small)
    kept = json.loads((small.build / "qa.json").read_bytes())
    outcomes = {test.partition("::")[2]: row["outcome"] for test, row in kept.items()}
    assert outcomes == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_laid": "passed",
        "test_good_ring": "passed",
        "test_bad_ring": "failed",
    }
    rows = {row.number: row for row in qa.read_rows(small)}
    assert {number: row.state for number, row in rows.items()} == {
        "T01": "passed",  # by a test of an image; a simulation beside it changes nothing
        "H02": "failed",
        "H03": "not run",
        "H04": "not automated",
        "H05": "simulated",  # the ring's tests are, whether or not they say so
        "H06": "passed",
        "H07": "failed",  # also a simulation
        "I01": "simulated",
    }
    assert rows["H02"].what == "refuses"
    assert sorted(rows["H02"].outcomes.values()) == ["failed", "passed"]
    assert dict(rows["I01"].simulated) == {"tests/boot/test_images.py::test_laid": "its disk is laid by the test"}
    assert rows["I01"].lines[1].strip() == "because its disk is laid by the test"
    assert len(rows["T01"].lines) == 1


def test_the_command_counts_each_state(small: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    run_tests(small)
    for json_lines in (True, False):
        with pytest.raises(FactoryError, match="H02, H07 failed"):
            acceptance(small, Screen(json=json_lines))
        said = capsys.readouterr().out.splitlines()
        if json_lines:
            *rows, summary = map(json.loads, said)
            (alone,) = (row for row in rows if row["row"] == "I01")
            assert alone["state"] == "simulated"
            assert set(alone["simulated"].values()) == {"its disk is laid by the test"}
            counts = {"passed": 2, "simulated": 2, "failed": 2, "skipped": 0, "not run": 1, "not automated": 1}
            assert (summary["rows"], summary["counts"]) == (8, counts)
        else:
            assert "8 rows: 2 passed, 2 simulated, 2 failed, 1 not run, 1 not automated" in said
            assert (
                said[said.index("I01  simulated      is alone & <quiet>") + 1].strip() == "because its disk is laid by the test"
            )
            assert said[said.index("H04  not automated  sings") + 1].strip() == "because nobody can hear it"


def test_the_command_writes_the_list_as_a_page_and_as_json(small: Paths) -> None:
    run_tests(small)
    with pytest.raises(FactoryError, match="H02, H07 failed"):
        acceptance(small, Screen(json=True))
    kept = json.loads((small.build / "acceptance.json").read_bytes())
    assert kept["counts"]["failed"] == 2
    assert [row["row"] for row in kept["rows"]] == ["T01", "H02", "H03", "H04", "H05", "H06", "H07", "I01"]
    page = ElementTree.fromstring(
        (small.build / "acceptance.html").read_text().split("\n", 1)[1].replace('<meta charset="utf-8">', "")
    )
    rows = {row.get("id"): "".join(row.itertext()) for row in page.iter("tr") if row.get("id")}
    assert list(rows) == [row["row"] for row in kept["rows"]]
    assert "is alone & <quiet>" in rows["I01"]
    assert "simulated: its disk is laid by the test" in rows["I01"]
    assert "nobody can hear it" in rows["H04"]


@pytest.mark.parametrize(
    ("row", "said"), [("T01", "T01, but a test does"), ("X01", "X01, but a test does, or there is no such row")]
)
def test_a_reason_for_a_row_that_needs_none(small: Paths, row: str, said: str) -> None:
    write(small.checkout, {"docs/acceptance.md": f"{LIST}* {row}: it is too hard\n"})
    with pytest.raises(FactoryError, match=said):
        qa.read_rows(small)


@pytest.mark.parametrize(
    "mark", ['qa("T01", simulated="")', 'qa("T01", simulated=True)', 'qa("T01", why="x")', 'qa("T01", "T02")']
)
def test_a_mark_that_gives_no_reason(small: Paths, mark: str) -> None:
    write(small.checkout, {"tests/boot/test_two.py": f"import pytest\n\n@pytest.mark.{mark}\ndef test_it(): pass\n"})
    with pytest.raises(FactoryError, match="test_it"):
        qa.read_rows(small)


def test_tests_that_cannot_be_listed(small: Paths) -> None:
    write(small.checkout, {"tests/boot/test_two.py": "import nothing_of_that_name\n"})
    with pytest.raises(FactoryError, match="nothing_of_that_name"):
        qa.read_rows(small)


def test_a_row_that_is_there_twice() -> None:
    with pytest.raises(FactoryError, match="T01 is there twice"):
        list(qa.rows_of("| T01 | one |\n| T01 | two |\n"))


@pytest.mark.timeout(180)
def test_every_mark_is_a_row_of_the_list() -> None:
    known = {number for number, _ in qa.rows_of((CHECKOUT / qa.LIST).read_text(encoding="utf-8"))}
    tests = qa._tests(Paths(CHECKOUT))
    marked = {number for numbers in tests.values() for number in numbers}
    assert marked
    assert marked <= known
