# SPDX-License-Identifier: Apache-2.0
"""Words that name no task, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.cli.typo import names_of, unknown

KNOWN = ("list", "host", "host:rpi", "stage:host-root", "stage:iso", "boot:host-pc", "test")


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("hsot", "did you mean host?"),
        ("lst", "did you mean list?"),
        ("host:rip", "did you mean host:rpi or host?"),
        ("iso", "did you mean stage:iso?"),
        ("host-root", "did you mean stage:host-root or host?"),
        ("boot:host-pcc", "did you mean boot:host-pc"),
    ],
)
def test_names_that_look_like_it(word: str, near: str) -> None:
    error = unknown(word, KNOWN)
    assert error.message == f"{word}: there is no such task"
    assert error.hint.startswith(near)
    assert error.hint.endswith("./ci/doit list shows all tasks")


def test_without_a_similar_name_the_hint_is_the_list_of_tasks() -> None:
    assert unknown("xyzzy", KNOWN).hint == "./ci/doit list shows all tasks"


def test_names_of_tasks_and_groups() -> None:
    made: list[dict[str, Any]] = [{"basename": "host", "name": None}, {"basename": "host", "name": "rpi"}, {"basename": "gc"}]
    assert names_of(made) == ["host", "host:rpi", "gc"]
