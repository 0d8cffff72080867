# SPDX-License-Identifier: Apache-2.0
"""The reader of what programs `tower` starts: it sees through names, and says where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.runtime.programs import Source, UnknownError

CASES = {
    "literal": 'proc.run(("a", "b"), timeout=1)',
    "name": 'argv = ["a", x]\n    proc.run(argv, timeout=1)',
    "constant": "proc.reading((PROGRAM, x))",
    "choice": 'proc.run(("a",) if x else ("b",), timeout=1)',
    "prefix that may be empty": 'root = () if x else ("b",)\n    proc.run((*root, "a"), timeout=1)',
    "table": 'rows = {1: ("a",), 2: ("b",)}\n    argv = rows.get(x)\n    proc.run(argv, timeout=1)',
    "function": "proc.running(made(x))",
    "function elsewhere": "proc.running(other.first(x))",
}
WANTED = {"choice": {"a", "b"}, "prefix that may be empty": {"a", "b"}, "table": {"a", "b"}}


@pytest.mark.parametrize("case", CASES)
def test_first_words(tmp_path: Path, case: str) -> None:
    code = f'PROGRAM = "/usr/bin/a"\ndef made(x):\n    return ("a", x)\ndef work(x):\n    {CASES[case]}\n'
    (tmp_path / "one.py").write_text(code)
    (tmp_path / "other.py").write_text('def first(x):\n    return ["a"]\n')
    assert set(Source(tmp_path).programs()) == WANTED.get(case, {"a"})


def test_a_program_that_cannot_be_determined_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def work(argv):\n    proc.run(argv, timeout=1)\n")
    with pytest.raises(UnknownError, match=r"runtime/one.py:2: argv"):
        Source(tmp_path).programs()


def test_all_of_tower_can_be_told() -> None:
    assert {"ssh", "lsblk", "mcopy", "openssl", "e2fsck", "resize2fs", "zstd", "xz", "doas"} <= set(Source().programs())
