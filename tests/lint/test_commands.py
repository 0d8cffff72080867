# SPDX-License-Identifier: Apache-2.0
"""What a new command of `tower` must bring along."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from tower.cli import main, manual

_GENERATED = {"acceptance.md"}


def test_the_table_is_sorted() -> None:
    assert list(main.COMMANDS) == sorted(main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_has_examples(name: str) -> None:
    examples = getattr(importlib.import_module(f"tower.cli.commands.{name.replace('-', '_')}"), "EXAMPLES", "")
    assert examples.startswith("examples:\n"), "its EXAMPLES begin with a line `examples:`"
    assert f"  tower {name}" in examples
    assert max(map(len, examples.splitlines())) <= 124, "a line is too long for a man page"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_is_described_in_the_docs(checkout: Path, name: str) -> None:
    pages = [path for path in (checkout / "docs").glob("*.md") if path.name not in _GENERATED]
    assert any(f"`tower {name}" in path.read_text() or f"    tower {name}" in path.read_text() for path in pages)


def test_each_command_has_a_manual_page() -> None:
    found = {page.words[1]: page for page in manual.pages() if len(page.words) > 1}
    assert found.keys() == main.COMMANDS.keys()
    for page in found.values():
        assert page.usage.startswith(f"tower {page.words[1]} ")
        assert any(block.title == "examples" for block in page.blocks)
        # Each option and argument has its help, and so its line on the page.
        mute = [row for group in page.groups for row, text in group.rows if not text]
        assert not mute, f"tower {page.words[1]}: no help for {', '.join(mute)}"
