# SPDX-License-Identifier: Apache-2.0
"""Which words of a command line are variables of the factory, and which belong to a program that a task starts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doit import doit_cmd

from pipeline.cli.front import Doit


@pytest.fixture(autouse=True)
def own_variables() -> Iterator[None]:
    before = dict(doit_cmd._CMDLINE_VARS or {})
    yield
    doit_cmd.reset_vars()
    for name, value in before.items():
        doit_cmd.set_var(name, value)


@pytest.mark.parametrize(
    ("words", "variables", "kept"),
    [
        ("host target=pc", {"target": "pc"}, "host"),
        ("odd=1 host", {"odd": "1"}, "host"),
        ("json=1 sim:ssh web a=b", {"json": "1"}, "sim:ssh web a=b"),
        ("sim:ssh json=1 web a=b json=1 c=d", {"json": "1"}, "sim:ssh web a=b json=1 c=d"),
        ("sim:ssh odd=1 web", {"odd": "1"}, "sim:ssh web"),
        ("-v sim:ssh web a=b", {}, "-v sim:ssh web a=b"),
        ("sim:screen thinclient a=b", {"a": "b"}, "sim:screen thinclient"),
        ("test tests/x.py::test[a=b] json=1", {"json": "1"}, "test tests/x.py::test[a=b]"),
        ("test -x -- --durations=5 key=value", {"key": "value"}, "test -x -- --durations=5"),
        ("odd=1 test tests", {"odd": "1"}, "test tests"),
    ],
)
def test_words_with_an_equals_sign(words: str, variables: dict[str, str], kept: str) -> None:
    assert Doit.process_args(words.split()) == kept.split()
    assert variables == doit_cmd._CMDLINE_VARS
