# SPDX-License-Identifier: Apache-2.0
"""Mistakes in the files of the checkout: all are shown at once, with file and key, before anything runs."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Tiny

CONFIG_ERROR = 10


def test_an_unknown_key(tiny: Tiny) -> None:
    path = tiny.folder / "stages/second/stage.toml"
    path.write_text(path.read_text().replace("timeout", "timeuot"))
    said = tiny.doit(status=CONFIG_ERROR)
    assert "stages/second/stage.toml: timeuot: unknown key; do you mean 'timeout'?" in said
    assert not (tiny.folder / "build" / "store").exists()


def test_a_cycle(tiny: Tiny) -> None:
    path = tiny.folder / "pipeline/recipes/host.toml"
    path.write_text(path.read_text().replace('inputs = { first = "stage:first" }', 'inputs = { first = "stage:third" }'))
    said = tiny.doit(status=CONFIG_ERROR)
    assert "stage:second -> stage:third -> stage:second" in said or "stage:third -> stage:second -> stage:third" in said


def test_a_missing_input(tiny: Tiny) -> None:
    path = tiny.folder / "pipeline/recipes/host.toml"
    path.write_text(path.read_text().replace('inputs = { first = "stage:first" }', ""))
    said = tiny.doit(status=CONFIG_ERROR)
    assert "host.toml" in said
    assert "first" in said


def test_several_mistakes_in_several_files(tiny: Tiny) -> None:
    recipe = tiny.folder / "pipeline/recipes/host.toml"
    recipe.write_text(recipe.read_text().replace("stage:second", "stage:secnod") + "\nodd = 1\n")
    tiny.write("stages/first/stage.toml", "summary = 1\ncommand = []\n")
    tiny.write("stages/second/stage.toml", "summary = [\n")
    said = tiny.doit(status=CONFIG_ERROR)
    for words in (
        "stages/first/stage.toml: summary",
        "stages/first/stage.toml: command",
        "stages/second/stage.toml: not TOML",
        "odd",
    ):
        assert words in said, said


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("channel=moon", "there is no such channel"),
        ("target=moon", "there is no such target"),
        ("compress=moon", "unknown"),
        ("moon=1", "there is no such variable"),
    ],
)
def test_words_of_the_command_line(tiny: Tiny, word: str, message: str) -> None:
    said = tiny.doit(word, status=CONFIG_ERROR)
    assert message in said
    assert "hint:" in said
